package fs

import (
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// filter makes the content that the guest reads of a file. Exactly one of its functions is set.
type filter struct {
	// shown makes it from the host's bytes.
	shown func(v *View, h *handle, raw []byte) ([]byte, error)
	// read makes it for the reader tid, from any source.
	read func(v *View, h *handle, tid uint32) ([]byte, error)
}

// filters has a row for each filter. One without a row is denied, at open and at read (rule 13).
var filters = map[hierarchy.Filter]filter{
	hierarchy.Raw: {shown: func(_ *View, _ *handle, raw []byte) ([]byte, error) { return raw, nil }},
	hierarchy.FilterControllers: {shown: func(v *View, h *handle, raw []byte) ([]byte, error) {
		return v.filterControllers(h, raw)
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

// filtered returns the whole content of a control file for the reader tid. EPERM for a filter without a row.
func (v *View) filtered(h *handle, tid uint32) ([]byte, error) {
	if h.translated() {
		return v.readBridged(h, tid)
	}
	f, known := filters[h.decision.File.Filter]
	if !known {
		return nil, unix.EPERM
	}
	if f.read != nil {
		return f.read(v, h, tid)
	}
	raw, err := h.readHost()
	if err != nil {
		return nil, err
	}
	return f.shown(v, h, raw)
}

// filter returns the content that every reader in the guest gets for the host's bytes. EPERM for a filter without a
// row or one that depends on the reader.
func (v *View) filter(h *handle, raw []byte) ([]byte, error) {
	if f := filters[h.decision.File.Filter]; f.shown != nil {
		return f.shown(v, h, raw)
	}
	return nil, unix.EPERM
}
