package views

import (
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
)

// Typer has statfs of a view return the type of the view's hierarchies instead of FUSE's. Show reports success; a view
// with FUSE's type works, too. view is a descriptor of the view, open until Show returns.
type Typer interface {
	Show(view int, about fstype.View) bool
}
