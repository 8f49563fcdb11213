package api

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

const goodSpec = `{"boundary": "/machines/web", "target": "/srv/web"}`

// requests is what the server makes of right and wrong requests.
var requests = []struct {
	request, body string
	status        int
	says          string
	call          string // that reached the backend
}{
	{"GET /v1/info", "", 200, `"version":"test"`, ""},
	{"GET /v1/guests", "", 200, "[", ""},
	{"GET /v1/top", "", 200, "[]", ""},
	{"PUT /v1/guests/web", goodSpec, 201, `"name":"web"`, "add web"},
	{"PUT /v1/guests/web", goodSpec, 200, `"hierarchies":[]`, "add web"},
	{"GET /v1/guests/web", "", 200, `"boundary":"/machines/web"`, ""},
	{"GET /v1/guests/web/tree", "", 200, `"children":[{"name":"a","hierarchies":[],"processes":[]`, ""},
	{"GET /v1/guests/none", "", 404, `"code":"not-found"`, ""},
	{"POST /v1/guests/web/set", `[{"file": "pids.max", "value": "64"}]`, 200, `"from":"max","to":"64"`, "set web"},
	{"POST /v1/guests/web/freeze", "", 204, "", "freeze web"},
	{"POST /v1/guests/web/thaw", "", 204, "", "thaw web"},
	{"POST /v1/guests/web/kill", "", 204, "", "kill web"},
	{"POST /v1/upgrade", `{}`, 204, "", "upgrade "},
	{"POST /v1/upgrade", `{"program": "/usr/bin/vcgroupfs"}`, 204, "", "upgrade /usr/bin/vcgroupfs"},
	{"PUT /v1/type", `{"fd": 7, "types": [0, 5]}`, 204, "", "type true 7 5"},
	{"PUT /v1/type", `{"fd": -1}`, 400, "fd: -1 is not allowed", ""},
	{"PUT /v1/type", `{"fd": 1, "types": [-1]}`, 400, "types", ""},
	{"PUT /v1/type", `{"fd": 1, "types": {}}`, 400, "a list", ""},
	{"PUT /v1/type", `{"device": 1}`, 400, "unknown field", ""},
	{"GET /v1/type", "", 405, "allowed: PUT", ""},
	{"GET /healthz", "", 200, `"ok"`, ""},
	{"GET /healthz?verbose=1", "", 200, `"ok"`, ""},
	{"GET /metrics", "", 404, "no metrics", ""},
	{"DELETE /v1/guests/web?force=yes", "", 400, "allowed: true, false", ""},
	{"DELETE /v1/guests/web?forec=true", "", 400, "allowed: force", ""},
	{"DELETE /v1/guests/none?force=true", "", 404, "", "remove none by force"},
	{"DELETE /v1/guests/web?force=false", "", 204, "", "remove web"},
	{"DELETE /v1/guests/web", "", 404, `"code":"not-found"`, "remove web"},

	{"GET /", "", 404, "there is no /", ""},
	{"GET /v1", "", 404, "not-found", ""},
	{"GET /v1/guests/", "", 400, "cannot use the name", ""},
	{"GET //v1/guests", "", 404, "not-found", ""},
	{"GET /v1/../v1/info", "", 404, "not-found", ""},
	{"GET /v2/info", "", 404, "not-found", ""},
	{"POST /v1/info", "", 405, "allowed: GET", ""},
	{"HEAD /v1/info", "", 405, "", ""},
	{"OPTIONS /v1/guests/web", "", 405, "allowed: GET, PUT, DELETE", ""},
	{"BREW /v1/guests/web/kill", "", 405, "allowed: POST", ""},
	{"PUT /v1/guests/..%2f..%2fetc", goodSpec, 400, "cannot use the name", ""},
	{"PUT /v1/guests/%zz", goodSpec, 400, "", ""},
	{"PUT /v1/guests/memory.max", goodSpec, 400, "cannot use the name", ""},
	{"GET /v1/info?x=1", "", 400, `unknown parameter \"x\"`, ""},
	{"GET /v1/events?guest=../x", "", 400, "cannot use the name", ""},
	{"GET /v1/events?guets=x", "", 400, "allowed: guest", ""},
	{"GET /v1/events?guest=a&guest=b", "", 400, "given twice", ""},
	{"GET /v1/info?%zz", "", 400, "cannot read the query", ""},
	{"GET /v1/info", "{}", 400, "takes no body", ""},
	{"POST /v1/guests/web/kill", "{}", 400, "takes no body", ""},

	{"PUT /v1/guests/web", `{"pid": 1, "ofRuntime": true}`, 201, `"spec":{"pid":1,"currentCgroup":true}`, "runtime true,add web"},
	{"DELETE /v1/guests/web", "", 204, "", "remove web"},
	{"PUT /v1/guests/web", "", 400, "the body is empty; give an object", ""},
	{"PUT /v1/guests/web", "{", 400, "ends too early", ""},
	{"PUT /v1/guests/web", "[]", 400, "the body must be an object, not array", ""},
	{"PUT /v1/guests/web", "{]", 400, "not JSON", ""},
	{"PUT /v1/guests/web", goodSpec + "x", 400, "data after the JSON value", ""},
	{"PUT /v1/guests/web", goodSpec + goodSpec, 400, "data after the JSON value", ""},
	{"PUT /v1/guests/web", `{"boundry": "/x"}`, 400, `unknown field \"boundry\"; allowed: boundary, pid, currentCgroup, ofRuntime, target, rootfs, over, into, controllers, policy, owner, layout, limits`, ""},
	{"PUT /v1/guests/web", `{"Boundary": "/x"}`, 400, `unknown field \"Boundary\"`, ""},
	{"PUT /v1/guests/web", `{"pid": 1, "pid": 2}`, 400, `field \"pid\" is given twice`, ""},
	{"PUT /v1/guests/web", `{"pid": "1"}`, 400, `field \"pid\" must be a whole number, not string`, ""},
	{"PUT /v1/guests/web", `{"pid": 1.5}`, 400, `field \"pid\" must be a whole number`, ""},
	{"PUT /v1/guests/web", `{"limits": {"a": 1}}`, 400, `must be a text, not number`, ""},
	{"PUT /v1/guests/web", `{"limits": {"a": "1", "a": "2"}}`, 400, `field \"limits.a\" is given twice`, ""},
	{"PUT /v1/guests/web", `{"controllers": "cpu"}`, 400, `field \"controllers\" must be a list`, ""},
	{"PUT /v1/guests/web", `{"target": ` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + "}", 400, "nests deeper", ""},
	{"PUT /v1/guests/web", "{\"target\": \"/\xff\"}", 400, "not UTF-8", ""},
	{"PUT /v1/guests/web", `{"policy": "` + strings.Repeat("x", maxBody) + `"}`, 400, "too large; allowed: 1048576 bytes", ""},
	{"PUT /v1/guests/web", "null", 400, "boundary: not given", ""},
	{"POST /v1/guests/web/set", `[]`, 400, "0 limits; give 1 to", ""},
	{"POST /v1/guests/web/set", `null`, 400, "0 limits", ""},
	{"POST /v1/guests/web/set", `{"file": "pids.max"}`, 400, "the body must be a list, not object", ""},
	{"POST /v1/guests/web/set", `[{"file": "../x", "value": "1"}, {"file": "a", "value": ""}]`, 400, `[1]: the value of a is not allowed`, ""},
	{"POST /v1/guests/web/set", `[{"file": "a", "valeu": "1"}]`, 400, `unknown field \"[0].valeu\"; allowed: file, value`, ""},
	{"POST /v1/upgrade", `{"program": "x"}`, 400, "program: ", ""},
}

