package runtimes

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
)

// TestReadLXC: LXC's environment is a container; what LXC would not say is a wrong command line.
func TestReadLXC(t *testing.T) {
	for _, c := range []struct {
		name, kind, pid string
		want            int
		says            string
	}{
		{"web", "start-host", "7", 7, ""}, {"web", "post-stop", "7", 0, ""}, {"web", "post-stop", "", 0, ""},
		{"", "start-host", "7", 0, "LXC_NAME is not set"}, {"web", "", "7", 0, `LXC_HOOK_TYPE is ""`},
		{"web", "pre-start", "7", 0, `LXC_HOOK_TYPE is "pre-start"`}, {"web", "start-host", "", 0, `LXC_PID is ""`},
		{"web", "start-host", "0", 0, `LXC_PID is "0"`}, {"web", "start-host", "7x", 0, `LXC_PID is "7x"`},
	} {
		env := map[string]string{
			"LXC_NAME": c.name, "LXC_HOOK_TYPE": c.kind, "LXC_PID": c.pid, "LXC_CONFIG_FILE": "/var/lib/lxc/web/config",
		}
		got, err := readLXC(Input{Getenv: func(name string) string { return env[name] }})
		switch {
		case c.says == "" && (err != nil || got.ID != c.name || got.Pid != c.want || got.Of != env["LXC_CONFIG_FILE"]):
			t.Errorf("%+v: %+v, %v", c, got, err)
		case c.says != "" && (fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// lxcPacket is one of LXC's.
func lxcPacket(notif, resp uint16, rest int) []byte {
	b := make([]byte, lxcHead+rest)
	binary.NativeEndian.PutUint32(b[lxcInitPid:], 42)
	binary.NativeEndian.PutUint16(b[lxcSizes:], notif)
	binary.NativeEndian.PutUint16(b[lxcSizes+2:], resp)
	return b
}

// TestParseLXCCall: a packet's answer stands where LXC looks for it; one whose sizes do not fit is refused.
func TestParseLXCCall(t *testing.T) {
	packet := lxcPacket(80, 24, 80+24+5)
	packet[lxcHead] = 9
	r, err := ParseLXCCall(packet)
	if err != nil {
		t.Fatal(err)
	}
	notify.PutResponse(r.Response, r.Call.ID, unix.EBUSY, false)
	if r.InitPid != 42 || r.Call.ID != 9 || len(r.Reply) != lxcHead+80+24 || r.Reply[lxcHead+80] != 9 ||
		int32(binary.NativeEndian.Uint32(r.Reply[lxcHead+80+16:])) != -int32(unix.EBUSY) {
		t.Errorf("%+v", r)
	}
	for _, bad := range [][]byte{
		nil, packet[:lxcHead-1], lxcPacket(79, 24, 200), lxcPacket(80, 23, 200), lxcPacket(80, 24, 103),
		lxcPacket(65535, 65535, 200),
	} {
		if _, err := ParseLXCCall(bad); err == nil {
			t.Errorf("a packet of %d bytes is understood", len(bad))
		}
	}
}

func FuzzParseLXCCall(f *testing.F) {
	f.Add(lxcPacket(80, 24, 104))
	f.Add(lxcPacket(88, 32, 130))
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, err := ParseLXCCall(packet)
		if err != nil {
			return
		}
		notify.PutResponse(r.Response, r.Call.ID, 0, true)
		if len(r.Reply) > len(packet) {
			t.Errorf("%d bytes of %d go back", len(r.Reply), len(packet))
		}
	})
}
