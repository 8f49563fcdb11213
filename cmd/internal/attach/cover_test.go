package attach

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// TestBare: what of a mount table is to be covered.
func TestBare(t *testing.T) {
	self, view, foreign := unix.Mkdev(0, 50), unix.Mkdev(0, 51), unix.Mkdev(0, 52)
	c := Cover{Device: self, Foreign: func(device uint64) bool { return device == foreign }}
	line := func(id, parent int, device uint64, at string) string {
		return fmt.Sprintf("%d %d %d:%d / %s rw - fuse x rw\n", id, parent, unix.Major(device), unix.Minor(device), at)
	}
	for name, x := range map[string]struct {
		table string
		want  string
		err   error
	}{
		"nothing": {line(2, 1, view, "/a"), "[]", nil},
		"bare":    {line(2, 1, self, "/a") + line(3, 1, self, "/b"), "[2 3]", nil},
		"covered": {line(2, 1, self, "/a") + line(3, 2, view, "/a") + line(4, 1, self, "/b"), "[4]", nil},
		"over":    {line(2, 1, self, "/a") + line(3, 2, unix.Mkdev(8, 1), "/a"), "[]", nil},
		"self on": {line(2, 1, self, "/a") + line(3, 2, self, "/a"), "[3]", nil},
		"foreign": {line(2, 1, self, "/a") + line(3, 2, foreign, "/a") + line(4, 1, self, "/b"), "[]", ErrNotTheirs},
		"another": {line(2, 1, foreign, "/a") + line(3, 1, self, "/b"), "[3]", nil},
		"many":    {strings.Repeat(line(2, 1, self, "/a"), 3*maxCovers), fmt.Sprint(make([]struct{}, maxCovers)), nil},
	} {
		mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(x.table), nil)
		if err != nil {
			t.Fatal(err)
		}
		bare, err := c.bare(mounts)
		ids := []int{}
		for _, m := range bare {
			ids = append(ids, m.ID)
		}
		if name == "many" {
			if len(bare) != maxCovers {
				t.Errorf("of many: %d", len(bare))
			}
			continue
		}
		if fmt.Sprint(ids) != x.want || !errors.Is(err, x.err) {
			t.Errorf("%s: %v, %v; want %s, %v", name, ids, err, x.want, x.err)
		}
	}
}
