#!/bin/sh
# Linux 6.18: SECCOMP_ADDFD_FLAG_SEND gives the caller of a stopped system call a descriptor and answers the call, "in one step"
# (seccomp_unotify(2)). When a signal ends the supervisor's wait for the caller to take the descriptor, the kernel takes the descriptor back
# and leaves the answer: the call returns 0, as if its caller had opened its own standard input. The ioctl fails with EINPROGRESS.
#
#	sh findings/seccomp-addfd-send-signal.sh	# as root, with Go, at least two processors
#
# Seen on Linux 6.18: "without a signal: a new descriptor, ioctl 0" and "with a signal: 0, ioctl EINPROGRESS". The caller is kept from running
# meanwhile, as a busy machine does by chance. Who answers an open should give the descriptor first (SECCOMP_IOCTL_NOTIF_ADDFD without the
# flag, which can be repeated) and answer then. Ends with 1 when a line differs.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/go.mod" <<-EOF
	module addfd
	go 1.24
	require golang.org/x/sys v0.35.0
EOF
cat >"$work/main.go" <<-'EOF'
	package main

	import (
		"fmt"
		"os"
		"os/exec"
		"os/signal"
		"runtime"
		"sync/atomic"
		"time"
		"unsafe"

		"golang.org/x/sys/unix"
	)

	func must(errno error) {
		if errno != nil && errno != unix.Errno(0) {
			panic(errno)
		}
	}

	// on pins this thread to a processor.
	func on(cpu int) {
		runtime.LockOSThread()
		var set unix.CPUSet
		set.Set(cpu)
		must(unix.SchedSetaffinity(0, &set))
	}

	func policy(policy, priority uint32) {
		must(unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority}, 0))
	}

	// caller stops at memfd_create, and prints what that returns. It runs only when nobody else wants its processor.
	func caller() {
		on(0)
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_MEMFD_CREATE},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		must(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
		must(errno)
		must(unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(listener)), nil, 0))
		unix.Close(int(listener))
		unix.Close(3)
		policy(unix.SCHED_IDLE, 0)
		name := []byte("x\x00")
		got, _, errno := unix.Syscall(unix.SYS_MEMFD_CREATE, uintptr(unsafe.Pointer(&name[0])), 0, 0)
		must(errno)
		fmt.Println(got)
	}

	// answer has a caller given the descriptor of /dev/null while another thread keeps it from running, with a signal to this
	// thread meanwhile or without.
	func answer(withSignal bool) string {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(err)
		cmd := exec.Command("/proc/self/exe", "caller")
		cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(pair[1]), "socket")}
		out, err := cmd.StdoutPipe()
		must(err)
		cmd.Stderr = os.Stderr
		must(cmd.Start())
		rights := make([]byte, 64)
		_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), rights, 0)
		must(err)
		messages, err := unix.ParseSocketControlMessage(rights[:n])
		must(err)
		fds, err := unix.ParseUnixRights(&messages[0])
		must(err)
		on(1)
		var call [80]byte // struct seccomp_notif
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&call)))
		must(errno)
		busy := make(chan bool)
		var over atomic.Bool
		go func() {
			on(0)
			policy(unix.SCHED_FIFO, 1)
			close(busy)
			for end := time.Now().Add(3 * time.Second); !over.Load() && time.Now().Before(end); {
			}
			policy(unix.SCHED_NORMAL, 0)
		}()
		<-busy
		tid := unix.Gettid()
		go func() {
			for range 10 {
				time.Sleep(10 * time.Millisecond)
				if withSignal && !over.Load() {
					must(unix.Tgkill(os.Getpid(), tid, unix.SIGUSR1))
				}
			}
			over.Store(true)
		}()
		null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(err)
		add := struct {
			id                        uint64
			flags, from, at, newFlags uint32
		}{id: *(*uint64)(unsafe.Pointer(&call)), flags: unix.SECCOMP_ADDFD_FLAG_SEND, from: uint32(null)}
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), unix.SECCOMP_IOCTL_NOTIF_ADDFD, uintptr(unsafe.Pointer(&add)))
		over.Store(true)
		var got int
		fmt.Fscan(out, &got)
		must(cmd.Wait())
		if got > 2 {
			return fmt.Sprintf("a new descriptor, ioctl %d", errno)
		}
		return fmt.Sprintf("%d, ioctl %s", got, unix.ErrnoName(errno))
	}

	func main() {
		if len(os.Args) > 1 {
			caller()
			return
		}
		signal.Notify(make(chan os.Signal, 1), unix.SIGUSR1)
		fmt.Println("without a signal:", answer(false))
		got := answer(true)
		for tries := 0; tries < 20 && got[0] != '0'; tries++ { // the caller ran before the signal came
			got = answer(true)
		}
		fmt.Println("with a signal:", got)
	}
EOF
(cd "$work" && GOFLAGS=-mod=mod go mod tidy 2>/dev/null && CGO_ENABLED=0 go build -o addfd .)
"$work/addfd" | tee "$work/got"
printf '%s\n' 'without a signal: a new descriptor, ioctl 0' 'with a signal: 0, ioctl EINPROGRESS' | diff - "$work/got"
