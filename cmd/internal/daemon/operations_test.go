package daemon

import (
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// TestVerbs: the daemon has each verb of the interface, and no other.
func TestVerbs(t *testing.T) {
	for _, v := range api.Verbs() {
		if verbs[v] == nil {
			t.Errorf("the daemon does not have the verb %s", v)
		}
	}
	if len(verbs) != len(api.Verbs()) {
		t.Errorf("%d verbs, the interface has %d", len(verbs), len(api.Verbs()))
	}
}
