package hierarchy

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

// TestReadMounts: as the library reads it, which gives up on a line of 64 KiB; ours may be of any length.
func TestReadMounts(t *testing.T) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	const odd = `36 35 98:0 /a\040b\134 /mnt\011\012x rw,noatime master:1 shared:7 - fuse.cgroup /machines/a\043b rw,user_id=0` + "\n" +
		`37 35 0:5 / /y rw - tmpfs  rw`
	want, err := mountinfo.GetMountsFromReader(strings.NewReader(string(table)+odd), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadMounts(strings.NewReader(string(table)+odd), nil)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v\nwant\n%+v", err, got, want)
	}
	if m := got[len(got)-2]; m.Root != `/a b\` || m.Mountpoint != "/mnt\t\nx" || m.Source != "/machines/a#b" || m.Optional != "master:1 shared:7" {
		t.Errorf("%+v", m)
	}
	deep := strings.Repeat(`/`+strings.Repeat(`\012`, 255), 200)
	long := "40 35 0:7 / " + deep + " rw - fuse.cgroup2 vcgroupfs rw,user_id=0\n" + odd
	got, err = ReadMounts(strings.NewReader(long), func(m *mountinfo.Info) (skip, stop bool) { return false, m.ID == 36 })
	if err != nil || len(got) != 2 || len(got[0].Mountpoint) != 200*256 {
		t.Errorf("a line of %d bytes: %v, %d mounts", len(deep), err, len(got))
	}
}

// TestReadMountsRefuses: what is no mount table is said to be none, in few words.
func TestReadMountsRefuses(t *testing.T) {
	for _, text := range []string{"\n", "a b", "1 2 0:x / / rw - a b c", "x 2 0:1 / / rw - a b c", "1 2 0:1 / / rw a b c d e f", strings.Repeat("x", 1<<20)} {
		if got, err := ReadMounts(strings.NewReader(text), nil); err == nil || len(err.Error()) > 200 || !strings.Contains(err.Error(), "is no line of a mount table") {
			t.Errorf("%.20q: %v, %.200v", text, got, err)
		}
	}
}
