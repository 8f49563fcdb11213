package fs

import (
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// filter is how the view makes what the guest reads of a file. One of its functions is set.
type filter struct {
	// shown makes it of the host's bytes.
	shown func(v *View, h *handle, raw []byte) ([]byte, error)
	// read makes it for one reader, tid, from wherever it is to be had.
	read func(v *View, h *handle, tid uint32) ([]byte, error)
}

// filters has a row for each filter. What has none is denied, at open and at read (rule 13).
var filters = map[hierarchy.Filter]filter{
	hierarchy.Raw: {shown: func(_ *View, _ *handle, raw []byte) ([]byte, error) { return raw, nil }},
	hierarchy.FilterControllers: {shown: func(v *View, _ *handle, raw []byte) ([]byte, error) {
		return v.filterControllers(raw), nil
	}},
	hierarchy.FilterMembers: {read: (*View).members},
	hierarchy.FilterStat: {shown: func(v *View, h *handle, raw []byte) ([]byte, error) {
		return v.filterStat(h.hier, h.dir, raw), nil
	}},
	hierarchy.FilterMemoryStat: {shown: func(_ *View, h *handle, raw []byte) ([]byte, error) {
		return h.hier.filterMemoryStat(h.dir, raw)
	}},
	hierarchy.FilterFake: {shown: func(_ *View, h *handle, _ []byte) ([]byte, error) { return h.hier.readFake(h.dir) }},
}

// filtered is the whole content of a control file as the guest sees it. EPERM for a filter that has no row.
func (v *View) filtered(h *handle, tid uint32) ([]byte, error) {
	f, known := filters[h.decision.File.Filter]
	if !known {
		return nil, unix.EPERM
	}
	if f.read != nil {
		return f.read(v, h, tid)
	}
	fd, err := h.host()
	if err != nil {
		return nil, err
	}
	raw, err := host.ReadAll(fd)
	if err != nil {
		return nil, err
	}
	return f.shown(v, h, raw)
}

// filter is what every reader in the guest sees of a file's bytes. EPERM for a filter that has no row or minds the reader.
func (v *View) filter(h *handle, raw []byte) ([]byte, error) {
	if f := filters[h.decision.File.Filter]; f.shown != nil {
		return f.shown(v, h, raw)
	}
	return nil, unix.EPERM
}