// TestRequests: right requests are served and wrong ones change nothing, in order.
func TestRequests(t *testing.T) {
	backend := &fake{}
	socket, _ := served(t, Config{Backend: backend})
	for _, c := range requests {
		method, path, _ := strings.Cut(c.request, " ")
		status, body, err := ask(socket, method, path, c.body)
		calls := strings.Join(backend.reached(), ",")
		if err != nil || status != c.status || !strings.Contains(body, c.says) || calls != c.call {
			t.Errorf("%s %.60s: %d %s %v, reached %q; want %d %s, %q", c.request, c.body, status, body, err, calls, c.status, c.says, c.call)
		}
		var e Error
		if status >= 400 && method != "HEAD" && !strings.Contains(path, "%zz") && // which net/http refuses
			(json.Unmarshal([]byte(body), &e) != nil || e.Code == "" || e.Message == "") {
			t.Errorf("%s: %q is no Error", c.request, body)
		}
	}
}

// TestVerbs: each verb of the table has one route with one method, takes a name and no body, and reaches the backend.
func TestVerbs(t *testing.T) {
	backend := &fake{guests: map[string]GuestSpec{"web": {}}}
	socket, _ := served(t, Config{Backend: backend})
	for _, row := range verbs {
		path := "/v1/guests/web/" + string(row.verb)
		want, call := 200, string(row.verb)+" web"
		if row.answer == nil {
			want = 204
		}
		if row.verb == Tree {
			call = ""
		}
		status, body, err := ask(socket, row.method, path, "")
		if calls := strings.Join(backend.reached(), ","); err != nil || status != want || calls != call {
			t.Errorf("%s: %d %s, calls %q, %v", row.verb, status, body, calls, err)
		}
		other := map[string]string{"GET": "POST", "POST": "GET"}[row.method]
		if status, body, _ := ask(socket, other, path, ""); status != 405 || !strings.Contains(body, "allowed: "+row.method) {
			t.Errorf("%s %s: %d %s", other, row.verb, status, body)
		}
		if status, body, _ := ask(socket, row.method, path, "{}"); status != 400 || !strings.Contains(body, "takes no body") {
			t.Errorf("%s with a body: %d %s", row.verb, status, body)
		}
		bad := strings.Replace(path, "web", "..%2fx", 1)
		if status, body, _ := ask(socket, row.method, bad, ""); status != 400 || !strings.Contains(body, "cannot use the name") {
			t.Errorf("%s: %d %s", bad, status, body)
		}
		if calls := backend.reached(); len(calls) > 0 {
			t.Errorf("%s: a wrong request reached the backend: %q", row.verb, calls)
		}
	}
	err := NewClient(socket).Do(t.Context(), "dance", "web", nil)
	if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), `no verb "dance"; allowed: ["tree"`) {
		t.Error(err)
	}
}

