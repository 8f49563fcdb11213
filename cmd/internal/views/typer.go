package views

import (
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
)

// Typer has statfs of a view say the type that it stands for, or tells that it does not: a view that says FUSE is of use, too. view is a
// descriptor of the view, open until Show returns.
type Typer interface {
	Show(view int, about fstype.View) bool
}
