package kit

import (
	"os"

	"github.com/vcgroupfs/vcgroupfs/integration/kit/uring"
)

// TransportVariable names the environment variable with the transport of the views that the tests mount, as --transport
// takes it. With io_uring the kernel's switch is on as long as the tests run.
const TransportVariable = "VCGROUPFS_TRANSPORT"

// withTransport returns the arguments of "mount" or "run", with the flag for the transport under test.
func withTransport(command string, args ...string) []string {
	all := []string{command}
	if t := os.Getenv(TransportVariable); t != "" {
		all = append(all, "--transport", t)
	}
	return append(all, args...)
}

// switchTransport switches the kernel on for the transport under test.
func switchTransport() (restore func(), err error) {
	if os.Getenv(TransportVariable) != "io_uring" {
		return func() {}, nil
	}
	return uring.Enable()
}
