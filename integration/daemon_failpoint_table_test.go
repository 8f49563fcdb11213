package integration

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// crossedAttr is the extended attribute that a guest sets.
const crossedAttr = "trusted.crossed"

// crossedOp is an operation that is crossed: all happens in the cgroup w of the boundary.
type crossedOp struct {
	name    string
	point   string                          // before the dash, where it is not the name
	v1      bool                            // there is no such operation on v2
	prepare func(x *crossing)               // on the host, before
	open    string                          // a file that the guest opens before
	do      func(x *crossing) string        // by the guest
	state   func(x *crossing) string        // of the host
	want    string                          // state after it
	effect  func() (uint32, string, string) // what inotify tells of its effect: mask, in which directory or of which file, which name
}

func crossedOps() []crossedOp {
	children := func(x *crossing) string {
		names := kit.CgroupsIn(x.real(""))
		for i, name := range names {
			if x.madeIno != 0 && inode(x.real(name)) == x.madeIno {
				names[i] += " of the host"
			}
		}
		return strings.Join(names, ", ")
	}
	value := func(x *crossing) string { return strings.TrimSpace(kit.ReadFile(x.real("n/pids.max"))) }
	attr := func(x *crossing) string { return attrOf(x.real("n"), x.stored) }
	makeN := func(x *crossing) { x.must(x.site.Pids.Create(x.site.Path+"/w/n", 0o755)) }
	none := func() (uint32, string, string) { return 0, "", "" }
	in := func(mask uint32, at, name string) func() (uint32, string, string) {
		return func() (uint32, string, string) { return mask, at, name }
	}
	return []crossedOp{
		{name: "mkdir", state: children, want: "n", effect: in(unix.IN_CREATE, "", "n"),
			do: func(x *crossing) string { return kit.Word(unix.Mkdir(x.seen("n"), 0o755)) }},
		{name: "rmdir", prepare: makeN, state: children, effect: in(unix.IN_DELETE, "", "n"),
			do: func(x *crossing) string { return kit.Word(unix.Rmdir(x.seen("n"))) }},
		{name: "rename", v1: true, prepare: makeN, state: children, want: "m", effect: in(unix.IN_MOVED_FROM, "", "n"),
			do: func(x *crossing) string { return kit.Word(unix.Rename(x.seen("n"), x.seen("m"))) }},
		{name: "write", prepare: makeN, open: "n/pids.max", state: value, want: "7", effect: in(unix.IN_MODIFY, "n/pids.max", ""),
			do: func(x *crossing) string { _, err := unix.Pwrite(x.fd, []byte("7"), 0); return kit.Word(err) }},
		{name: "move", point: "write", open: "n/" + kit.Procs, want: "/w/n", effect: in(unix.IN_MODIFY, "n/"+kit.Procs, ""),
			prepare: func(x *crossing) {
				makeN(x)
				for _, name := range []string{"/w/from", "/w/elsewhere"} {
					x.must(x.site.Pids.Create(x.site.Path+name, 0o755))
				}
				x.pid = kit.StartSleeper(x.t)
				x.attach("/w/from")
			},
			do: func(x *crossing) string {
				_, err := unix.Write(x.fd, []byte(strconv.Itoa(x.pid)))
				return kit.Word(err)
			},
			state: func(x *crossing) string {
				at, err := x.site.Pids.PathOf(x.pid)
				return strings.TrimPrefix(at, x.site.Path) + kit.ErrnoName(err)
			}},
		{name: "setxattr", prepare: makeN, state: attr, want: "7", effect: in(unix.IN_ATTRIB, "n", ""),
			do: func(x *crossing) string {
				return kit.Word(unix.Setxattr(x.seen("n"), crossedAttr, []byte("7"), unix.XATTR_CREATE))
			}},
		{name: "removexattr", state: attr, want: "ENODATA", effect: in(unix.IN_ATTRIB, "n", ""),
			prepare: func(x *crossing) { makeN(x); x.setAttr("5") },
			do:      func(x *crossing) string { return kit.Word(unix.Removexattr(x.seen("n"), crossedAttr)) }},
		{name: "open", prepare: makeN, want: "7", effect: none,
			do: func(x *crossing) string {
				var err error
				x.fd, err = unix.Open(x.seen("n/pids.max"), unix.O_RDWR|unix.O_CLOEXEC, 0)
				return kit.Word(err)
			},
			state: func(x *crossing) string { // what was opened must work
				if _, err := unix.Pwrite(x.fd, []byte("7"), 0); err != nil {
					return kit.ErrnoName(err)
				}
				return value(x)
			}},
		{name: "release", prepare: makeN, open: "n/pids.max", want: "0 open", effect: none,
			do: func(x *crossing) string {
				err := unix.Close(x.fd)
				x.fd = -1
				return kit.Word(err)
			},
			state: func(x *crossing) string { // the kernel does not wait for it
				var g struct{ Open int }
				for deadline := time.Now().Add(kit.Patience); ; time.Sleep(5 * time.Millisecond) {
					err := x.d.Call("GET", "/v1/guests/crossed", nil, &g)
					if err == nil && g.Open == 0 || time.Now().After(deadline) {
						return fmt.Sprintf("%d open%s", g.Open, kit.ErrnoName(err))
					}
				}
			}},
	}
}

