package kit

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// RoleVariable makes the test binary a helper process.
const RoleVariable = "VCGROUPFS_TEST_ROLE"

// Role is what the test binary does as a helper process, with the argument that follows the role's name.
type Role func(arg string)

// helperRole is the role of this process, "" for the tests themselves.
var helperRole = onFirstThread(os.Getenv(RoleVariable))

// onFirstThread keeps a helper on its first thread, about which /proc/<pid> tells. Only while packages are initialized
// is the main goroutine on that thread for certain.
func onFirstThread(role string) string {
	if role != "" {
		runtime.LockOSThread()
	}
	return role
}

// sharedRoles are those that the tests of more than one file start.
var sharedRoles = map[string]Role{
	"threads":  playThreads,
	"read":     func(path string) { fmt.Print(ReadFile(path)) },
	"commands": func(string) { playCommands() },
	"script":   playScript,
	"flood":    playFlood,
	"nest":     playNest,
	"pause":    playPause,
}

// play plays a role, "NAME ARGUMENT", of one of the tables.
func play(text string, tables ...map[string]Role) {
	name, arg, _ := strings.Cut(text, " ")
	for _, table := range tables {
		if do := table[name]; do != nil {
			do(arg)
			return
		}
	}
	fmt.Fprintf(os.Stderr, "no role is called %q\n", name)
	os.Exit(2)
}

// Reported is a role that ends the process with status 1 on an error.
func Reported(do func(arg string) error) Role {
	return func(arg string) {
		if err := do(arg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// playThreads starts a thread for each letter of its argument, prints their ids, and waits for its input to end.
func playThreads(letters string) {
	for n := 0; n < len(letters); {
		c := make(chan int)
		go func() {
			runtime.LockOSThread()
			c <- unix.Gettid()
			select {}
		}()
		if tid := <-c; tid != os.Getpid() { // the first thread is the process to cgroups
			fmt.Print(tid, " ")
			n++
		}
	}
	fmt.Println()
	io.Copy(io.Discard, os.Stdin)
}

// playPause does nothing until it is told to end.
func playPause(string) {
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	<-end
}

// playScript plays the commands of the file /in and writes what came of them to the file /out.
func playScript(string) {
	os.Stdin, _ = os.Open("/in")
	os.Stdout, _ = os.OpenFile("/out", os.O_WRONLY, 0)
	playCommands()
}
