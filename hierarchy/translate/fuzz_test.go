package translate

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// FuzzRows writes anything to any file that is shown, and reads it, on a host whose files say anything. Nothing panics, an
// error is an errno, and what reaches the host is one line for a control file that the host's version has, or for a file that
// is the same on both sides and takes any text the guest's own.
func FuzzRows(f *testing.F) {
	f.Add(uint16(1), []byte("512\n"), "100\n")
	f.Add(uint16(4), []byte("-1"), "max 100000\n")
	f.Add(uint16(30), []byte("0-3,7\n"), "0-3\n")
	f.Add(uint16(40), []byte("64M"), "file 4096\nanon N0=1 N1=x\n")
	f.Add(uint16(60), []byte("8:0 rbps=1 wiops=max"), "8:0 rbytes=1 Read 5\n8:0 Read 5\n")
	f.Add(uint16(90), []byte("8:0 1\x00"), "")
	f.Fuzz(func(t *testing.T, row uint16, data []byte, says string) {
		r := &Rows()[int(row)%len(Rows())]
		if r.Absent != "" {
			return
		}
		other := hierarchy.V2
		if r.Version == hierarchy.V2 {
			other = hierarchy.V1
		}
		name := strings.Replace(r.Name, "*", "2MB", 1)
		known, _ := hierarchy.Lookup(r.Version, name)
		v, _ := known.Grammar.Parse(data)
		own := string(v.Canonical())
		files := map[string]string{}
		for _, f := range hierarchy.Table() {
			if f.Version == other {
				files[strings.Replace(f.Name, "*", "2MB", 1)] = says
			}
		}
		top := under(nil, files)
		c := under(top, files)
		c.refuses = func(_ *tree, file, value string) error {
			if _, ok := hierarchy.Lookup(other, file); !ok {
				t.Errorf("%s: wrote to %q, which the host does not have", name, file)
			}
			if value != own && strings.ContainsAny(strings.TrimSuffix(value, "\n"), "\n\x00") {
				t.Errorf("%s: wrote %q to %s", name, value, file)
			}
			return nil
		}
		var errno unix.Errno
		if err := r.Write(c, name, data); err != nil && !errors.As(err, &errno) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := r.Read(c, name); err != nil && !errors.As(err, &errno) {
			t.Errorf("%s: %v", name, err)
		}
	})
}
