package integration

import (
	"testing"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// roles are what the test binary does beside notifyRoles and those of kit when a test starts it as a helper
// process.
var roles = map[string]kit.Role{
	"ask":       playAsk,
	"client":    playClient,
	"filtered":  playFiltered,
	"forge":     playForge,
	"guards":    playGuards,
	"hostile":   playHostile,
	"huge":      playHuge,
	"into":      playInto,
	"many":      playMany,
	"other-ids": playOtherIDs,
	"pipes":     playPipes,
	"scrape":    playScrape,
	"streams":   playStreams,
	"userns":    playUserns,
}

func TestMain(m *testing.M) { kit.Main(m, roles, notifyRoles) }
