package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/texts"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

func hierarchiesCommand() *cli.Command {
	return &cli.Command{
		Name:  "hierarchies",
		Usage: "what the host has, and what a guest would be shown",
		Description: "Lists the cgroup hierarchies of this host. The column SHOWN has the directory under which a guest " +
			"would find each, with the\n" +
			"policy, the controllers and the layout given; in layout v2 that is \".\", the view's top. Where the layout has " +
			"no place for a\n" +
			"hierarchy, it ends with 4 and names the layouts that have one; mount, run and the daemon refuse such a layout, " +
			"too.\n\n" +
			"   vcgroupfs hierarchies --controllers memory,pids --layout hybrid",
		Flags: append(policyFlags(), &cli.BoolFlag{Name: "json", Usage: "as JSON"}),
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usageErrorf("hierarchies takes no argument")
			}
			return listHierarchies(c)
		},
	}
}

// hierarchyInfo is a line of "hierarchies --json".
type hierarchyInfo struct {
	Version     int      `json:"version"`
	Controllers []string `json:"controllers"`
	Name        string   `json:"name,omitempty"`
	Mountpoint  string   `json:"mountpoint"`
	ReadOnly    bool     `json:"readOnly"`
	Shown       string   `json:"shown,omitempty"` // directory in a view
	Permitted   []string `json:"permitted"`       // its controllers that a guest is shown
}

func listHierarchies(c *cli.Context) error {
	layout, err := layoutFlag(c)
	if err != nil {
		return err
	}
	p, err := policyFlag(c)
	if err != nil {
		return err
	}
	h, err := host.Open()
	if err != nil {
		return fault.With(fault.Unsupported, err)
	}
	defer h.Close()
	selected, layout, err := arrange(h, p, layout)
	if err != nil {
		return fault.With(fault.Unsupported, fmt.Errorf("%w; layouts for what is shown: %s", err, layoutsFor(h, p)))
	}
	shown := views.Hierarchies(selected)
	legacy := views.PolicyFor(p, layout, shown)
	list := []hierarchyInfo{}
	for _, t := range h.Hierarchies() {
		info := hierarchyInfo{
			Version: int(t.Version), Controllers: append([]string{}, t.Controllers...), Name: t.Name, Mountpoint: t.Mountpoint,
			ReadOnly: t.ReadOnly, Permitted: []string{},
		}
		for _, name := range t.Controllers {
			if p.Permits(name) {
				info.Permitted = append(info.Permitted, name)
			}
		}
		if slices.Contains(selected, t) {
			info.Shown = t.Dir
			if layout == hierarchy.LayoutV2 {
				info.Shown = "."
			}
			if layout.Translates(t.Hierarchy) {
				var dirs []string
				for _, one := range layout.Shown(t.Hierarchy, shown, legacy.Controllers()) {
					dirs = append(dirs, one.Dir)
				}
				info.Shown = strings.Join(dirs, " ")
			}
		}
		list = append(list, info)
	}
	if c.Bool("json") {
		e := json.NewEncoder(c.App.Writer)
		e.SetIndent("", "  ")
		return e.Encode(list)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "VERSION\tHIERARCHY\tMOUNTPOINT\tSHOWN\tPERMITTED")
	for i, t := range h.Hierarchies() {
		fmt.Fprintf(w, "v%d\t%s\t%s\t%s\t%s\n", int(t.Version), t, t.Mountpoint, texts.Dash(list[i].Shown),
			texts.Dash(strings.Join(list[i].Permitted, ",")))
	}
	return w.Flush()
}

// arrange returns the hierarchies for a view in a layout, and the layout, never LayoutAuto.
func arrange(h *host.Host, p *policy.Policy, layout hierarchy.Layout) ([]*host.Hierarchy, hierarchy.Layout, error) {
	selected, err := views.Select(h, p, layout)
	if err == nil {
		layout, err = layout.Arrange(views.Hierarchies(selected))
	}
	return selected, layout, err
}

// layoutsFor names the layouts that can show what the policy permits.
func layoutsFor(h *host.Host, p *policy.Policy) string {
	var names []string
	for l := hierarchy.LayoutAuto; l <= hierarchy.LayoutHybrid; l++ {
		if _, _, err := arrange(h, p, l); err == nil {
			names = append(names, l.String())
		}
	}
	return strings.Join(names, ", ")
}
