package fstype

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

var (
	errArch   = errors.New("not made for")
	errTypes  = errors.New("cannot read the kernel's types")
	errLocked = errors.New("the kernel is locked down")
)

// Refused tells why this host cannot have the programs.
type Refused struct {
	Reason string // one thought, for a log line or a table
	Err    error
}

// Error names the refused service, and the reason.
func (r *Refused) Error() string { return "statfs of views cannot be answered by BPF: " + r.Reason }

// Unwrap returns the kernel's own error.
func (r *Refused) Unwrap() error { return r.Err }

// errNotSupported is the kernel's ENOTSUPP (include/linux/errno.h), unknown to C libraries: the answer to attaching
// without trampolines.
const errNotSupported = syscall.Errno(524)

func explain(err error) *Refused {
	reason := err.Error()
	switch {
	case errors.Is(err, errArch):
		reason = "its programs are for x86-64 and arm64"
	case errors.Is(err, errTypes):
		reason = "the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF): " + err.Error()
	case errors.Is(err, errLocked):
		reason = fmt.Sprintf("%v (%s)", errLocked, or(lockdown(), "lockdown(7); distributions do so with Secure Boot"))
		if lockdown() == "none" {
			reason = "the kernel has no bpf_probe_write_user"
		}
	case errors.Is(err, unix.ENOSYS):
		reason = "the kernel has no BPF (CONFIG_BPF_SYSCALL)"
	case errors.Is(err, errNotSupported):
		reason = "the kernel has no BPF trampolines (x86-64: Linux 5.5, arm64: Linux 6.0)"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		reason = notPermitted()
	case errors.Is(err, btf.ErrNotFound):
		reason = "the kernel is another than is known: " + err.Error()
	}
	return &Refused{reason, err}
}

// notPermitted finds the reason for an EPERM of the kernel.
func notPermitted() string {
	mode := lockdown()
	if mode != "" && mode != "none" {
		return fmt.Sprintf("%v (%s)", errLocked, mode)
	}
	if !capable() {
		return "this process lacks CAP_SYS_ADMIN outside of user namespaces"
	}
	why := "the kernel does not permit it: "
	if mode == "" {
		why += "it is locked down, or "
	}
	if filter, _ := host.StatusMask(os.Getpid(), "Seccomp:"); filter != 0 {
		why += "a seccomp filter forbids bpf(2), or "
	}
	return why + "a security module says no"
}

// lockdown returns the kernel's lockdown mode, "" if it cannot be read: no securityfs is mounted.
func lockdown() string {
	raw, _ := os.ReadFile("/sys/kernel/security/lockdown")
	_, mode, _ := strings.Cut(string(raw), "[")
	mode, _, _ = strings.Cut(mode, "]")
	return mode
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// capable reports that this process has CAP_SYS_ADMIN in the first user namespace, as BPF requires.
func capable() bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || strings.Join(strings.Fields(string(raw)), " ") != "0 0 4294967295" {
		return false
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// SecurityModule reports that BPF is among the kernel's security modules, so that programs may answer clone3; false if
// the list cannot be read.
func SecurityModule() bool {
	raw, _ := os.ReadFile("/sys/kernel/security/lsm")
	return slices.Contains(strings.Split(strings.TrimSpace(string(raw)), ","), "bpf")
}
