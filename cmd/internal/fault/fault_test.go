package fault_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api/apitest"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

func document(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile("../../../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// TestDocument: docs/exit-codes.md has each constant with its value, and no other.
func TestDocument(t *testing.T) {
	doc := document(t)
	file, err := parser.ParseFile(token.NewFileSet(), "exitcode.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		v, ok := node.(*ast.ValueSpec)
		if !ok || len(v.Values) == 0 {
			return true
		}
		value, name := v.Values[0].(*ast.BasicLit).Value, strings.TrimPrefix(v.Names[0].Name, "Exit")
		if value == "128" {
			value = "128+n"
		}
		if !strings.Contains(doc, fmt.Sprintf("| %s | %s | ", value, name)) {
			t.Errorf("%s = %s is not in the document", name, value)
		}
		n++
		return true
	})
	if rows := len(regexp.MustCompile(`(?m)^\| \d\S* \| [A-Z]`).FindAllString(doc, -1)); n < 11 || rows != n {
		t.Errorf("%d constants, %d rows", n, rows)
	}
}

// killer is a backend that can kill no guest.
type killer struct {
	api.Backend
	err error
}

func (k *killer) Do(context.Context, api.Verb, string) (any, error) { return nil, k.err }
func (k *killer) InGuest(int) bool                                  { return false }

// serve has a backend answer on a socket, with what a bare client and ours make of its answers.
func serve(t *testing.T, backend api.Backend) (socket string, bare *http.Client, ours *api.Client) {
	t.Helper()
	socket = apitest.Serve(t, backend)
	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }
	bare = &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	ours = api.NewClient(socket)
	t.Cleanup(ours.Close)
	return socket, bare, ours
}

// TestKinds: every kind has its rows in docs/exit-codes.md and every row there is a kind's; on the wire it has its
// code and status, and at the other end it is the same kind again, with the same message and exit code. A kind of this
// process alone is Failed there.
func TestKinds(t *testing.T) {
	doc := document(t)
	backend := &killer{}
	_, bare, ours := serve(t, backend)
	documented := regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (\\d+) \\| (\\d+) \\|").FindAllStringSubmatch(doc, -1)
	onWire := 0
	for _, k := range fault.Kinds() {
		code, status, exit := fault.RowOf(k)
		want := k
		if code == "" {
			want = fault.Failed
			code, status = want.Code(), want.Status()
		} else {
			onWire++
			if !strings.Contains(doc, fmt.Sprintf("| `%s` | %d | %d |", code, status, exit)) || fault.KindOf(code) != k {
				t.Errorf("%s (%d, %d) is not in the document, or the code of %d", code, status, exit, fault.KindOf(code))
			}
		}
		if !strings.Contains(doc, fmt.Sprintf("\n| %d | ", exit)) || k.Code() != code || k.Status() != status {
			t.Errorf("kind %d: %q, %d, %d", k, k.Code(), k.Status(), exit)
		}
		backend.err = fmt.Errorf("y: %w", fault.New(k, "why"))
		if got := fault.ExitCode(backend.err); got != exit || fault.Of(backend.err) != k {
			t.Errorf("%s ends with %d", code, got)
		}
		answer, err := bare.Post("http://x/v1/guests/web/kill", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != status || !strings.Contains(string(body), `"code":"`+code+`","message":"y: why"`) {
			t.Errorf("%s: %d %s", code, answer.StatusCode, body)
		}
		err = ours.Do(t.Context(), api.Kill, "web", nil)
		if fault.Of(err) != want || fault.ExitCode(err) != want.ExitCode() || err.Error() != "y: why" {
			t.Errorf("%s arrives as kind %d: %v", code, fault.Of(err), err)
		}
	}
	if len(documented) != onWire {
		t.Errorf("%d rows in the document, %d kinds on the wire", len(documented), onWire)
	}
	for _, row := range documented {
		k := fault.KindOf(row[1])
		if got := []string{k.Code(), fmt.Sprint(k.Status()), fmt.Sprint(k.ExitCode())}; strings.Join(got, " ") != strings.Join(row[1:], " ") {
			t.Errorf("%v is documented as %v", got, row[1:])
		}
	}
	if got := fault.KindOf("of a later version").ExitCode(); got != fault.ExitFailure {
		t.Errorf("an unknown code ends with %d", got)
	}
	for _, k := range []fault.Kind{-1, fault.Kind(len(fault.Kinds()))} { // of another process
		if k.ExitCode() != fault.ExitFailure || k.Code() != "failed" {
			t.Errorf("kind %d ends with %d", k, k.ExitCode())
		}
	}
}

// TestWith: the first kind that an error is given stays, and the error inside is found.
func TestWith(t *testing.T) {
	plain := errors.New("x")
	wrapped := fmt.Errorf("y: %w", fault.With(fault.BadPolicy, plain))
	if fault.ExitCode(nil) != fault.ExitOK || fault.ExitCode(plain) != fault.ExitFailure || fault.ExitCode(wrapped) != fault.ExitBadPolicy ||
		fault.With(fault.Invalid, nil) != nil || fault.Of(fault.With(fault.Invalid, wrapped)) != fault.BadPolicy ||
		fault.Of(fault.New(fault.Invalid, "z: %w", wrapped)) != fault.BadPolicy {
		t.Error("kinds are lost or replaced")
	}
	if !errors.Is(wrapped, plain) {
		t.Error("the error is lost")
	}
}
