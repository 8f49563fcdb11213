package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// contains reports that a text has a part so many times.
func contains(text, part string, times int) bool { return strings.Count(text, part) == times }

// TestDirWatch: changes in a directory are told, also when it comes later or is replaced, and those beside it are not.
func TestDirWatch(t *testing.T) {
	told := make(chan struct{}, 1)
	w, err := newDirWatch(func() {
		select {
		case told <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.file.Close()
	top := t.TempDir()
	dir := filepath.Join(top, "etc", "guests.d")
	for _, step := range []struct {
		what string
		do   func() error
		told bool
	}{
		{"a file beside what is to come", func() error { return os.WriteFile(top+"/other", nil, 0o600) }, false},
		{"the directory above", func() error { return os.Mkdir(top+"/etc", 0o700) }, true},
		{"another directory", func() error { return os.Mkdir(top+"/etc/other", 0o700) }, false},
		{"the directory", func() error { return os.Mkdir(dir, 0o700) }, true},
		{"a file", func() error { return os.WriteFile(dir+"/web.yaml", nil, 0o600) }, true},
		{"its text", func() error { return os.WriteFile(dir+"/web.yaml", []byte("x"), 0o600) }, true},
		{"its mode", func() error { return os.Chmod(dir+"/web.yaml", 0o400) }, true},
		{"the directory's mode", func() error { return os.Chmod(dir, 0o755) }, true},
		{"another name", func() error { return os.Rename(dir, dir+".old") }, true},
		{"a file under that name", func() error { return os.Remove(dir + ".old/web.yaml") }, false},
		{"a link in its place", func() error { return os.Symlink("other", dir) }, true},
		{"a file behind the link", func() error { return os.WriteFile(dir+"/web.yaml", nil, 0o600) }, true},
	} {
		if err := w.follow(dir); err != nil {
			t.Fatal(err)
		}
		// What the watch of the last step has told late.
		time.Sleep(20 * time.Millisecond)
		select {
		case <-told:
		default:
		}
		if err := step.do(); err != nil {
			t.Fatal(step.what, err)
		}
		wait := 50 * time.Millisecond
		if step.told {
			wait = time.Minute
		}
		select {
		case <-told:
			if !step.told {
				t.Errorf("%s: told", step.what)
			}
		case <-time.After(wait):
			if step.told {
				t.Errorf("%s: not told", step.what)
			}
		}
	}
}

// TestFollowNext: files of which no event tells are looked at again: behind links, and without inotify.
func TestFollowNext(t *testing.T) {
	x, _, _ := newFollowed(t)
	if next := x.follow(); !next.IsZero() {
		t.Errorf("nothing to look at again: %v", next)
	}
	if err := os.Symlink("web", x.dir+"/web.yaml"); err != nil {
		t.Fatal(err)
	}
	if next := x.follow(); time.Until(next) > lookAgain || next.IsZero() {
		t.Errorf("a link: %v", next)
	}
	os.Remove(x.dir + "/web.yaml")
	x.watch.file.Close()
	if next := x.follow(); time.Until(next) > lookAgain || next.IsZero() {
		t.Errorf("without inotify: %v", next)
	}
}
