package early

import "syscall"

// patience bounds the wait for the daemon, in seconds: that of the rest of the program (hookTimeout).
const patience = 30

// ask sends a request to the daemon and returns the status of the answer, 0 if there was none. Without an answer the
// daemon may have done what was asked.
func ask(socket string, request []byte) (status int) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer syscall.Close(fd)
	wait := syscall.Timeval{Sec: patience}
	for _, option := range []int{syscall.SO_SNDTIMEO, syscall.SO_RCVTIMEO} {
		if syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, option, &wait) != nil {
			return 0
		}
	}
	if syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}) != nil {
		return 0
	}
	for len(request) > 0 {
		n, err := again(func() (int, error) { return syscall.Write(fd, request) })
		if err != nil {
			return 0
		}
		request = request[n:]
	}
	const before, head = len("HTTP/1.1 "), len("HTTP/1.1 200 ")
	answer := make([]byte, 0, 4096)
	for len(answer) < head {
		n, err := again(func() (int, error) { return syscall.Read(fd, answer[len(answer):cap(answer)]) })
		if err != nil || n == 0 {
			return 0
		}
		answer = answer[:len(answer)+n]
	}
	if string(answer[:before]) != "HTTP/1.1 " {
		return 0
	}
	status, _ = number(answer[before : head-1])
	return status
}

// again repeats a call that a signal has interrupted. The runtime sends signals, which end a call with a timeout
// (signal(7)).
func again(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != syscall.EINTR {
			return n, err
		}
	}
}
