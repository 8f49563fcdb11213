package kit

import (
	"path/filepath"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Site is a boundary in the pids hierarchy and in the v2 one, which may be the same, and how it is reached.
type Site struct {
	Path           string          // of the boundary, from the root of each hierarchy
	Pids, Unified  *host.Hierarchy // v1 has no file whose changes are told, so the second is there for the events
	Dir, EventsDir string          // the boundary as it is reached: natively or through a view
}

// NewSite makes a boundary that is reached natively.
func NewSite(t testing.TB, h *host.Host, name string) Site {
	t.Helper()
	s := Site{Pids: NeedHierarchy(t, h, "pids"), Unified: NeedHierarchy(t, h, hierarchy.Unified)}
	hierarchies := []*host.Hierarchy{s.Pids}
	if s.Unified != s.Pids {
		hierarchies = append(hierarchies, s.Unified)
	}
	s.Path = NewBoundary(t, name, hierarchies...)
	s.Dir, s.EventsDir = HostDir(s.Pids, s.Path), HostDir(s.Unified, s.Path)
	return s
}

// SiteControllers is what a view of a site must show.
const SiteControllers = "pids," + hierarchy.Unified

// Through is the same site, seen through a view of it.
func (s Site) Through(view string) Site {
	s.Dir, s.EventsDir = view, view
	if s.Unified != s.Pids {
		s.Dir, s.EventsDir = filepath.Join(view, s.Pids.Dir), filepath.Join(view, s.Unified.Dir)
	}
	return s
}

// Native is the host's own path of something below the boundary.
func (s Site) Native(path ...string) string {
	return filepath.Join(append([]string{HostDir(s.Pids, s.Path)}, path...)...)
}

// At is the path of something as it is reached.
func (s Site) At(path ...string) string { return filepath.Join(append([]string{s.Dir}, path...)...) }
