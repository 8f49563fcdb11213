package holder

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
	"github.com/vcgroupfs/vcgroupfs/fs"
)

// typedPair is a worker on a link, and the holder's end of that.
func typedPair(t *testing.T, types *Types) (*Worker, *link) {
	t.Helper()
	theirs, ours := pair(t)
	w := newWorker(ours)
	w.types = typesOf(types)
	go w.Follow(func() {}, func() {})
	return w, theirs
}

// TestShow: a view goes to the holder with its descriptor and its types, and the worker is told what came of it.
func TestShow(t *testing.T) {
	w, holder := typedPair(t, &Types{Loaded: true})
	h := &Holder{statfs: statfs{report: Types{Reason: "the reason"}}}
	before := openFiles(t)
	closed := make(chan struct{}) // when the holder has closed the view
	go func() {
		defer close(closed)
		buf, oob := receiveBuffers()
		m, err := holder.receive(buf, oob)
		is := strings.HasPrefix(string(m.text), `{"types":[16914836,0,`)
		if err != nil || m.kind != msgShow || len(m.fds) != 1 || !is {
			t.Errorf("%+v, %v", m, err)
		}
		h.handleWorkerMessage(&process{link: holder}, m)
	}()
	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	err = w.Show(int(dir.Fd()), fstype.View{Types: fs.Types{0x01021994}})
	if err == nil || err.Error() != "the reason" {
		t.Errorf("a holder without programs answers %v", err)
	}
	dir.Close()
	<-closed
	if now := openFiles(t); now > before { // those of the tests before go late
		t.Errorf("%d descriptors, %d before", now, before)
	}
}

// TestShowVersions: a holder that does not know views is not asked, and one that does not answer is not waited for
// without end; what a later worker says is passed over, and its descriptors are closed.
func TestShowVersions(t *testing.T) {
	w, _ := typedPair(t, nil)
	if err := w.Show(0, fstype.View{}); err == nil || !strings.Contains(err.Error(), "earlier version") {
		t.Errorf("an earlier holder: %v", err)
	}
	w, _ = typedPair(t, &Types{Loaded: true})
	began := time.Now()
	err := w.Show(0, fstype.View{})
	if err == nil || !strings.Contains(err.Error(), "does not answer") || time.Since(began) > 3*showWait {
		t.Errorf("a holder that says nothing: %v after %v", err, time.Since(began))
	}
	if len(w.shows.waiting) != 0 {
		t.Error("it is still waited for")
	}
	before := openFiles(t)
	fd, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	(&Holder{}).handleWorkerMessage(&process{}, message{kind: 'Z', items: []item{{}}, fds: []int{int(fd.Fd())}})
	if now := openFiles(t); now > before { // those of the tests before go late
		t.Errorf("%d descriptors, %d before", now, before)
	}
	if err := fd.Close(); !errors.Is(err, os.ErrClosed) && err == nil {
		t.Error("the descriptor was not closed")
	}
}