// TestChecks: each fault of a spec, and all at once.
func TestChecks(t *testing.T) {
	for spec, want := range map[string]string{
		`{"boundary": "/a", "target": "/t"}`:                                     "",
		`{"pid": 1, "target": "/t", "owner": "1:2", "layout": "v1"}`:             "",
		`{"boundary": "/a", "target": "/t", "controllers": ["cpu", "name=x"]}`:   "",
		`{"boundary": "/a", "target": "/t", "policy": "version: 1\n"}`:           "",
		`{"boundary": "/a", "target": "/t", "limits": {"io.max": "8:0 rbps=1"}}`: "",
		`{"boundary": "/a"}`: "",
		`{"pid": 1, "currentCgroup": true, "into": {"path": "/sys/fs/cgroup", "rootfs": "/r", "stack": true}}`: "",
		`{"pid": 1, "ofRuntime": true}`:                                                         "",
		`{"boundary": "/a", "ofRuntime": true}`:                                                 "ofRuntime: given without pid",
		`{"pid": 1, "ofRuntime": true, "currentCgroup": true}`:                                  "beside currentCgroup",
		`{"pid": 1, "into": {"path": "/sys/fs/cgroup", "stack": false}}`:                        "",
		`{"boundary": "/a", "currentCgroup": true}`:                                             "currentCgroup: given without pid",
		`{"boundary": "/a", "into": {"path": "/t"}}`:                                            "into: given without pid",
		`{"pid": 1, "into": {"path": "t"}}`:                                                     "into.path: ",
		`{"pid": 1, "into": {"path": "/t", "rootfs": "/a/../b"}}`:                               "into.rootfs: ",
		`{"boundary": "/a", "pid": 1, "target": "/t"}`:                                          "given beside pid",
		`{"boundary": "a", "target": "/t"}`:                                                     "boundary: \"a\" is not allowed",
		`{"boundary": "/", "target": "/t"}`:                                                     "below the root",
		`{"boundary": "/a/../b", "target": "/t"}`:                                               "boundary: ",
		`{"boundary": "/a/", "target": "/t"}`:                                                   "boundary: ",
		`{"boundary": "/a\u0000", "target": "/t"}`:                                              "boundary: ",
		`{"pid": -1, "target": "/t"}`:                                                           "pid: -1",
		`{"pid": 1, "rootfs": "/r", "target": "/t"}`:                                            "",
		`{"pid": 1, "over": true}`:                                                              "over: given without target",
		`{"pid": 1, "rootfs": "/r"}`:                                                            "rootfs: given without target",
		`{"pid": 1, "rootfs": "/r/../x", "target": "/t"}`:                                       "rootfs: \"/r/../x\" is not allowed",
		`{"pid": 1, "target": "t"}`:                                                             "target: \"t\"",
		`{"pid": 1, "target": "/"}`:                                                             "target: ",
		`{"pid": 1, "target": "/a//b"}`:                                                         "target: ",
		`{"pid": 1, "target": "/t", "owner": "root"}`:                                           "owner: ",
		`{"pid": 1, "target": "/t", "layout": "v3"}`:                                            "layout: unknown layout \"v3\"; allowed: auto",
		`{"pid": 1, "target": "/t", "policy": "version: 2\nx: 1\n"}`:                            "policy: ",
		`{"pid": 1, "target": "/t", "controllers": ["cpux", "memoryx"]}`:                        "controllers: cannot show controller \"memoryx\"",
		`{"pid": 1, "target": "/t", "limits": {"a/b": "1"}}`:                                    "limits: \"a/b\"",
		`{"pid": 1, "target": "/t", "limits": {"a": ""}}`:                                       "limits: the value of a",
		`{"pid": 1, "target": "/t", "limits": {"a": "1\n2"}}`:                                   "limits: ",
		`{"pid": 1, "target": "/t", "policy": "controllers: [memory]", "controllers": ["cpu"]}`: "",
	} {
		var s GuestSpec
		if err := decode([]byte(spec), &s); err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		if _, err := s.Check(); want == "" && err != nil && !strings.Contains(spec, "[memory]") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v; want %q", spec, err, want)
		}
	}
	all := GuestSpec{Target: "x", Owner: "x", Layout: "x", Controllers: []string{"x"}, Policy: "x: [", Limits: map[string]string{"": "1", "/": "2"}}
	if _, err := all.Check(); err == nil || strings.Count(err.Error(), "\n") < 6 {
		t.Errorf("not all faults at once: %v", err)
	}
}

