package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// Bounds and pauses of retries.
const (
	retryFor   = 10 * time.Second       // during the replacement of the worker
	refusedFor = time.Second            // without any listening daemon
	retryEvery = 50 * time.Millisecond  // at first
	retryMost  = 500 * time.Millisecond // later
)

// Client calls a daemon. During the replacement of the daemon's worker, when a call's connection may break, it repeats
// calls that can be repeated safely. Any goroutine may call any method. An error has the kind of the daemon's answer,
// fault.NoDaemon if no daemon listens on the socket, or fault.Unsupported if the caller may not connect; other errors
// name a remedy.
type Client struct {
	socket string
	http   *http.Client
	maker  Maker // of the guests to add; empty: by hand
}

// NewClient makes a client of the daemon on a socket. It connects at the first call.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket,
		http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true,
			IdleConnTimeout: idleTimeout / 2}}}
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Info returns the daemon's description.
func (c *Client) Info(ctx context.Context) (i Info, err error) {
	return i, c.call(ctx, "GET", "/v1/info", nil, &i)
}

// Guests lists the guests.
func (c *Client) Guests(ctx context.Context) (all []Guest, err error) {
	return all, c.call(ctx, "GET", "/v1/guests", nil, &all)
}

// Guest returns one guest; fault.NotFound if there is none.
func (c *Client) Guest(ctx context.Context, name string) (g Guest, err error) {
	return g, c.call(ctx, "GET", guestPath(name, ""), nil, &g)
}

// As returns the same client for another maker of guests.
func (c *Client) As(by Maker) *Client {
	as := *c
	as.maker = by
	return &as
}

// Add adds a guest. made is false for an existing guest with the same spec; fault.Conflict for one with another spec.
func (c *Client) Add(ctx context.Context, name string, spec GuestSpec) (g Guest, made bool, err error) {
	status, _, err := c.try(ctx, "PUT", guestPath(name, ""), spec, &g)
	return g, status == http.StatusCreated, err
}

// Remove removes a guest; fault.NotFound if there is none, fault.Conflict if it is another maker's or frozen, unless by
// force.
func (c *Client) Remove(ctx context.Context, name string, force bool) error {
	path := guestPath(name, "")
	if force {
		path += "?" + forceParameter + "=true"
	}
	_, again, err := c.try(ctx, "DELETE", path, nil, nil)
	if again && fault.Of(err) == fault.NotFound {
		// An earlier try removed it.
		return nil
	}
	return err
}

// Top returns each guest's present usage.
func (c *Client) Top(ctx context.Context) (all []Usage, err error) {
	return all, c.call(ctx, "GET", "/v1/top", nil, &all)
}

// Set sets limits of a guest and returns the changes. After a retry, changes of the first try may be missing.
func (c *Client) Set(ctx context.Context, name string, limits []Limit) (changes []Change, err error) {
	return changes, c.call(ctx, "POST", guestPath(name, "/set"), limits, &changes)
}

// Upgrade replaces the daemon's program by another one, "" for the path that the daemon was started from.
func (c *Client) Upgrade(ctx context.Context, program string) error {
	return c.call(ctx, "POST", "/v1/upgrade", UpgradeRequest{program}, nil)
}

// ShowType makes statfs answer for a file system; fault.Unsupported if the daemon cannot. A daemon of an earlier
// version answers fault.NotFound.
func (c *Client) ShowType(ctx context.Context, r TypeRequest) error {
	return c.call(ctx, "PUT", "/v1/type", r, nil)
}

// Health returns nil from a healthy daemon, and otherwise an error with the daemon's reason.
func (c *Client) Health(ctx context.Context) error { return c.call(ctx, "GET", "/healthz", nil, nil) }

