package integration

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// pieceSteps write one command in many pieces: one to a byte, and so one to a page of a FUSE request.
func pieceSteps() []step {
	var steps []step
	for _, n := range []int{15, 17, 256, 257, 300, 513, 1024} {
		steps = append(steps, step{fmt.Sprintf("writev: %d pieces", n), func(x *traceEnv) string {
			return writePieces(x.at(kit.Procs), pieces(n, strconv.Itoa(x.pid))) + x.place(x.pid) + " " + x.moved(kit.Procs, x.pid, strconv.Itoa(x.pid))
		}}, step{fmt.Sprintf("writev: %d pieces, wrong at the end", n), func(x *traceEnv) string {
			return writePieces(x.at(kit.Procs), pieces(n, strconv.Itoa(x.pid)+"x")) + x.place(x.pid)
		}})
	}
	return append(steps, step{"writev: 1025 pieces", func(x *traceEnv) string { return writePieces(x.at(kit.Procs), pieces(1025, strconv.Itoa(x.pid))) }},
		step{"writev: again by the same descriptor", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_WRONLY, func(fd int) string {
				first, err := unix.Writev(fd, pieces(300, strconv.Itoa(x.pid)))
				second, err2 := unix.Writev(fd, pieces(300, "x"))
				third, err3 := unix.Writev(fd, pieces(300, strconv.Itoa(x.pid)))
				return fmt.Sprint(first, kit.Word(err), second, kit.Word(err2), third, kit.Word(err3)) + x.place(x.pid) + x.moved(kit.Procs, x.pid, strconv.Itoa(x.pid))
			})
		}},
		step{"writev: 300 pieces of 20 bytes", func(x *traceEnv) string {
			return writePieces(x.at(kit.Procs), bytes.SplitN(bytes.Repeat([]byte(strings.Repeat(" ", 20)+"|"), 300), []byte("|"), 300))
		}})
}

// pieces are blanks and then a text, a byte in each of n pieces.
func pieces(n int, text string) [][]byte {
	var out [][]byte
	for _, c := range []byte(strings.Repeat(" ", n-len(text)) + text) {
		out = append(out, []byte{c})
	}
	return out
}

// writePieces answers how much of the pieces one writev wrote.
func writePieces(path string, pieces [][]byte) string {
	return kit.TryFile(path, unix.O_WRONLY, func(fd int) string {
		n, err := unix.Writev(fd, pieces)
		return fmt.Sprint(n, kit.Word(err))
	})
}

// limitSteps write with an RLIMIT_FSIZE, which means nothing to kernfs.
func limitSteps() []step {
	const limit = 512
	write := func(x *traceEnv, size int) string {
		h := kit.StartHelper(x.t, "commands")
		defer func() { h.Cmd.Process.Kill(); h.Cmd.Wait() }()
		if err := unix.Prlimit(h.PID(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: limit}, nil); err != nil {
			return err.Error()
		}
		return h.Tell(x.t, "write %q %q", x.at(kit.Procs), fmt.Sprintf("%*d", size, x.pid)) + x.place(x.pid) + " " + x.moved(kit.Procs, x.pid, strconv.Itoa(x.pid))
	}
	return []step{
		{"file size limit: just within", func(x *traceEnv) string { return write(x, limit) }},
		{"file size limit: cut off", func(x *traceEnv) string { return write(x, limit+1) }},
		{"file size limit: reached", func(x *traceEnv) string {
			err := exec.Command("sh", "-c", "ulimit -f 0; echo "+strconv.Itoa(x.pid)+" >"+x.at(kit.Procs)).Run()
			return kit.Word(err) + x.place(x.pid) + " " + x.moved(kit.Procs, x.pid, strconv.Itoa(x.pid))
		}},
	}
}
