package kit

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Program is the program under test.
func Program(t testing.TB) string {
	t.Helper()
	path := os.Getenv("VCGROUPFS")
	if path == "" {
		t.Fatal("VCGROUPFS must name the program under test (make integration sets it)")
	}
	return path
}

// PublicDir is a temporary directory that every user can reach; those of testing are root's alone.
func PublicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vcgroupfs-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// FailpointProgram is the program under test, built with the tag failpoints.
func FailpointProgram(t testing.TB) string {
	t.Helper()
	path := os.Getenv("VCGROUPFS_FAILPOINTS")
	if path == "" {
		t.Fatal("VCGROUPFS_FAILPOINTS must name the program under test, built with -tags failpoints " +
			"(make integration sets it)")
	}
	return path
}

// PublicProgram copies the test binary to where a guest in a user namespace can execute it.
func PublicProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(PublicDir(t), "integration.test")
	CopyProgram(t, "/proc/self/exe", path)
	return path
}

// CopyProgram copies a program, for as long as the test runs.
func CopyProgram(t *testing.T, from, to string) {
	t.Helper()
	t.Cleanup(func() { os.Remove(to) })
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err == nil {
		_, err = io.Copy(out, in)
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// AbsProgram is the absolute path of the program under test.
func AbsProgram(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs(Program(t))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
