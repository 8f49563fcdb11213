package integration

import (
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// noticed bounds how long a test waits for what an event tells. Each minute the daemon looks at all guests anyway.
const noticed = 20 * time.Second

// notices checks that the daemon notices soon what happens to guests: each is of one cause.
func notices(t *testing.T, d *kit.Daemon, name string) {
	t.Helper()
	gone := func(guest string, do func()) {
		t.Helper()
		began := time.Now()
		do()
		took := time.Since(began)
		kit.Eventually(t, guest+" to go", func() bool { return d.Call("GET", "/v1/guests/"+guest, nil, nil) != nil })
		if since := time.Since(began); since > noticed {
			t.Errorf("%s: noticed after %v", guest, since)
		} else {
			t.Logf("%s: noticed within %v; to do it took %v", guest, since.Round(time.Millisecond), took.Round(time.Millisecond))
		}
	}
	p := kit.NewPlace(t, d, name+"-boundary")
	d.WantTry(t, 0, "", p.Add(name+"-boundary")...)
	gone(name+"-boundary", func() {
		if err := p.Hierarchy.RemoveAll(p.Path); err != nil {
			t.Fatal(err)
		}
	})
	p = kit.NewPlace(t, d, name+"-view")
	d.WantTry(t, 0, "", p.Add(name+"-view")...)
	gone(name+"-view", func() {
		if err := unix.Unmount(p.Dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	})
	x := kit.StartInsider(t, d, name+"-process")
	owner := strconv.Itoa(kit.GuestID)
	x.Add(t, name+"-process", "--owner", owner+":"+owner)
	began, real := time.Now(), kit.HostDir(x.Place.Hierarchy, x.Place.Path)
	if err := os.Chown(real, kit.GuestID, kit.GuestID); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "a boundary that was given away to be reclaimed", func() bool {
		var st unix.Stat_t
		return unix.Stat(real, &st) == nil && st.Uid == 0
	})
	if since := time.Since(began); since > noticed {
		t.Errorf("%s: reclaimed after %v", name, since)
	} else {
		t.Logf("%s: reclaimed within %v", name, since.Round(time.Millisecond))
	}
	gone(name+"-process", func() { x.Cmd.Process.Kill() })
}

// TestNoticed: with many guests the daemon notices at once that a boundary is removed or given away, that a process ends
// and that a view is unmounted; so does the next worker.
func TestNoticed(t *testing.T) {
	d := kit.StartDaemon(t)
	idleGuests(t, d, kit.Scaled(t, 200, 10))
	notices(t, d, "first")
	d.Signal(t, unix.SIGKILL, 0)
	d.Ready(t)
	notices(t, d, "next")
}

// idleGuests adds guests that do nothing.
func idleGuests(t *testing.T, d *kit.Daemon, guests int) {
	t.Helper()
	for i := range guests {
		name := "idle-" + strconv.Itoa(i)
		p := kit.NewPlace(t, d, name)
		d.WantTry(t, 0, "", p.Add(name)...)
	}
}

// TestNoticedWithoutRoom: where the kernel has no room for watches, the daemon says so and finds the same by looking.
func TestNoticedWithoutRoom(t *testing.T) {
	if kit.Scale(t) == 1 {
		t.Skip("machine: the limit is one for all of its processes; tried in virtual machines")
	}
	const limit = "/proc/sys/fs/inotify/max_user_watches"
	was := kit.ReadFile(limit)
	if err := os.WriteFile(limit, []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(limit, []byte(was), 0)
	d := kit.StartDaemon(t)
	idleGuests(t, d, 5)
	d.WantLog(t, "raise fs.inotify.max_user_watches")
	notices(t, d, "without-room")
}
