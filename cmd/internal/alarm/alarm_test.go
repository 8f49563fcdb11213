package alarm

import (
	"errors"
	"os"
	"testing"
	"time"
)

func TestAlarm(t *testing.T) {
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := a.Set(time.Hour, 0); err != nil {
		t.Fatal(err)
	}
	if err := a.Set(20*time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Wait(); n != 1 || err != nil || time.Since(began) < 20*time.Millisecond {
		t.Errorf("%d rings after %v, %v", n, time.Since(began), err)
	}
	a.Set(-time.Second, time.Millisecond)
	time.Sleep(10 * time.Millisecond)
	if n, err := a.Wait(); n < 5 || err != nil {
		t.Errorf("%d rings in 10 ms, %v", n, err)
	}
	a.Set(0, 0)
	a.Wait()
	time.AfterFunc(10*time.Millisecond, func() { a.Close() })
	if _, err := a.Wait(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := a.Set(1, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("set after Close: %v", err)
	}
}
