package integration

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestVersionEarly: version is answered before most packages are initialised, of which there are 150.
func TestVersionEarly(t *testing.T) {
	cmd := exec.Command(kit.Program(t), "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if n := strings.Count(string(out), "init "); err != nil || n > 40 {
		t.Errorf("%v, %d packages are initialised, want at most 40: package early has an import too many, or its turn comes late:\n%s",
			err, n, out)
	}
}
