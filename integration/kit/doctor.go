package kit

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

// Diagnosis is what doctor says of what a process finds.
type Diagnosis struct {
	Sight     string
	TypeRight string
	Clients   []struct {
		Name, Asks      string
		Verdicts, Typed map[string]string
	}
}

// DoctorOf asks doctor what a process finds.
func (d *Daemon) DoctorOf(t *testing.T, pid int) (says Diagnosis) {
	t.Helper()
	if status, out := d.Try(t, "doctor", "--json", "--pid", strconv.Itoa(pid)); status != 0 ||
		json.Unmarshal([]byte(out), &says) != nil {
		t.Fatalf("doctor: %d: %s", status, out)
	}
	return says
}

// AsksType says whether the client of a row may tell a view by its type.
func (says Diagnosis) AsksType(row string) bool {
	for _, c := range says.Clients {
		if c.Name == row {
			return c.Asks != "path" && c.Asks != "mounts"
		}
	}
	return true
}

// Of is the verdict on the client whose row begins so.
func (says Diagnosis) Of(row string) string {
	for _, c := range says.Clients {
		if !strings.HasPrefix(c.Name, row) {
			continue
		}
		if says.TypeRight == "yes" { // by BPF
			return c.Typed[says.Sight]
		}
		return c.Verdicts[says.Sight]
	}
	return ""
}
