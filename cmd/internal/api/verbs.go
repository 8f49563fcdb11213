package api

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// Verb is what the daemon does for the name of a guest and nothing else: the last part of a route, and by that its word
// in the log. The command line has the same words.
type Verb string

// The verbs.
const (
	// Tree lists a guest's cgroups; the error is that of package cgroups, as for the verbs below.
	Tree Verb = "tree"
	// Attach attaches the view in the guest's mount namespace again, unless it is there; fault.Invalid for a guest without
	// Into.
	Attach Verb = "attach"
	// Freeze stops a guest's processes.
	Freeze Verb = "freeze"
	// Thaw resumes a guest's processes.
	Thaw Verb = "thaw"
	// Kill kills a guest's processes.
	Kill Verb = "kill"
)

// verbs is the table of verbs. answer is the zero value of the wire struct that a verb answers with, nil for none.
var verbs = []struct {
	verb   Verb
	method string
	access access
	answer any
}{
	{Tree, "GET", accessObserver, Cgroup{}},
	{Attach, "POST", accessAdmin, nil},
	{Freeze, "POST", accessAdmin, nil},
	{Thaw, "POST", accessAdmin, nil},
	{Kill, "POST", accessAdmin, nil},
}

// Verbs lists the verbs.
func Verbs() (all []Verb) {
	for _, row := range verbs {
		all = append(all, row.verb)
	}
	return all
}

// verbRoutes returns the routes of the verbs. All have one handler.
func verbRoutes() (all []route) {
	for _, row := range verbs {
		all = append(all, route{row.method, "/v1/guests/{name}/" + string(row.verb), row.access,
			func(h *handler, q *request) (any, error) {
				answer, err := h.cfg.Backend.Do(q.ctx(), row.verb, q.name)
				if err == nil && reflect.TypeOf(answer) != reflect.TypeOf(row.answer) {
					err = fmt.Errorf("the answer to %s is a %T, not a %T", row.verb, answer, row.answer)
				}
				return filled(answer), err
			}})
	}
	return all
}

// filled replaces nil lists of an answer, which would be null on the wire.
func filled(answer any) any {
	if c, ok := answer.(Cgroup); ok {
		fillLists(&c)
		return c
	}
	return answer
}

// Do has the daemon do something to a guest. It decodes the answer into a wire struct, nil for a verb without one;
// fault.NotFound if there is no such guest.
func (c *Client) Do(ctx context.Context, verb Verb, name string, into any) error {
	i := slices.Index(Verbs(), verb)
	if i < 0 {
		return fault.New(fault.Invalid, "there is no verb %q; allowed: %q", verb, Verbs())
	}
	return c.call(ctx, verbs[i].method, guestPath(name, "/"+string(verb)), nil, into)
}
