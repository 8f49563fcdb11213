package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
)

func (h *handler) info(*request) (any, error) { return h.cfg.Backend.Info(), nil }

func (h *handler) guests(*request) (any, error) {
	// A copy: the backend may keep its own.
	all := list(slices.Clone(h.cfg.Backend.Guests()))
	for i := range all {
		all[i].Hierarchies = list(all[i].Hierarchies)
	}
	return all, nil
}

func (h *handler) guest(q *request) (any, error) {
	g, err := h.cfg.Backend.Guest(q.name)
	g.Hierarchies = list(g.Hierarchies)
	return g, err
}

func (h *handler) add(q *request) (any, error) {
	var spec GuestSpec
	if err := q.body(&spec); err != nil {
		return nil, err
	}
	p, err := spec.Check()
	if err != nil {
		return nil, fault.With(fault.Invalid, err)
	}
	by, err := makerOf(q.r.Header)
	if err != nil {
		return nil, err
	}
	if spec.OfRuntime {
		if spec, p, err = h.cfg.Backend.OfRuntime(q.name, spec, p, q.pid); err != nil {
			return nil, err
		}
	}
	g, made, err := h.cfg.Backend.Add(q.ctx(), q.name, spec, p, by)
	g.Hierarchies = list(g.Hierarchies)
	if made {
		return created{g}, err
	}
	return g, err
}

func (h *handler) remove(q *request) (any, error) {
	by, err := makerOf(q.r.Header)
	if err != nil {
		return nil, err
	}
	force, err := parseForce(q.r.URL.Query()[forceParameter])
	if err != nil {
		return nil, fault.With(fault.Invalid, err)
	}
	return nil, h.cfg.Backend.Remove(q.ctx(), q.name, by, force)
}

// fillLists replaces nil lists of a tree, which would be null on the wire.
func fillLists(c *Cgroup) {
	c.Hierarchies, c.Processes, c.Children = list(c.Hierarchies), list(c.Processes), list(slices.Clone(c.Children))
	for i := range c.Children {
		fillLists(&c.Children[i])
	}
}

func (h *handler) top(*request) (any, error) { return list(h.cfg.Backend.Top()), nil }

func (h *handler) set(q *request) (any, error) {
	var limits []Limit
	if err := q.body(&limits); err != nil {
		return nil, err
	}
	if err := CheckLimits(limits); err != nil {
		return nil, fault.With(fault.Invalid, err)
	}
	changes, err := h.cfg.Backend.Set(q.name, limits)
	return list(changes), err
}

func (h *handler) showType(q *request) (any, error) {
	var r TypeRequest
	if err := q.body(&r); err != nil {
		return nil, err
	}
	if r.FD < 0 {
		return nil, fault.New(fault.Invalid, "fd: %d is not allowed; give a descriptor that you have open", r.FD)
	}
	return nil, h.cfg.Backend.ShowType(q.ctx(), q.pid, r)
}

func (h *handler) upgrade(q *request) (any, error) {
	var u UpgradeRequest
	if err := q.body(&u); err != nil {
		return nil, err
	}
	if err := u.check(); err != nil {
		return nil, fault.With(fault.Invalid, err)
	}
	return nil, h.cfg.Backend.Upgrade(q.ctx(), u.Program)
}

// events streams until the client disconnects or the server stops. It sends the header at once: from then on the client
// misses nothing. A client that does not read is dropped after writeTimeout. An empty line from time to time, while
// nothing happens, detects such a client.
func (h *handler) events(q *request) (any, error) {
	name := q.r.URL.Query().Get("guest")
	if name != "" {
		if err := spec.CheckName(name); err != nil {
			return nil, fault.With(fault.Invalid, err)
		}
	}
	if err := h.streams.begin(q.uid); err != nil {
		return nil, err
	}
	defer h.streams.end(q.uid)
	events, cancel := h.cfg.Backend.Subscribe(name)
	defer cancel()
	control := http.NewResponseController(q.w)
	encode := json.NewEncoder(q.w)
	q.w.Header().Set("Content-Type", "application/x-ndjson")
	q.w.WriteHeader(http.StatusOK)
	flush := func() error {
		control.SetWriteDeadline(time.Now().Add(writeTimeout))
		return control.Flush()
	}
	if flush() != nil {
		return answered{}, nil
	}
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for {
		select {
		case <-ping.C:
			if _, err := q.w.Write([]byte("\n")); err != nil || flush() != nil {
				return answered{}, nil
			}
		case <-q.ctx().Done():
			return answered{}, nil
		case <-h.stop:
			return answered{}, nil
		case e, more := <-events:
			if !more || encode.Encode(e) != nil || flush() != nil {
				return answered{}, nil
			}
		}
	}
}

func (h *handler) metrics(q *request) (any, error) {
	if h.cfg.Metrics == nil {
		return nil, fault.New(fault.NotFound, "there are no metrics")
	}
	http.NewResponseController(q.w).SetWriteDeadline(time.Now().Add(writeTimeout))
	h.cfg.Metrics.ServeHTTP(q.w, q.r)
	return answered{}, nil
}

func (h *handler) healthz(*request) (any, error) {
	if h.cfg.Healthy != nil {
		if err := h.cfg.Healthy(); err != nil {
			return nil, fault.New(fault.Busy, "not healthy: %v", err)
		}
	}
	return map[string]string{"status": "ok"}, nil
}
