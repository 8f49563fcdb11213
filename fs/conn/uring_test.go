package conn

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needURing skips a test in the run of the other transport.
func needURing(t *testing.T) {
	t.Helper()
	if transport != TransportURing {
		t.Skip("runs with io_uring")
	}
}

// onEach runs f on a thread bound to each processor of this process in turn.
func onEach(t *testing.T, f func(cpu int)) {
	t.Helper()
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	for cpu := range possibleCPUs() {
		if !allowed.IsSet(cpu) {
			continue
		}
		done := make(chan struct{})
		bind(cpu, func() {
			defer close(done)
			f(cpu)
		})
		<-done
	}
}

func TestParseTransport(t *testing.T) {
	for _, want := range []Transport{TransportClassic, TransportAuto, TransportURing} {
		if got, err := ParseTransport(want.String()); got != want || err != nil {
			t.Errorf("%v: %v, %v", want, got, err)
		}
	}
	if _, err := ParseTransport("fast"); err == nil || err.Error() != `unknown transport "fast"; allowed: auto, classic, io_uring` {
		t.Errorf("fast: %v", err)
	}
}

// TestURingUnfit: what io_uring does not provide is an error where it must be used, and classic otherwise.
func TestURingUnfit(t *testing.T) {
	needURing(t)
	for _, cfg := range []Config{
		{Survival: &Survival{Init: func([]byte) {}}}, {Survival: &Survival{Clone: true}},
		{Slots: NewSlots(1)}, {MaxRate: 1}, {MaxCPU: 1},
	} {
		cfg.FS, cfg.Transport = newTiny(), TransportURing
		if _, err := New(cfg); err == nil || !strings.HasPrefix(err.Error(), "cannot use io_uring for a ") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	c, dir := mountTiny(t, newTiny(), func(cfg *Config) { cfg.Transport, cfg.MaxRate = TransportAuto, 1000 })
	if got, err := readFile(dir + "/plain"); got != "hello\n" || err != nil || c.Transport() != TransportClassic {
		t.Errorf("auto: %q, %v, by %v", got, err, c.Transport())
	}
}

// TestURingFallback: a connection with auto is classic where the queues cannot be made.
func TestURingFallback(t *testing.T) {
	needURing(t)
	defer func(was func() int) { possibleCPUs = was }(possibleCPUs)
	possibleCPUs = func() int { return maxQueues + 1 }
	if _, err := New(Config{FS: newTiny(), Transport: TransportURing}); err == nil ||
		!strings.Contains(err.Error(), "257 possible processors, at most 256") {
		t.Errorf("with too many processors: %v", err)
	}
	transport = TransportAuto
	defer func() { transport = TransportURing }()
	c, dir := mountTiny(t, newTiny(), nil)
	if got, err := readFile(dir + "/plain"); got != "hello\n" || err != nil || c.Transport() != TransportClassic {
		t.Errorf("%q, %v, by %v", got, err, c.Transport())
	}
}

// TestURingQueues: callers on every processor are served, also beside slow requests that block.
func TestURingQueues(t *testing.T) {
	needURing(t)
	f := newTiny()
	c, dir := mountTiny(t, f, nil)
	callers := make(chan error, 64)
	started := 0
	onEach(t, func(int) {
		for range 4 {
			cmd := exec.Command("cat", dir+"/slow") // inherits the processor
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			started++
			go func() { callers <- cmd.Wait() }()
		}
	})
	eventually(t, "all run", func() bool { return int(f.running.Load()) == started })
	onEach(t, func(cpu int) {
		if got, err := readFile(dir + "/plain"); got != "hello\n" || err != nil {
			t.Errorf("on processor %d: %q, %v", cpu, got, err)
		}
	})
	if c.Transport() != TransportURing {
		t.Errorf("by %v", c.Transport())
	}
	close(f.gate)
	for range started {
		if err := <-callers; err != nil {
			t.Error(err)
		}
	}
}

// TestURingOtherQueues: one thread serves the processors on which this process may not run.
func TestURingOtherQueues(t *testing.T) {
	needURing(t)
	if runtime.NumCPU() < 2 {
		t.Skip("needs two processors")
	}
	var was, one unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &was); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if was.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(os.Getpid(), &one); err != nil { // of the main thread
		t.Fatal(err)
	}
	f := newTiny()
	c, dir := mountTiny(t, f, nil)
	eventually(t, "io_uring is in use", func() bool { return c.Transport() == TransportURing })
	if err := unix.SchedSetaffinity(os.Getpid(), &was); err != nil {
		t.Fatal(err)
	}
	if n := len(c.rings.Load().threads); n != 2 {
		t.Errorf("%d threads", n)
	}
	close(f.gate)
	onEach(t, func(cpu int) {
		for _, name := range []string{"/plain", "/slow"} {
			if got, err := readFile(dir + name); got != "hello\n" || err != nil {
				t.Errorf("%s on processor %d: %q, %v", name, cpu, got, err)
			}
		}
	})
}

// TestURingInterrupts kills callers at any moment of their requests. For some of them the kernel sends no INTERRUPT.
func TestURingInterrupts(t *testing.T) {
	needURing(t)
	f := newTiny()
	_, dir := mountTiny(t, f, func(cfg *Config) { cfg.MaxSlow = 2 })
	ended := make(chan error, 60)
	for i := range cap(ended) {
		cmd := exec.Command("cat", dir+"/slow")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(i%12)*200*time.Microsecond, func() { cmd.Process.Kill() })
		go func() { ended <- cmd.Wait() }()
	}
	for range cap(ended) {
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("a killed caller waits on")
		}
	}
	eventually(t, "nothing runs", func() bool { return f.running.Load() == 0 })
}

// TestURingMemory: a long request's memory does not stay.
func TestURingMemory(t *testing.T) {
	needURing(t)
	c, dir := mountTiny(t, newTiny(), nil)
	buf := make([]byte, MaxWrite)
	for range 10 {
		if _, err := writeFile(dir+"/plain", buf); err != unix.E2BIG {
			t.Errorf("a long write: %v", err)
		}
	}
	if got, err := readFile(dir + "/plain"); got != "hello\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	pages := 0
	for _, th := range c.rings.Load().threads {
		in := make([]byte, len(th.mem)/pageSize)
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(pointer(th.mem, 0)), uintptr(len(th.mem)),
			uintptr(pointer(in, 0))); errno != 0 {
			t.Fatal(errno)
		}
		for _, resident := range in {
			pages += int(resident & 1)
		}
	}
	if most := 4 * slotResident / pageSize * possibleCPUs(); pages > most {
		t.Errorf("%d pages are resident, want %d at most", pages, most)
	}
}