// Events calls each for every event of a guest, or of all for "", until ctx is done or each fails. It calls follows
// once, when the daemon has begun to send: no later event is missed. When the connection breaks, Events connects again,
// and each gets an EventDropped without a count for the gap. The error is that of ctx, each or the connection.
func (c *Client) Events(ctx context.Context, guest string, follows func(), each func(Event) error) error {
	path := "/v1/events"
	if guest != "" {
		path += "?guest=" + url.QueryEscape(guest)
	}
	for again := false; ; again = true {
		// Error of each.
		var failed error
		err := c.retry(ctx, true, func() error {
			r, err := c.send(ctx, "GET", path, nil)
			if err != nil {
				return err
			}
			defer r.Body.Close()
			if !again {
				follows()
			} else {
				failed = each(Event{Time: time.Now(), Kind: EventDropped, Guest: guest,
					Reason: "the connection to the daemon broke; what happened meanwhile was not told"})
			}
			for d := json.NewDecoder(r.Body); failed == nil; {
				var e Event
				if d.Decode(&e) != nil {
					// The stream never ends by itself: the connection broke.
					break
				}
				failed = each(e)
			}
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || failed != nil {
			return errors.Join(err, failed)
		}
		// A pause, in case a server ends every stream at once.
		time.Sleep(retryEvery)
	}
}

func guestPath(name, what string) string { return "/v1/guests/" + url.PathEscape(name) + what }

// call sends a request and decodes the JSON of the answer.
func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	_, _, err := c.try(ctx, method, path, body, into)
	return err
}

// try is call; again reports more than one try.
func (c *Client) try(ctx context.Context, method, path string, body, into any) (status int, again bool, err error) {
	_, sets := body.([]Limit)
	tries := 0
	err = c.retry(ctx, method != "POST" || sets, func() error {
		tries++
		r, err := c.send(ctx, method, path, body)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		status = r.StatusCode
		if into == nil {
			return nil
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return permanently(fmt.Errorf(
				"cannot understand the answer to %s %s: %w: does the daemon have this program's version?",
				method, path, err))
		}
		return nil
	})
	return status, tries > 1, err
}

// send sends one request. It returns an unsuccessful answer as a *fault.Error.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, permanently(err)
		}
		reader = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://vcgroupfs"+path, reader)
	if err != nil {
		return nil, permanently(err)
	}
	c.maker.put(r.Header)
	answer, err := c.http.Do(r)
	if err != nil || answer.StatusCode < 300 {
		return answer, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	if err != nil {
		return nil, err
	}
	var e Error
	if json.Unmarshal(raw, &e) != nil || e.Code == "" {
		return nil, fault.New(fault.Failed, "the daemon answered %s: %.200q", answer.Status, raw)
	}
	return nil, fault.New(fault.KindOf(e.Code), "%s", e.Message)
}

// permanent marks an error that a retry cannot mend.
type permanent struct{ error }

// Unwrap returns the marked error.
func (p permanent) Unwrap() error { return p.error }

func permanently(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// retry calls do until it succeeds or a retry is pointless. It repeats a call that may have begun only if repeating is
// safe.
func (c *Client) retry(ctx context.Context, idempotent bool, do func() error) error {
	// Time of the first failure.
	var began time.Time
	for pause := retryEvery; ; pause = min(2*pause, retryMost) {
		err := do()
		var said *fault.Error
		var lasting permanent
		switch {
		case err == nil, errors.As(err, &said):
			return err
		case errors.As(err, &lasting):
			return lasting.error
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if began.IsZero() {
			began = time.Now()
		}
		limit := c.patience(err, idempotent)
		if time.Since(began) >= limit {
			return c.explain(err, limit)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// patience bounds the retries after an error.
func (c *Client) patience(err error, idempotent bool) time.Duration {
	dialing := isDial(err)
	switch {
	case dialing && errors.Is(err, unix.ECONNREFUSED):
		return refusedFor
	case dialing && errors.Is(err, unix.EAGAIN):
		// The socket's backlog is full (unix_stream_connect).
		return retryFor
	case dialing:
		return 0
	case idempotent:
		return retryFor
	}
	return 0
}

// isDial reports that nothing was sent.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// explain adds a remedy to an error.
func (c *Client) explain(err error, tried time.Duration) error {
	var address *url.Error
	if errors.As(err, &address) {
		err = address.Err
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return fault.New(fault.NoDaemon,
			"cannot reach the daemon at %s: the daemon is not running: start it with: vcgroupfs serve", c.socket)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fault.New(fault.Unsupported,
			"cannot reach the daemon at %s: %w: run as root, or look as a member of the observers' group",
			c.socket, err)
	case isDial(err) && tried == 0:
		return fmt.Errorf("cannot reach the daemon at %s: %w: is that the daemon's socket", c.socket, err)
	case tried == 0:
		return fmt.Errorf("cannot tell whether the daemon at %s did it: the connection broke: %w: look before you ask again",
			c.socket, err)
	}
	return fmt.Errorf("cannot reach the daemon at %s: it broke off for %v: %w: see its log", c.socket, tried, err)
}
