package daemon

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

func newFollowed(t *testing.T) (x *declarations, g *fakeGuests, log *logged) {
	t.Helper()
	g, log = newFakeGuests(), &logged{}
	l := logrus.New()
	l.SetOutput(log)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	x = newDeclarations(g, logrus.NewEntry(l), paths{"/run/x"}, dir, func() {})
	x.owner = uint32(os.Getuid())
	return x, g, log
}

// TestFollowDeclared: what each change of the directory does to the guests, and what the log says, once.
func TestFollowDeclared(t *testing.T) {
	x, g, log := newFollowed(t)
	g.put(&guest{record: record{Name: "hand"}})
	remove := func(name string) {
		t.Helper()
		if err := os.Remove(x.dir + "/" + name); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		what      string
		do        func()
		did, says string
	}{
		{"nothing", func() {}, "", ""},
		{"a new file", func() { write(t, x.dir, "web.yaml", "boundary: /web\n") }, "add web", ""},
		{"an unchanged one", func() {}, "", ""},
		{"the same again", func() { write(t, x.dir, "web.yaml", "{boundary: /web}\n") }, "", ""},
		{"a changed one", func() { write(t, x.dir, "web.yaml", "boundary: /other\n") }, "removed web: its file was changed; add web", ""},
		{"a wrong one", func() { write(t, x.dir, "web.yaml", "boundry: /x\n") }, "", `unknown key "boundry"`},
		{"a wrong one still", func() {}, "", ""},
		{"a policy that is not there", func() { write(t, x.dir, "web.yaml", "boundary: /web\npolicy: p.yaml\n") }, "", "cannot read its policy"},
		{"its policy", func() {
			write(t, x.dir, "p.yaml", "version: 1\n")
			write(t, x.dir, "web.yaml", "boundary: /web\npolicy: p.yaml\n# more\n")
			write(t, x.dir, ".web.yaml", "")
		}, "removed web: its file was changed; add web", `p.yaml declares" error="line 1, column 1: unknown key "version"`},
		{"no file", func() { remove("web.yaml") }, "removed web: its file was removed", ""},
		{"a guest by hand", func() { write(t, x.dir, "hand.yaml", "boundary: /x\n") }, "", "there is a guest hand, made by hand; remove it first"},
		{"a wrong name", func() { write(t, x.dir, "memory.max.yaml", "boundary: /x\n") }, "", "cannot use the name"},
		{"mistaken suffixes", func() { write(t, x.dir, "a.YML", ""); write(t, x.dir, "b.json", "") }, "", "a.YML is not read: the file of a guest is called NAME.yaml"},
		{"mistaken suffixes still", func() {}, "", ""},
		{"a directory that others may write to", func() { os.Chmod(x.dir, 0o777) }, "", "cannot read the directory of guests; they stay as they are"},
		{"still", func() {}, "", ""},
		{"mended", func() { os.Chmod(x.dir, 0o755); remove("hand.yaml") }, "", ""},
	} {
		step.do()
		x.follow()
		did, said := g.done(), log.since()
		if did != step.did || (said == "") != (step.says == "") || !strings.Contains(strings.ReplaceAll(said, `\"`, `"`), step.says) {
			t.Errorf("%s: %q, log %s; want %q, %q", step.what, did, said, step.did, step.says)
		}
	}
	if at := x.paths.targetOf("web"); at != "/run/x/views/web" {
		t.Error(at)
	}
	none := newDeclarations(g, x.log, x.paths, "", func() {})
	none.follow()
	none.dir = x.dir + "/none"
	none.follow()
	if did, said := g.done(), log.since(); did != "" || said != "" {
		t.Errorf("without a directory: %q, %q", did, said)
	}
}

// TestDeclaredAgain: a guest that cannot be added is tried again, silently, and one that has ended with its boundary is
// added again.
func TestDeclaredAgain(t *testing.T) {
	x, g, log := newFollowed(t)
	both := func(did string) bool { return did == "add once; add web" || did == "add web; add once" }
	g.fail = errTest
	write(t, x.dir, "web.yaml", "boundary: /web\n")
	write(t, x.dir, "once.yaml", "pid: 7\n")
	x.follow()
	if did, said := g.done(), log.since(); !both(did) || strings.Count(said, "it broke") != 2 {
		t.Error(did, said)
	}
	due := func(name string) { x.files[name].retry = time.Now().Add(-time.Millisecond) }
	x.follow()
	due("web")
	x.follow()
	if did, said := g.done(), log.since(); did != "add web" || said != "" {
		t.Errorf("%q, %q: want one more try, not told", did, said)
	}
	g.fail = nil
	due("web")
	due("once")
	x.follow()
	if did := g.done(); !both(did) {
		t.Error(did)
	}
	for _, name := range []string{"web", "once"} {
		g.forget(g.named(name))
	}
	x.follow()
	if did := g.done(); did != "" || x.files["web"].retry.IsZero() || !x.files["once"].retry.IsZero() {
		t.Errorf("%q: want the boundary's guest later, and the process's never", did)
	}
	due("web")
	x.follow()
	if did := g.done(); did != "add web" || g.named("web").record.Spec.Target != "/run/x/views/web" || !g.named("web").record.Declared {
		t.Error(did)
	}
	if m := g.named("web").record.maker(); m.By != api.ByDeclared {
		t.Error(m)
	}
}

// TestReadTrusted: only a regular file of a bounded size is read, and a FIFO makes nobody wait.
func TestReadTrusted(t *testing.T) {
	dir := t.TempDir()
	owner := uint32(os.Getuid())
	write(t, dir, "large", strings.Repeat("x", maxDeclared+1))
	for path, says := range map[string]string{dir: "is no file", dir + "/large": "is no file of at most 65536 bytes",
		dir + "/none": "no such file", "/dev/zero": "is no file"} {
		_, err := readTrusted(path, owner)
		wantFault(t, path, err, says)
	}
	write(t, dir, "good", "x")
	_, err := readTrusted(dir+"/good", owner+1)
	wantFault(t, "another's", err, "belongs to user")
	if text, err := readTrusted(dir+"/good", owner); string(text) != "x" || err != nil {
		t.Error(string(text), err)
	}
}
