package integration

import (
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestLoad proves the load itself: natively it finds nothing wrong, nor on a view whose server lives on.
func TestLoad(t *testing.T) {
	h := kit.OpenHost(t)
	run := func(t *testing.T, s kit.Site) {
		l := kit.NewLoad(t, s)
		l.Start(t)
		time.Sleep(time.Second)
		kit.JudgeLoads(t, l)
		kit.WantSame(t, s)
	}
	t.Run("native", func(t *testing.T) { run(t, kit.NewSite(t, h, t.Name())) })
	t.Run("view", func(t *testing.T) {
		s := kit.NewSite(t, h, t.Name())
		v := kit.MountView(t, "--boundary", s.Path, "--controllers", kit.SiteControllers)
		run(t, s.Through(v.Dir))
	})
}
