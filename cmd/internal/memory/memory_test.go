package memory

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// fileKiB is what this process has of files, RssFile of /proc/self/status.
func fileKiB(t *testing.T) (kiB int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "RssFile: %d kB", &kiB)
	}
	return kiB
}

// TestRelease: the program's text and constants are given back, and the process goes on.
func TestRelease(t *testing.T) {
	all := program()
	if len(all) < 2 {
		t.Errorf("%d mappings of the program, want its text and its constants at least", len(all))
	}
	for _, m := range all {
		if err := madvise(m, 22); err != nil { // MADV_POPULATE_READ, Linux 5.14
			t.Skipf("kernel: %v", err)
		}
	}
	before := fileKiB(t)
	Release()
	if after := fileKiB(t); after > before*3/4 {
		t.Errorf("%d KiB of files before, %d after", before, after)
	}
}
