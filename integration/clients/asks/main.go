// The command asks has Go modules that look at cgroups say what they find.
//
//	asks gopsutil|go-zero|opencontainers|containerd|docker|datadog
//
// It prints what was found on a line of its own, and ends with 1 and the module's error where one fails.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	datadog "github.com/DataDog/datadog-agent/pkg/util/cgroups"
	containerd "github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/docker/docker/pkg/sysinfo"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/shirou/gopsutil/v4/docker"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/core/stat"
)

var modules = map[string]func() error{
	"gopsutil": askGopsutil, "go-zero": askGoZero, "opencontainers": askOpencontainers, "containerd": askContainerd,
	"docker": askDocker, "datadog": askDatadog,
}

func main() {
	ask := modules[append(os.Args, "")[1]]
	if ask == nil {
		fmt.Fprintln(os.Stderr, "usage: asks gopsutil|go-zero|opencontainers|containerd|docker|datadog")
		os.Exit(2)
	}
	if err := ask(); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// askGopsutil prints the memory limit of its own cgroup.
func askGopsutil() error {
	mem, err := docker.CgroupMemOwn()
	if err != nil {
		return err
	}
	fmt.Println(mem.MemLimitInBytes)
	return nil
}

// askGoZero keeps a processor busy until the module has seen that. It looks every 250 ms, and takes a twentieth of what it then sees.
func askGoZero() error {
	logx.Disable()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if used := stat.CpuUsage(); used > 0 {
			fmt.Println("busy")
			return nil
		}
	}
	fmt.Println("idle")
	return nil
}

// askOpencontainers makes a cgroup as a runtime does, and prints the limit that the manager reads there.
func askOpencontainers() error {
	const limitBytes = 50 << 20
	m, err := manager.New(&cgroups.Cgroup{Path: "/asks", Resources: &cgroups.Resources{Memory: limitBytes}, Rootless: true})
	if err != nil {
		return err
	}
	err = m.Apply(-1)
	if err == nil {
		err = m.Set(&cgroups.Resources{Memory: limitBytes, SkipDevices: true})
	}
	if err == nil {
		var stats *cgroups.Stats
		if stats, err = m.GetStats(); err == nil {
			fmt.Println(stats.MemoryStats.Usage.Limit)
		}
	}
	return errors.Join(err, m.Destroy())
}

// askContainerd prints the memory limit of the top cgroup, by the manager for what it takes the host for.
func askContainerd() error {
	if containerd.Mode() == containerd.Unified {
		m, err := cgroup2.Load("/")
		if err != nil {
			return err
		}
		stats, err := m.Stat()
		if err != nil {
			return err
		}
		fmt.Println(stats.GetMemory().GetUsageLimit())
		return nil
	}
	c, err := cgroup1.Load(cgroup1.StaticPath("/"))
	if err != nil {
		return err
	}
	stats, err := c.Stat(cgroup1.IgnoreNotExist)
	if err != nil {
		return err
	}
	fmt.Println(stats.GetMemory().GetUsage().GetLimit())
	return nil
}

// askDocker prints whether containers can be limited.
func askDocker() error {
	info := sysinfo.New()
	fmt.Println("memory", info.MemoryLimit, "pids", info.PidsLimit)
	for _, warning := range info.Warnings {
		fmt.Println(warning)
	}
	return nil
}

// askDatadog prints the memory limit that the agent sees of its own container.
func askDatadog() error {
	reader, err := datadog.NewSelfReader("/proc", true)
	if err != nil {
		return err
	}
	own := reader.GetCgroup(datadog.SelfCgroupIdentifier)
	if own == nil {
		return errors.New("no cgroup")
	}
	var memory datadog.MemoryStats
	if err := own.GetMemoryStats(&memory); err != nil {
		return err
	}
	if memory.Limit == nil {
		return errors.New("no limit")
	}
	fmt.Println(*memory.Limit)
	return nil
}
