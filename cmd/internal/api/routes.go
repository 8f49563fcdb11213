package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
)

// access is the group of peers that may use a route. A common rule is in peer.go: a guest may use none.
type access int

const (
	accessAdmin    access = iota // uid 0
	accessObserver               // also members of the observers' group
	accessProbe                  // any user of the host; also on the loopback listener
)

// route is a row of the table. {name} in its pattern stands for a guest's name. handle returns the answer's body, nil
// for none, or an error, answered by its kind.
type route struct {
	method, pattern string
	access          access
	handle          func(*handler, *request) (any, error)
}

// routes is the table of the interface; the verbs (verbs.go) follow.
var routes = append([]route{
	{"GET", "/v1/info", accessObserver, (*handler).info},
	{"GET", "/v1/guests", accessObserver, (*handler).guests},
	{"GET", "/v1/guests/{name}", accessObserver, (*handler).guest},
	{"PUT", "/v1/guests/{name}", accessAdmin, (*handler).add},
	{"DELETE", "/v1/guests/{name}", accessAdmin, (*handler).remove},
	{"POST", "/v1/guests/{name}/set", accessAdmin, (*handler).set},
	{"GET", "/v1/top", accessObserver, (*handler).top},
	{"GET", "/v1/events", accessObserver, (*handler).events},
	{"PUT", "/v1/type", accessAdmin, (*handler).showType},
	{"POST", "/v1/upgrade", accessAdmin, (*handler).upgrade},
	{"GET", "/metrics", accessProbe, (*handler).metrics},
	{"GET", "/healthz", accessProbe, (*handler).healthz},
}, verbRoutes()...)

// probes returns the routes of the loopback listener.
func probes() []route {
	return slices.DeleteFunc(slices.Clone(routes), func(r route) bool { return r.access != accessProbe })
}

// match finds the route of a request, and the guest's name in its path. fault.NotFound, or fault.Invalid with the
// path's methods.
func match(table []route, method, path string) (r route, name string, allowed []string, err error) {
	parts := strings.Split(path, "/")
	for _, candidate := range table {
		n, ok := fits(strings.Split(candidate.pattern, "/"), parts)
		if !ok {
			continue
		}
		if candidate.method == method {
			return candidate, n, nil, nil
		}
		allowed = append(allowed, candidate.method)
	}
	if len(allowed) > 0 {
		return route{}, "", allowed, fault.New(fault.Invalid,
			"cannot %s %s; allowed: %s", method, path, strings.Join(allowed, ", "))
	}
	return route{}, "", nil, fault.New(fault.NotFound, "there is no %s; GET /v1/info tells what serves here", path)
}

func fits(pattern, parts []string) (name string, ok bool) {
	if len(pattern) != len(parts) {
		return "", false
	}
	for i, p := range pattern {
		if p == "{name}" {
			name = parts[i]
		} else if p != parts[i] {
			return "", false
		}
	}
	return name, true
}

// request is a request under way.
type request struct {
	w    http.ResponseWriter
	r    *http.Request
	name string // of the guest in the path; checked
	pid  int    // of the peer, 0 without an identity
	uid  uint32 // of the peer
}

// ctx ends when the client disconnects.
func (q *request) ctx() context.Context { return q.r.Context() }

// answered is the body of a handler that has written the answer itself.
type answered struct{}

// created is the body of an answer 201.
type created struct{ body any }

// body reads the request's body into a wire struct.
func (q *request) body(into any) error {
	control := http.NewResponseController(q.w)
	control.SetReadDeadline(time.Now().Add(bodyTimeout))
	raw, err := io.ReadAll(http.MaxBytesReader(q.w, q.r.Body, maxBody))
	// The background read that detects a disconnect has no deadline.
	control.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return fault.New(fault.Invalid, "the body is too large; allowed: %d bytes", maxBody)
	case err != nil:
		return fault.New(fault.Invalid, "cannot read the body: %v", err)
	}
	if err := decode(raw, into); err != nil {
		return fault.With(fault.Invalid, err)
	}
	return nil
}

// takesBody reports that a route takes a body; for the others a body is an error.
func takesBody(r route) bool {
	return r.method == "PUT" || strings.HasSuffix(r.pattern, "/set") || strings.HasSuffix(r.pattern, "/upgrade")
}

// check checks the parts common to all handlers: the guest's name, the query, an unexpected body.
func (q *request) check(r route) error {
	if strings.Contains(r.pattern, "{name}") {
		name, err := url.PathUnescape(q.name)
		if err != nil {
			return fault.With(fault.Invalid, err)
		}
		if err := spec.CheckName(name); err != nil {
			return fault.With(fault.Invalid, err)
		}
		q.name = name
	}
	if !takesBody(r) && q.r.ContentLength != 0 {
		// net/http reads an unexpected body to its end.
		http.NewResponseController(q.w).SetReadDeadline(time.Now().Add(bodyTimeout))
		return fault.New(fault.Invalid, "%s %s takes no body", r.method, r.pattern)
	}
	if r.access == accessProbe {
		// A probe may have any parameters.
		return nil
	}
	query, err := url.ParseQuery(q.r.URL.RawQuery)
	if err != nil {
		return fault.New(fault.Invalid, "cannot read the query: %v", err)
	}
	for key, values := range query {
		switch allowed := parameterOf(r); {
		case allowed == "":
			return fault.New(fault.Invalid, "unknown parameter %q; %s takes none", key, r.pattern)
		case key != allowed || len(values) != 1:
			return fault.New(fault.Invalid, "parameter %q is unknown or given twice; allowed: %s", key, allowed)
		}
	}
	return nil
}

// parameterOf returns the one parameter of a route, "" for none.
func parameterOf(r route) string {
	switch {
	case r.pattern == "/v1/events":
		return "guest"
	case r.method == "DELETE":
		return forceParameter
	}
	return ""
}

func bodyOf(err error) Error { return Error{fault.Of(err).Code(), err.Error()} }

// answer writes a JSON answer.
func answer(w http.ResponseWriter, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		status = http.StatusInternalServerError
		raw, _ = json.Marshal(bodyOf(fmt.Errorf("cannot write the answer: %w", err)))
	}
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(append(raw, '\n'))
}

// list returns a list that is never null on the wire.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
