package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/gdamore/tcell/v3"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// OnScreen shows the table on a terminal until q is typed, ctx is done or a signal asks the program to end. Whichever
// way it returns, a panic included, the terminal is as it was before. A daemon that does not answer the first look is
// an error, with nothing drawn; later the screen says so and each look tries again.
func OnScreen(ctx context.Context, daemon *api.Client, terminal *os.File, order int, interval time.Duration) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	defer stop()
	look := Reader(ctx, daemon)
	rows, err := look()
	if err != nil {
		return err
	}
	tty, err := openTerminal(terminal)
	if err != nil {
		return fmt.Errorf("cannot use the terminal: %w", err)
	}
	v := newView(order)
	v.looked(rows, time.Now(), nil)
	return show(ctx, tty, v, look, interval)
}

// openTerminal opens a terminal by the descriptor of its output, so that a standard input that is a pipe does not
// matter. The kernel refuses it to a user to whom the terminal does not belong, such as behind su; standard input and
// output serve then.
func openTerminal(terminal *os.File) (tcell.Tty, error) {
	tty, err := tcell.NewDevTtyFromDev(fmt.Sprintf("/proc/self/fd/%d", terminal.Fd()))
	if errors.Is(err, unix.EACCES) {
		return tcell.NewStdIoTty()
	}
	return tty, err
}

// answer is the outcome of a look beside the screen's loop.
type answer struct {
	rows     []Row
	err      error
	panicked string // the message and the stack; empty: it did not panic
}

// show draws the table anew after each look, key and change of the terminal's size, until the user or ctx ends it.
func show(ctx context.Context, tty tcell.Tty, v *view, look func() ([]Row, error), interval time.Duration) error {
	// Without negotiation: an answer of the terminal that comes late would be read as keys, by this program or the shell.
	s, err := tcell.NewTerminfoScreenFromTty(tty, tcell.OptNegotiation(false), tcell.OptSanitizeContent(true))
	if err == nil {
		err = s.Init()
	}
	if err != nil {
		return fmt.Errorf("cannot use the terminal: %w", err)
	}
	// Deferred, so that a panic of this goroutine prints its message on a terminal that shows it.
	defer s.Fini()
	return loop(ctx, s, v, look, interval)
}

// loop waits for keys, looks and sizes. It makes one look at a time.
func loop(ctx context.Context, s tcell.Screen, v *view, look func() ([]Row, error), interval time.Duration) error {
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	answers := make(chan answer, 1)
	var asked time.Time // zero: no look is under way
	seconds := time.NewTicker(time.Second)
	defer seconds.Stop()
	v.draw(s, interval)
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-s.EventQ():
			if quit, err := handle(s, v, event); quit || err != nil {
				return err
			}
		case <-ticks.C:
			if !asked.IsZero() {
				continue
			}
			asked = time.Now()
			go func() { answers <- try(look) }()
			continue
		case a := <-answers:
			asked = time.Time{}
			if a.panicked != "" {
				panic(a.panicked)
			}
			v.looked(a.rows, time.Now(), a.err)
		case <-seconds.C:
			if asked.IsZero() || time.Since(asked) < time.Second {
				continue
			}
			v.late = true
		}
		v.draw(s, interval)
	}
}

// try looks. A panic is for the loop: on this goroutine it would end the program without restoring the terminal.
func try(look func() ([]Row, error)) (a answer) {
	defer func() {
		if r := recover(); r != nil {
			a = answer{panicked: fmt.Sprintf("%v\n%s", r, debug.Stack())}
		}
	}()
	a.rows, a.err = look()
	return a
}

// handle handles an event of the terminal. The error is that the terminal cannot be read any more.
func handle(s tcell.Screen, v *view, event tcell.Event) (quit bool, err error) {
	switch e := event.(type) {
	case *tcell.EventKey:
		name, text := tcell.KeyNames[e.Key()], ""
		if e.Key() == tcell.KeyRune {
			name, text = e.Str(), e.Str()
		}
		if name == "Ctrl-L" {
			s.Sync()
		}
		return v.key(name, text), nil
	case *tcell.EventResize:
		// What is outside of a smaller screen, or was moved by the terminal, is drawn again.
		s.Sync()
	case *tcell.EventError:
		return true, fmt.Errorf("cannot read the terminal: %w", e)
	}
	return false, nil
}
