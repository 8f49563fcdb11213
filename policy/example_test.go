package policy_test

import (
	"fmt"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

func Example() {
	p, err := policy.Parse("policy.yaml", []byte(`
version: 1
controllers: [memory, pids]
below:
  guarded:
    pids.max: {max: 512}
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, place := range []hierarchy.Place{hierarchy.Boundary, hierarchy.Below} {
		d := p.Decide(policy.Request{Version: hierarchy.V2, File: "pids.max", Place: place})
		fmt.Println(d.Verdict, "by", d.Rule)
		if d.Check != nil {
			value, err := d.Check([]byte("0x100\n"))
			fmt.Printf("writes %s, error %v\n", value, err)
			_, err = d.Check([]byte("max\n"))
			fmt.Println("max:", err)
		}
	}
	// Output:
	// read-only by default table
	// guarded by policy.yaml:6
	// writes 256, error <nil>
	// max: operation not permitted
}

func ExampleParse_faults() {
	_, err := policy.Parse("policy.yaml", []byte(`
version: 1
controllers: [cpu]
quota: {cgroup: 1000, depth: many}
below: {read-write: [cgroup.controllers]}
`))
	fmt.Println(err)
	// Output:
	// policy.yaml:4:9: quota: "cgroup": unknown key; allowed: cgroups, depth
	// policy.yaml:4:30: quota.depth: "many": a text; allowed: a decimal number from 0 (no bound) to 2147483647
	// policy.yaml:5:22: below.read-write: "cgroup.controllers": never writable: the kernel has no write for it (mode 0444); allowed: hidden, read-only
}
