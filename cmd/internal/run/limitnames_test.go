package run

import (
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// TestLimitNames: each name is that of a control file of its version.
func TestLimitNames(t *testing.T) {
	for _, pair := range limitNames {
		for i, version := range []hierarchy.Version{hierarchy.V2, hierarchy.V1} {
			if _, ok := hierarchy.Lookup(version, pair[i]); !ok {
				t.Errorf("v%d has no %s", version, pair[i])
			}
		}
	}
}
