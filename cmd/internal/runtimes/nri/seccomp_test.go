package nri

import (
	"context"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"
)

func rule(action string, errno any, names ...string) *api.LinuxSyscall {
	return &api.LinuxSyscall{Names: names, Action: action, ErrnoRet: api.UInt32(errno)}
}

func conditional(r *api.LinuxSyscall, value uint64) *api.LinuxSyscall {
	r.Args = []*api.LinuxSeccompArg{{Index: 0, Value: value, Op: "SCMP_CMP_EQ"}}
	return r
}

const notifySocket = "/run/notify"

// seccompCases are policies of containers, and what becomes of them: nil where they are left alone.
var seccompCases = map[string]struct {
	of   *api.LinuxContainer
	want *api.LinuxSeccomp
}{
	"of an older runtime": {&api.LinuxContainer{}, nil},
	"not told":            {&api.LinuxContainer{SeccompProfile: &api.SecurityProfile{ProfileType: api.SecurityProfile_RUNTIME_DEFAULT}}, nil},
	"with a listener":     {&api.LinuxContainer{SeccompPolicy: &api.LinuxSeccomp{DefaultAction: allow, ListenerPath: "/another"}}, nil},
	"unconfined": {
		&api.LinuxContainer{SeccompProfile: &api.SecurityProfile{ProfileType: api.SecurityProfile_UNCONFINED}},
		&api.LinuxSeccomp{DefaultAction: allow, ListenerPath: notifySocket, Syscalls: []*api.LinuxSyscall{
			rule(ask, nil, asked...), rule(refuse, enosys, "clone3"),
		}},
	},
	"the runtime's default, without CAP_SYS_ADMIN": {
		&api.LinuxContainer{SeccompPolicy: &api.LinuxSeccomp{
			DefaultAction: refuse, DefaultErrno: api.UInt32(1), Architectures: []string{"SCMP_ARCH_X86_64"}, Flags: []string{"F"},
			Syscalls: []*api.LinuxSyscall{
				rule(allow, nil, "read", "statfs", "fstatfs", "clone3"), conditional(rule(allow, nil, "statfs64"), 7), rule(refuse, 38, "bpf"),
			},
		}},
		&api.LinuxSeccomp{
			DefaultAction: refuse, DefaultErrno: api.UInt32(1), Architectures: []string{"SCMP_ARCH_X86_64"}, Flags: []string{"F"},
			ListenerPath: notifySocket,
			Syscalls: []*api.LinuxSyscall{
				rule(allow, nil, "read"), rule(ask, nil, "statfs", "fstatfs"), conditional(rule(ask, nil, "statfs64"), 7),
				rule(refuse, 38, "bpf"), rule(refuse, enosys, "clone3"),
			},
		},
	},
	"a list of what is forbidden": {
		&api.LinuxContainer{SeccompPolicy: &api.LinuxSeccomp{DefaultAction: allow, Syscalls: []*api.LinuxSyscall{
			rule(refuse, 1, "mount", "fsopen", "clone3"),
		}}},
		&api.LinuxSeccomp{DefaultAction: allow, ListenerPath: notifySocket, Syscalls: []*api.LinuxSyscall{
			rule(refuse, 1, "mount", "fsopen", "clone3"), rule(ask, nil, "statfs", "statfs64", "fstatfs", "fstatfs64"),
		}},
	},
}

// TestSeccomp: a container that gets a view gets its own policy with the daemon's listener; no other does.
func TestSeccomp(t *testing.T) {
	r := connect(t, Plugin{Notify: notifySocket})
	without := connect(t, Plugin{})
	for name, c := range seccompCases {
		t.Run(name, func(t *testing.T) {
			ask := func(r *runtime, annotations map[string]string) *api.LinuxSeccomp {
				defer r.BlockPluginSync().Unblock()
				got, err := r.CreateContainer(context.Background(), &api.CreateContainerRequest{
					Pod:       &api.PodSandbox{Id: "p0", Name: "pod", Annotations: annotations},
					Container: &api.Container{Id: "c0", PodSandboxId: "p0", Name: "web", Linux: c.of},
				})
				if err != nil {
					t.Fatal(err)
				}
				return got.GetAdjust().GetLinux().GetSeccompPolicy()
			}
			view := map[string]string{ViewAnnotation: "true"}
			if got := ask(r, view); !proto.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if got := ask(r, nil); got != nil {
				t.Errorf("who asks for no view gets %v", got)
			}
			if got := ask(without, view); got != nil {
				t.Errorf("without a socket: %v", got)
			}
		})
	}
}
