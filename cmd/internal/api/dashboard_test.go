package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const dashboardFile = "../../../packaging/grafana/dashboard.json"

// dashboard is what is looked at of a dashboard.
type dashboard struct {
	UID, Title string
	Panels     []panel
	Templating struct {
		List []struct {
			Name, Type string
			Query      any // a string, or an object
		}
	}
}

// panel is a panel or a row of them.
type panel struct {
	ID          int
	Type, Title string
	Description string
	Datasource  *datasource
	GridPos     struct{ X, Y, W, H int }
	Targets     []query
}

type datasource struct{ Type, UID string }

type query struct {
	RefID, Expr, LegendFormat string
	Datasource                *datasource
}

// TestDashboard: a dashboard that can be imported anywhere, of metrics that there are.
func TestDashboard(t *testing.T) {
	var d dashboard
	if err := json.Unmarshal([]byte(readFile(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	variables := map[string]string{}
	for _, v := range d.Templating.List {
		variables[v.Name] = fmt.Sprint(v.Type, " ", v.Query)
	}
	if variables["datasource"] != "datasource prometheus" || d.UID == "" || d.Title == "" {
		t.Errorf("%q (%q) has the variables %v", d.Title, d.UID, variables)
	}
	known, ids, titles, used := seriesNames(t), map[int]bool{}, map[string]bool{}, map[string]bool{}
	for i, p := range d.Panels {
		if p.ID <= 0 || ids[p.ID] || titles[p.Title] || p.Title == "" {
			t.Errorf("panel %q: its number %d or its title is another's, or missing", p.Title, p.ID)
		}
		ids[p.ID], titles[p.Title] = true, true
		if p.GridPos.X < 0 || p.GridPos.W <= 0 || p.GridPos.H <= 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q is not on the grid: %+v", p.Title, p.GridPos)
		}
		for _, other := range d.Panels[:i] {
			if a, b := p.GridPos, other.GridPos; a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q overlap", p.Title, other.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		p.check(t, known)
		for _, x := range p.Targets {
			for _, name := range metricsIn(x.Expr) {
				used[strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")] = true
			}
		}
	}
	for name := range families(t) {
		if strings.HasPrefix(name, "vcgroupfs_") && !used[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// check checks a panel that is no row.
func (p panel) check(t *testing.T, known map[string]bool) {
	t.Helper()
	chosen := func(d *datasource) bool { return d != nil && d.Type == "prometheus" && d.UID == "${datasource}" }
	if !chosen(p.Datasource) || p.Description == "" || len(p.Targets) == 0 {
		t.Errorf("panel %q has no description, no expression, or another data source than the chosen: %+v", p.Title, p.Datasource)
	}
	refs := map[string]bool{}
	for _, x := range p.Targets {
		if x.RefID == "" || refs[x.RefID] || !chosen(x.Datasource) {
			t.Errorf("panel %q: %+v", p.Title, x)
		}
		refs[x.RefID] = true
		named := metricsIn(x.Expr)
		if len(named) == 0 || strings.Count(x.Expr, `instance=~"$instance"`) != len(named) {
			t.Errorf("panel %q asks not only for the chosen instances: %s", p.Title, x.Expr)
		}
		for _, name := range named {
			if !known[name] {
				t.Errorf("panel %q asks for %s, which the daemon does not have", p.Title, name)
			}
		}
	}
}
