package nri

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"github.com/vcgroupfs/vcgroupfs/policy"
)

// runtimeSocket is in the environment of this test's program when it is to be a runtime of its own: it listens there.
const runtimeSocket = "VCGROUPFS_TEST_NRI_SOCKET"

func TestMain(m *testing.M) {
	logrus.SetLevel(logrus.ErrorLevel) // the library's, on both sides
	if socket := os.Getenv(runtimeSocket); socket != "" {
		if err := beRuntime(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runtime is the side of NRI that containerd and CRI-O have.
type runtime struct {
	*adaptation.Adaptation
	synced chan struct{} // a plugin has come
}

func newRuntime(socket string, options ...adaptation.Option) (*runtime, error) {
	r := &runtime{synced: make(chan struct{}, 16)}
	synchronize := func(ctx context.Context, each adaptation.SyncCB) error {
		_, err := each(ctx, nil, nil)
		r.synced <- struct{}{}
		return err
	}
	update := func(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) { return nil, nil }
	none := filepath.Join(filepath.Dir(socket), "none")
	options = append(options, adaptation.WithSocketPath(socket), adaptation.WithPluginPath(none), adaptation.WithPluginConfigPath(none))
	var err error
	if r.Adaptation, err = adaptation.New("test", "v1.0.0", synchronize, update, options...); err != nil {
		return nil, err
	}
	if err := r.Start(); err != nil {
		return nil, err
	}
	<-r.synced // the plugins that it starts itself: there are none
	return r, nil
}

// connected waits until an external plugin serves.
func (r *runtime) connected() error {
	select {
	case <-r.synced:
		r.BlockPluginSync().Unblock()
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("no plugin has connected")
	}
}

// create asks for a container "web" of a pod with annotations, KEY=VALUE each.
func (r *runtime) create(annotations ...string) (*api.ContainerAdjustment, error) {
	defer r.BlockPluginSync().Unblock()
	pod := &api.PodSandbox{Id: "p0", Name: "pod", Namespace: "default", Annotations: map[string]string{}}
	for _, a := range annotations {
		key, value, _ := strings.Cut(a, "=")
		pod.Annotations[key] = value
	}
	answer, err := r.CreateContainer(context.Background(), &api.CreateContainerRequest{
		Pod: pod, Container: &api.Container{Id: "c0", PodSandboxId: "p0", Name: "web"},
	})
	return answer.GetAdjust(), err
}

func startRuntime(t *testing.T, socket string, options ...adaptation.Option) *runtime {
	t.Helper()
	r, err := newRuntime(socket, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

// start runs a plugin until the test ends, or what it returns is called.
func start(t *testing.T, p Plugin, socket string) (stop func()) {
	t.Helper()
	p.Name, p.Index, p.Program, p.Socket = "vcgroupfs", "90", "/opt/vcgroupfs", "/run/api.sock"
	p.Log = logrus.NewEntry(logrus.StandardLogger())
	if p.Policy == nil {
		p.Policy = policy.Default()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, socket) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the plugin does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

// connect starts both sides.
func connect(t *testing.T, p Plugin) *runtime {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "nri.sock")
	r := startRuntime(t, socket)
	start(t, p, socket)
	if err := r.connected(); err != nil {
		t.Fatal(err)
	}
	return r
}

func hooks(args string) *api.Hooks {
	base := "vcgroupfs hook oci --made-by nri --socket /run/api.sock"
	return &api.Hooks{
		CreateRuntime: []*api.Hook{{Path: "/opt/vcgroupfs", Args: strings.Fields(base + " " + args)}},
		Poststop:      []*api.Hook{{Path: "/opt/vcgroupfs", Args: strings.Fields(base)}},
	}
}

// TestCreateContainer: who asks gets the hooks and nothing else, who asks for nothing is left alone, who asks wrongly fails.
func TestCreateContainer(t *testing.T) {
	const view, controllers = "cgroups.vcgroupfs.dev", "controllers.cgroups.vcgroupfs.dev"
	const stack, tmpfs = "stack.cgroups.vcgroupfs.dev", "tmpfs.cgroups.vcgroupfs.dev"
	pids, err := policy.Parse("pids.yaml", []byte("version: 1\ncontrollers: [pids, memory]\n"))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := policy.Default().WithControllers([]string{"memory", "pids"})
	if err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	type ask struct {
		annotations string
		want        *api.Hooks // nil: none
		fails       string     // part of the error
	}
	for name, p := range map[string]struct {
		plugin Plugin
		asks   []ask
	}{
		"defaults": {Plugin{}, []ask{
			{"", nil, ""},
			{"other=true", nil, ""},
			{view + "=false", nil, ""},
			{view + "=true", hooks(""), ""},
			{view + "/pod=true", hooks(""), ""},
			{view + "/container.web=true", hooks(""), ""},
			{view + "/container.db=true", nil, ""},
			{view + "=true " + view + "/container.web=false", nil, ""},
			{view + "=false " + view + "/container.web=true", hooks(""), ""},
			{view + "=false " + view + "/pod=true", hooks(""), ""},
			{view + "=yes", nil, `"true", "false"`},
			{view + "=", nil, view},
			{view + "=True", nil, view},
			{view + "=true " + view + "/container.web=1", nil, `"1"`},
			{view + "=yes " + view + "/container.web=true", hooks(""), ""},
			{view + "=true " + controllers + "=pids,memory", hooks("--controllers pids,memory"), ""},
			{view + "=true " + controllers + "=pids " + controllers + "/container.web=memory", hooks("--controllers memory"), ""},
			{view + "=true " + controllers + "=", hooks(""), ""},
			{view + "=true " + controllers + "=,", nil, controllers},
			{view + "=true " + controllers + "=--policy", nil, "--policy"},
			{controllers + "=nonsense", nil, ""}, // nothing is asked for
			{tmpfs + "=true", nil, ""},
			{view + "=true " + tmpfs + "=true", hooks("--tmpfs"), ""},
			{view + "=true " + tmpfs + "/container.web=true " + controllers + "=name=systemd,pids", hooks("--controllers name=systemd,pids --tmpfs"), ""},
			{view + "=true " + tmpfs + "/container.db=true", hooks(""), ""},
			{view + "=true " + tmpfs + "=true " + stack + "=true", hooks("--stack --tmpfs"), ""},
			{view + "=true " + tmpfs + "=yes", nil, `tmpfs.cgroups.vcgroupfs.dev: "yes"`},
			{view + "=true " + stack + "=", nil, stack},
			{view + "=true " + stack + "=false", hooks("--no-stack"), ""},
			{view + "=true " + stack + "/container.db=false", hooks(""), ""},
		}},
		"no stack": {Plugin{Stack: &no}, []ask{
			{view + "=true", hooks("--no-stack"), ""},
			{view + "=true " + stack + "=true", hooks("--stack"), ""},
		}},
		"tmpfs": {Plugin{Tmpfs: true, Options: []string{"--proc-cgroups"}}, []ask{
			{view + "=true", hooks("--tmpfs --proc-cgroups"), ""},
			{view + "=true " + tmpfs + "/container.web=false", hooks("--proc-cgroups"), ""},
			{"", nil, ""},
		}},
		"narrowed": {Plugin{Controllers: []string{"memory", "pids"}, Policy: memory, Stack: &yes}, []ask{
			{"", nil, ""},
			{view + "=true", hooks("--controllers memory,pids --stack"), ""},
			{view + "=true " + controllers + "=pids", hooks("--controllers pids --stack"), ""},
			{view + "=true " + stack + "=false", hooks("--controllers memory,pids --no-stack"), ""},
			{view + "=true " + controllers + "=pids,cpu", nil, `"cpu" is not allowed; the host allows memory, pids`},
		}},
		"policy": {Plugin{PolicyFile: "/etc/p.yaml", Policy: pids}, []ask{
			{view + "=true", hooks("--policy /etc/p.yaml"), ""},
			{view + "=true " + controllers + "=pids", hooks("--controllers pids --policy /etc/p.yaml"), ""},
			{view + "=true " + controllers + "=cpu", nil, "pids.yaml"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := connect(t, p.plugin)
			untouched, err := r.create()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range p.asks {
				got, err := r.create(strings.Fields(c.annotations)...)
				if c.fails != "" {
					if err == nil || !strings.Contains(err.Error(), c.fails) {
						t.Errorf("%s: %v, %v; want %q", c.annotations, got, err, c.fails)
					}
					continue
				}
				want := proto.Clone(untouched).(*api.ContainerAdjustment)
				if c.want != nil {
					want.Hooks = c.want
				}
				if err != nil || !proto.Equal(got, want) {
					t.Errorf("%s: %v, %v; want %v", c.annotations, got, err, want)
				}
			}
		})
	}
}

// TestRequired: with the runtime's own validator a container fails that the plugin was to see and did not, and one that may have no
// hooks.
func TestRequired(t *testing.T) {
	const required = `required-plugins.noderesource.dev=["vcgroupfs"]`
	socket := filepath.Join(t.TempDir(), "nri.sock")
	r := startRuntime(t, socket, adaptation.WithDefaultValidator(&validator.DefaultValidatorConfig{Enable: true}))
	if _, err := r.create(ViewAnnotation + "=true"); err != nil {
		t.Errorf("not required: %v", err)
	}
	if _, err := r.create(ViewAnnotation+"=true", required); err == nil || !strings.Contains(err.Error(), "vcgroupfs") {
		t.Errorf("required, and not there: %v", err)
	}
	stop := start(t, Plugin{}, socket)
	if err := r.connected(); err != nil {
		t.Fatal(err)
	}
	if got, err := r.create(ViewAnnotation+"=true", required); err != nil || !proto.Equal(got.GetHooks(), hooks("")) {
		t.Errorf("required, and there: %v, %v", got, err)
	}
	stop()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := r.create(ViewAnnotation+"=true", required); err != nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("required, and gone: the container starts")
		}
	}

	socket = filepath.Join(t.TempDir(), "nri.sock")
	r = startRuntime(t, socket, adaptation.WithDefaultValidator(&validator.DefaultValidatorConfig{Enable: true, RejectOCIHookAdjustment: true}))
	start(t, Plugin{}, socket)
	if err := r.connected(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.create(ViewAnnotation + "=true"); err == nil {
		t.Error("hooks are rejected: the container starts")
	}
}

// TestReconnect: the plugin waits for a runtime, and serves the next one when that one is killed.
func TestReconnect(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nri.sock")
	start(t, Plugin{}, socket)
	for i := range 3 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), runtimeSocket+"="+socket)
		cmd.Stderr = os.Stderr
		if _, err := cmd.StdinPipe(); err != nil { // ends with this process
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if want := strings.Join(hooks("").CreateRuntime[0].Args, " ") + "\n"; err != nil || line != want {
			t.Errorf("runtime %d: %q, %v; want %q", i, line, err, want)
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// beRuntime waits for a plugin, prints the hook of a container that asks for a view, and lives until its input ends.
func beRuntime(socket string) error {
	r, err := newRuntime(socket)
	if err != nil {
		return err
	}
	if err := r.connected(); err != nil {
		return err
	}
	got, err := r.create(ViewAnnotation + "=true")
	if err != nil {
		return err
	}
	for _, h := range got.GetHooks().GetCreateRuntime() {
		fmt.Println(strings.Join(h.Args, " "))
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// TestIdentity: what no runtime takes is an error at once.
func TestIdentity(t *testing.T) {
	for _, p := range []Plugin{{Name: "a b", Index: "90"}, {Name: "vcgroupfs", Index: "9"}, {Name: "vcgroupfs", Index: "xx"}} {
		if err := p.Run(t.Context(), "/nonexistent"); err == nil {
			t.Errorf("%s, %s: no error", p.Name, p.Index)
		}
	}
}
