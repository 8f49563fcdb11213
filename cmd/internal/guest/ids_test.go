package guest

import (
	"syscall"
	"testing"
)

func TestChooseIDs(t *testing.T) {
	for text, want := range map[string]syscall.SysProcIDMap{
		"         0          0 4294967295\n": {HostID: 524288, Size: 65536}, // a host
		"0 524288 65536\n":                   {HostID: 32768, Size: 32768},  // a guest of run --userns
		"0 32768 32768\n":                    {HostID: 16384, Size: 16384},  // and of that
		"0 1000 1\n1 100000 65536\n":         {HostID: 32769, Size: 32768},
		"0 100000 589823\n":                  {HostID: 294911, Size: 294911}, // one too few
		"0 100000 589824\n":                  {HostID: 524288, Size: 65536},
		"0 0 2\n":                            {HostID: 1, Size: 1},
	} {
		if got, ok := chooseIDs(text); !ok || got != want {
			t.Errorf("%q: %v, %t, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "0 1000 1\n", "x y z\n"} {
		if got, ok := chooseIDs(text); ok {
			t.Errorf("%q: %v", text, got)
		}
	}
}