// TestErrors: an error without a kind is answered as failed (each kind: package fault); a panic is answered and
// logged, and the server goes on.
func TestErrors(t *testing.T) {
	backend := &fake{}
	var log lockedBuffer
	l := logrus.New()
	l.SetOutput(&log)
	socket, _ := served(t, Config{Backend: backend, Log: logrus.NewEntry(l), Healthy: func() error { return errTest }})
	backend.failWith(errTest)
	if got, body, _ := ask(socket, "POST", "/v1/guests/web/kill", ""); got != 500 || !strings.Contains(body, `"failed"`) {
		t.Error(got, body)
	}
	if got, body, _ := ask(socket, "GET", "/healthz", ""); got != 503 || !strings.Contains(body, "it broke") {
		t.Error(got, body)
	}
	backend.failWith(panicError{})
	if got, body, _ := ask(socket, "POST", "/v1/guests/web/kill", ""); got != 500 || !strings.Contains(body, "its log says how") || !strings.Contains(log.String(), "as asked") {
		t.Error(got, body, log.String())
	}
	backend.failWith(nil)
	if got, _, err := ask(socket, "POST", "/v1/guests/web/kill", ""); got != 204 {
		t.Error(got, err)
	}
}

type panicError struct{}

func (panicError) Error() string { return "panic" }

// TestLoopback: probes and nothing else, on the loopback interface and no other.
func TestLoopback(t *testing.T) {
	for _, address := range []string{"", "0.0.0.0:0", ":0", "192.0.2.1:0", "[::]:0", "example.org:80", "127.0.0.1", "unix:/x"} {
		if l, err := ListenLoopback(address); err == nil || !strings.Contains(err.Error(), "127.0.0.1:9750") {
			t.Error(address, l, err)
		}
	}
	l, err := ListenLoopback("localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	everywhere, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer everywhere.Close()
	socket := t.TempDir() + "/s"
	m := NewMetrics("x", func() Totals { return Totals{Guests: 3} })
	cfg := Config{Backend: &fake{}, Metrics: m.Handler(), Log: quiet()}
	serveAt(t, cfg, socket, l)
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/v1/info": 404, "/v1/guests": 404, "/": 404} {
		answer, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != want || path == "/metrics" && !strings.Contains(string(raw), "vcgroupfs_guests 3") {
			t.Errorf("%s: %d", path, answer.StatusCode)
		}
	}
	unixListener, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer unixListener.Close()
	if err := Serve(t.Context(), cfg, unixListener, everywhere); err == nil || !strings.Contains(err.Error(), "no address of the loopback interface") {
		t.Error(err)
	}
}

// TestStream: events arrive as they happen, the stream ends with the server, and a client that goes is forgotten.
func TestStream(t *testing.T) {
	backend := &fake{}
	socket, stop := served(t, Config{Backend: backend})
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /v1/events?guest=web HTTP/1.1\r\nHost: x\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || answer.StatusCode != 200 {
		t.Fatal(answer, err)
	}
	lines := bufio.NewScanner(answer.Body)
	for _, want := range []string{EventDenied, EventOOMKill} {
		backend.hub.Publish(Event{Kind: EventLimit, Guest: "other"})
		backend.hub.Publish(Event{Kind: want, Guest: "web"})
		var e Event
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &e) != nil || e.Kind != want || e.Time.IsZero() {
			t.Fatalf("%q", lines.Text())
		}
	}
	gone, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(gone, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	subscribers := func() int {
		backend.hub.mu.Lock()
		defer backend.hub.mu.Unlock()
		return len(backend.hub.subscribers)
	}
	eventually(t, "two subscribe", func() bool { return subscribers() == 2 })
	gone.Close()
	eventually(t, "one is gone", func() bool { return subscribers() == 1 })
	silent, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	start := time.Now()
	stop()
	if lines.Scan() || lines.Err() != nil || time.Since(start) > 2*time.Second {
		t.Error(lines.Text(), lines.Err(), time.Since(start))
	}
}