// interference is what the host does while no worker lives.
type interference struct {
	op, points string
	what       string
	do         func(x *crossing)
	answers    []string
	states     []string // of the host at the end
	effects    []int    // of the guest's operation
}

func interferences() []interference {
	write := func(x *crossing) { x.must(x.site.Pids.WriteFile(x.site.Path+"/w/n", "pids.max", "50")) }
	makes := func(name string) func(x *crossing) {
		return func(x *crossing) {
			x.must(unix.Mkdir(x.real(name), 0o755))
			x.madeIno = inode(x.real(name))
		}
	}
	removes := func(name string) func(x *crossing) { return func(x *crossing) { x.must(unix.Rmdir(x.real(name))) } }
	both := func(a, b func(x *crossing)) func(x *crossing) { return func(x *crossing) { a(x); b(x) } }
	ok, once, never, either := []string{"ok"}, []int{1}, []int{0}, []int{0, 1}
	const made = "made done replied"
	return []interference{
		// The host never saw the guest's value, so either may have come first.
		{"write", "begun", "writes another value", write, ok, []string{"7", "50"}, either},
		{"write", made, "writes another value", write, ok, []string{"50"}, once},
		{"move", "begun", "moves the task elsewhere", func(x *crossing) { x.attach("/w/elsewhere") }, ok, []string{"/w/n", "/w/elsewhere"}, either},
		{"move", made, "moves the task elsewhere", func(x *crossing) { x.attach("/w/elsewhere") }, ok, []string{"/w/elsewhere"}, once},
		{"mkdir", "begun", "makes the same name", makes("n"), []string{"EEXIST"}, []string{"n of the host"}, never},
		{"mkdir", made, "removes it", removes("n"), ok, []string{""}, once},
		// Whose the cgroup is that stands there, nothing tells.
		{"mkdir", "made", "removes it and makes it anew", both(removes("n"), makes("n")), []string{"EEXIST", "ok"}, []string{"n of the host"}, once},
		{"mkdir", "done replied", "removes it and makes it anew", both(removes("n"), makes("n")), ok, []string{"n of the host"}, once},
		// Nor who removed it: both are told that they did.
		{"rmdir", "begun", "removes it", removes("n"), []string{"ok", "ENOENT"}, []string{""}, never},
		{"rmdir", made, "makes the same name anew", makes("n"), ok, []string{"n of the host"}, once},
		{"rename", "begun", "makes the new name", makes("m"), []string{"EEXIST"}, []string{"m of the host, n"}, never},
		{"rename", made, "makes the old name anew", makes("n"), ok, []string{"m, n of the host"}, once},
		{"rename", made, "renames it once more", func(x *crossing) { x.must(unix.Rename(x.real("m"), x.real("o"))) }, ok, []string{"o"}, once},
		{"rename", made, "removes it", removes("m"), ok, []string{""}, once},
		{"setxattr", "begun", "sets the same attribute", func(x *crossing) { x.setAttr("50") }, []string{"EEXIST"}, []string{"50"}, never},
		// The attributes are the server's own, for the guest: a host that changes them within those milliseconds is not told apart.
		{"setxattr", "done replied", "sets another value", func(x *crossing) { x.setAttr("50") }, ok, []string{"50"}, once},
		{"setxattr", "done replied", "removes the attribute", func(x *crossing) { x.must(unix.Removexattr(x.real("n"), x.stored)) }, ok, []string{"ENODATA"}, once},
		{"removexattr", "begun", "removes the attribute", func(x *crossing) { x.must(unix.Removexattr(x.real("n"), x.stored)) }, []string{"ok", "ENODATA"}, []string{"ENODATA"}, either}, // what the cgroup's attributes take is put right
		{"removexattr", "done replied", "sets the attribute anew", func(x *crossing) { x.setAttr("50") }, ok, []string{"50"}, once},
		{"open", "begun", "removes the cgroup", removes("n"), []string{"ENOENT", "ENODEV"}, []string{"EBADF"}, never},
		{"open", made, "removes the cgroup", removes("n"), []string{"ok", "ENOENT", "ENODEV"}, []string{"ENODEV", "EBADF"}, never},
	}
}
