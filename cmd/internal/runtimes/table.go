package runtimes

// table has a row for each runtime. Documents and doctor name them in this order.
//
// A pattern is for a cgroup of one container, never for one that holds several, such as a pod's or a slice. A short
// function of a row stands below the table, a longer one in a file of its own.
var table = []Runtime{
	{Name: "runc", Program: "runc", How: "hook oci", Hook: oci},
	{Name: "crun", Program: "crun", How: "hook oci", Hook: oci},
	{Name: "podman", Program: "podman", How: "hook oci by --annotation, or CDI", Hook: oci, Containers: Containers{
		// As root, also in pods.
		"/machine.slice/libpod-{id}.scope", "/machine.slice/machine-libpod_pod_{id}.slice/libpod-{id}.scope",
		"/libpod_parent/libpod-{id}", "/libpod_parent/{id}/libpod-{id}",
	}},
	{Name: "Docker", Program: "dockerd", How: "CDI, or self by --volume", Hook: oci, Containers: Containers{
		// By itself, by systemd.
		"/docker/{id}", "/system.slice/docker-{id}.scope",
	}},
	{Name: "containerd", Program: "containerd", How: "nri, or CDI", Hook: oci},
	{Name: "nerdctl", Containers: Containers{
		// Also containerd's own ctr, for containers with such an id.
		"/default/{id}", "/system.slice/nerdctl-{id}.scope",
	}},
	{Name: "CRI-O", Program: "crio", How: "nri, or CDI", Hook: oci},
	{Name: "Kubernetes", Containers: Containers{
		// By the kubelet itself, by systemd.
		"/kubepods/pod*/{id}", "/kubepods/*/pod*/{id}",
		"/kubepods.slice/kubepods-pod*.slice/cri-containerd-{id}.scope",
		"/kubepods.slice/kubepods-*.slice/kubepods-*-pod*.slice/cri-containerd-{id}.scope",
		"/kubepods.slice/kubepods-pod*.slice/crio-{id}.scope",
		"/kubepods.slice/kubepods-*.slice/kubepods-*-pod*.slice/crio-{id}.scope",
		"/kubepods.slice/kubepods-pod*.slice/docker-{id}.scope",
		"/kubepods.slice/kubepods-*.slice/kubepods-*-pod*.slice/docker-{id}.scope",
	}},
	{Name: "LXC", Program: "lxc-start", How: "hook lxc", Hook: lxc, Containers: Containers{
		// Of all versions, and of Incus.
		"/lxc.payload.*", "/lxc.payload/*", "/lxc/*",
	}},
	{Name: "Incus", Program: "incus", How: "hook lxc", Hook: lxc},
	{Name: "systemd-nspawn", Program: "systemd-nspawn", How: "--bind", Containers: Containers{
		// Beside the payload is the supervisor.
		"/machine.slice/machine-*.scope/payload", "/machine.slice/systemd-nspawn@*.service/payload",
	}},
	{Name: "bubblewrap", Program: "bwrap", How: "--bind"},
}
