package run

import (
	"io"
	"os"
	"strings"
	"testing"
)

// TestSetupLengths: whatever a set-up's length, the next byte that is read is the next order.
func TestSetupLengths(t *testing.T) {
	for n := range 1200 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := sendSetup(w, initSetup{Dir: strings.Repeat("a", n)}); err != nil {
			t.Fatal(err)
		}
		var s initSetup
		if err := receiveSetup(r, &s); err != nil || len(s.Dir) != n {
			t.Fatalf("%d bytes: %v, %d", n, err, len(s.Dir))
		}
		w.Write([]byte{initGo})
		w.Close()
		if rest, err := io.ReadAll(r); err != nil || len(rest) != 1 || rest[0] != initGo {
			t.Errorf("a set-up of %d bytes more leaves %q, %v", n, rest, err)
		}
		r.Close()
	}
}
