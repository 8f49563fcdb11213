package doctor

// askedClients returns the programs that "make clients" runs; ran.tsv has their verdicts.
func askedClients() []Client {
	return []Client{
		asked("Prometheus 3 (its memory limit)", AsksMounts, byMount+", then by path").instead(noStack),
		asked("VictoriaMetrics", AsksPath, byPath),
		asked("ninja 1.13 and newer", AsksMounts, byMount+", then by path").instead(noStack + ", or -j"),
		asked("GNU nproc (coreutils 9.8 and newer)", AsksPath, byPath+" (cpu.max)").instead(viewOfV2).
			lent(Yes, Yes).stackedLent(Yes, Yes).
			run("coreutils 9.10", hybrid, Notification, "TestLentRun", StackedLent).
			run("coreutils 9.10", hybrid, Notification, "", Lent),
		asked("uutils nproc", AsksPath, byPath+" (cpu.max)").instead(viewOfV2),
		asked("DuckDB", AsksPath, byPath),
		asked("loky, joblib", AsksPath, byPath),
		asked("dask (its memory limit)", AsksPath, byPath),
		asked("Erlang/OTP", AsksMounts, byMount+", then by path").instead(noStack + ", or +S"),
		asked("R parallelly", AsksMounts, byMount+"; v2 by path").
			instead(noStack + ", or R_PARALLELLY_AVAILABLECORES_SYSTEM"),
		asked("concurrent-ruby", AsksPath, byPath+" (cpu.max)").instead(viewOfV2),
		asked("Bun", AsksPath, byPath),
		asked("Deno", AsksPath, byPath),
		asked("gopsutil (docker.CgroupMemOwn)", AsksPath, byPath),
		asked("go-zero (core/stat)", AsksType, byMagic+", then by path").instead(theType),
		asked("opencontainers/cgroups", AsksBoth, byMagic+", else "+byMount).instead(theType + "; on v1 " + noStack),
		asked("containerd/cgroups", AsksBoth, byMagic+", else "+byMount).instead(theType + "; on v1 " + noStack),
		asked("Docker's pkg/sysinfo", AsksBoth, byMagic+", else "+byMount).instead(theType + "; on v1 " + noStack),
		asked("Datadog agent (util/cgroups)", AsksMounts, byMount).instead(noStack),
		asked("hwloc", AsksPath, byPath),
		asked("Open MPI (its slots)", AsksPath, byPath),
		asked("HTCondor", AsksPath, byPath),
		asked("Slurm (slurmd, cgroup plugin)", AsksBoth, byMagic+", then "+byMount).
			instead(theType + ", and a view of v2; no --no-stack"),
	}
}
