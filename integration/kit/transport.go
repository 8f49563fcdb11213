package kit

import (
	"os"

	"github.com/vcgroupfs/vcgroupfs/integration/kit/uring"
)

// TransportVariable names the environment variable with the transport of the views that the tests mount, as --transport
// takes it. With io_uring the kernel's switch is on as long as the tests run.
const TransportVariable = "VCGROUPFS_TRANSPORT"

// transport returns the flags of "mount" and "run" for the transport under test.
func transport() []string {
	if t := os.Getenv(TransportVariable); t != "" {
		return []string{"--transport", t}
	}
	return nil
}

// switchTransport switches the kernel on for the transport under test.
func switchTransport() (restore func(), err error) {
	if os.Getenv(TransportVariable) != "io_uring" {
		return func() {}, nil
	}
	return uring.Enable()
}
