package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// strictBackend fails the test when it is asked for what the routes should have refused.
type strictBackend struct {
	fake
	t *testing.T
}

func (s *strictBackend) name(name string) {
	if err := spec.CheckName(name); err != nil {
		s.t.Errorf("a wrong name reached the backend: %v", err)
	}
}

func (s *strictBackend) Guest(name string) (Guest, error) {
	s.name(name)
	return Guest{Name: name}, nil
}

func (s *strictBackend) Add(ctx context.Context, name string, spec GuestSpec, p *policy.Policy, by Maker) (Guest, bool, error) {
	s.name(name)
	if err := spec.CheckParsed(p); err != nil {
		s.t.Errorf("a wrong spec reached the backend: %v", err)
	}
	for _, controller := range hierarchy.KnownControllers() {
		if parsed, _ := spec.Check(); p.Permits(controller) != parsed.Permits(controller) {
			s.t.Errorf("the policy that reached the backend is not the spec's: it permits %s: %v", controller, p.Permits(controller))
		}
	}
	return s.fake.Add(ctx, name, spec, p, by)
}

func (s *strictBackend) Set(name string, limits []Limit) ([]Change, error) {
	s.name(name)
	if err := CheckLimits(limits); err != nil {
		s.t.Errorf("wrong limits reached the backend: %v", err)
	}
	return s.fake.Set(name, limits)
}

func (s *strictBackend) Do(ctx context.Context, verb Verb, name string) (any, error) {
	s.name(name)
	return s.fake.Do(ctx, verb, name)
}

func (s *strictBackend) Subscribe(guest string) (<-chan Event, func()) {
	if guest != "" {
		s.name(guest)
	}
	c := make(chan Event)
	close(c)
	return c, func() {}
}

// FuzzAPI: no request panics, and what reaches the backend is valid.
func FuzzAPI(f *testing.F) {
	for _, c := range requests {
		method, path, _ := strings.Cut(c.request, " ")
		if len(c.body) < 1000 {
			f.Add(method, path, c.body)
		}
	}
	f.Add("PUT", "/v1/guests/web", `{"boundary":"/a","target":"/t","policy":"version: 1\ncontrollers: [memory]\n","controllers":["memory"],"owner":"0:0","layout":"hybrid","limits":{"pids.max":"1"}}`)
	f.Add("GET", "/v1/events?guest=web", "")
	f.Fuzz(func(t *testing.T, method, path, body string) {
		r, err := http.NewRequest(method, "http://x", strings.NewReader(body))
		if err != nil {
			return
		}
		u, err := r.URL.Parse(path)
		if err != nil {
			return
		}
		r.URL = u
		h := newHandler(Config{Backend: &strictBackend{t: t}, Log: quiet()})
		w := httptest.NewRecorder()
		h.serve(routes, w, r.WithContext(context.WithValue(t.Context(), peerKey{}, peer{pid: 1})))
		if w.Code >= 500 {
			t.Errorf("%s %s %q: %d %s", method, path, body, w.Code, w.Body)
		}
		var e Error
		if w.Code >= 400 && (json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Message == "") {
			t.Errorf("%s %s: %d without an Error: %q", method, path, w.Code, w.Body)
		}
	})
}
