package doctor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

func TestSightIn(t *testing.T) {
	const ( // on what each is mounted says its second number
		v2      = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
		tmpfs   = "30 25 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
		v1      = "31 30 0:28 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids\n"
		view2   = "40 25 0:50 / /sys/fs/cgroup rw - fuse.cgroup2 vcgroupfs rw\n"
		view1   = "41 25 0:51 / /sys/fs/cgroup rw - fuse.cgroup vcgroupfs rw\n"
		overV2  = "40 30 0:50 / /sys/fs/cgroup rw - fuse.cgroup2 vcgroupfs rw\n"
		overV1  = "9 30 0:51 / /sys/fs/cgroup rw - fuse.cgroup vcgroupfs rw\n" // made before what it covers
		tmpfs2  = "50 30 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
		part    = "42 30 0:51 /pids /sys/fs/cgroup/pids rw - fuse.cgroup vcgroupfs rw\n"
		part2   = "42 50 0:51 /pids /sys/fs/cgroup/pids rw - fuse.cgroup vcgroupfs rw\n"
		hostsV1 = "31 30 0:28 /../.. /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
		hostsV2 = "30 25 0:26 /../.. /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
		over40  = "60 40 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
	)
	for in, want := range map[string]Sight{
		"": None, "1 2 0:1 / / rw - ext4 /dev/vda rw\n": None, v2: V2, tmpfs + v1: V1, view2: View, v2 + overV2: Stacked, view1: Dirs, hostsV2 + overV2: View,
		tmpfs + part: Tmpfs, tmpfs + v1 + overV1: StackedDirs, overV1 + tmpfs + v1: StackedDirs, tmpfs + hostsV1 + overV1: Dirs,
		tmpfs + v1 + tmpfs2 + part2: StackedTmpfs, tmpfs + hostsV1 + tmpfs2 + part2: Tmpfs, tmpfs: None, view2 + over40: None,
	} {
		mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(in), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := sightIn(mounts); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

// TestBesideV1: a view of v2 is another sight to a process that is in v1 hierarchies, too.
func TestBesideV1(t *testing.T) {
	for _, c := range []struct {
		lines      string
		sight, now Sight
	}{
		{"0::/\n", View, View}, {"0::/\n", Stacked, Stacked}, {"4:memory:/\n0::/\n", View, Lent}, {"1:name=systemd:/\n0::/\n", Stacked, Stacked},
		{"4:memory:/\n", V1, V1}, {"4:memory:/\n0::/\n", StackedDirs, StackedDirs},
		{"2:devices:/\n0::/\n", View, View}, {"2:cpu,cpuacct:/\n0::/\n", Stacked, StackedLent},
	} {
		if got := besideV1(c.sight, c.lines); got != c.now {
			t.Errorf("%s with %q: %s, want %s", c.sight, c.lines, got, c.now)
		}
	}
}

// TestClients: every client has a verdict for every sight, says what to do where it has no good one, and accepts what it does with the
// type right where it accepts it with FUSE's.
func TestClients(t *testing.T) {
	for _, c := range Clients() {
		fine := true
		for _, s := range Sights {
			plain, typed := c.Verdicts[s.Sight], c.Typed[s.Sight]
			if plain == "" || typed == "" {
				t.Errorf("%s has no verdict on %s: %q, %q", c.Name, s.Sight, plain, typed)
			}
			if plain == Yes && typed != Yes {
				t.Errorf("%s: %s with FUSE's type, %s with the right one", c.Name, plain, typed)
			}
			if (plain == Unknown || typed == Unknown) && (c.WasRun(s.Sight, plain != Unknown)) {
				t.Errorf("%s was run on %s, and its verdict is unknown", c.Name, s.Sight)
			}
			fine = fine && plain == Yes
		}
		for _, s := range lentSights {
			if plain, typed := c.Verdicts[s.Sight], c.Typed[s.Sight]; plain == Yes && typed != Yes || (plain == "" || typed == "") {
				t.Errorf("%s on %s: %q with FUSE's type, %q with the right one", c.Name, s.Sight, plain, typed)
			}
		}
		if fine == (c.Instead != "") {
			t.Errorf("%s: what to do instead is %q", c.Name, c.Instead)
		}
		for _, r := range c.Run {
			if r.What == "" || r.Type == "" || len(r.On) == 0 || r.Test != "" && r.Kernel == "" {
				t.Errorf("%s: %+v", c.Name, r)
			}
		}
	}
}

// TestDocumented: docs/clients.md has the same table. VCGROUPFS_UPDATE=1 writes it there.
func TestDocumented(t *testing.T) {
	const file, begin, end = "../../../docs/clients.md", "<!-- doctor's table: begin -->\n", "<!-- doctor's table: end -->\n"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(raw), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	if table == Markdown() {
		return
	}
	if os.Getenv("VCGROUPFS_UPDATE") == "" {
		t.Fatalf("%s has another table than doctor; VCGROUPFS_UPDATE=1 go test ./cmd/internal/doctor writes it", file)
	}
	if err := os.WriteFile(file, []byte(before+begin+Markdown()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRightOf: BPF is seen from outside, a notification is not.
func TestRightOf(t *testing.T) {
	for _, c := range []struct {
		number   int64
		err      error
		filtered bool
		want     Right
		says     string
	}{
		{unix.CGROUP2_SUPER_MAGIC, nil, true, RightYes, "0x63677270"}, {unix.TMPFS_MAGIC, nil, false, RightYes, "by BPF"},
		{unix.FUSE_SUPER_MAGIC, nil, false, RightNo, "no seccomp filter"}, {unix.FUSE_SUPER_MAGIC, nil, true, RightUnknown, "if that notifies"},
		{0, unix.ENOTCONN, false, RightUnknown, "not connected"},
	} {
		right, check := rightOf("x", c.number, c.err, c.filtered)
		if right != c.want || !strings.Contains(check.Found, c.says) || (check.State == OK) != (check.Do == "") {
			t.Errorf("%+v: %s, %+v", c, right, check)
		}
	}
	if right, check := TypeOf(context.Background(), "/nowhere", os.Getpid(), V2); right != RightYes || check.State != OK {
		t.Errorf("%s, %+v", right, check)
	}
}

// Every sight has words for readers.
func TestSightText(t *testing.T) {
	sights := []Sight{None, V2, V1}
	for _, s := range slices.Concat(Sights, lentSights) {
		sights = append(sights, s.Sight)
	}
	for _, s := range sights {
		if s.Text() == "" {
			t.Errorf("%q has no text", s)
		}
	}
	if len(sights) != len(sightTexts) {
		t.Errorf("%d sights, %d texts", len(sights), len(sightTexts))
	}
}

func TestHost(t *testing.T) {
	checks := Host(context.Background(), filepath.Join(t.TempDir(), "none"))
	for _, c := range checks {
		if c.Name == "" || c.Found == "" || c.State != OK && c.Do == "" || c.State == OK && c.Do != "" {
			t.Errorf("%+v", c)
		}
	}
	if len(checks) < 8 {
		t.Errorf("only %d checks", len(checks))
	}
	if sight, err := SightOf(os.Getpid()); err != nil || sight == "" {
		t.Errorf("%q, %v", sight, err)
	}
	if _, err := SightOf(1 << 22); err == nil {
		t.Error("of a process that is not there")
	}
}
