// Package policy says what a guest may see and write: it parses a policy and decides, for one control file at one
// place, the verdict.
//
// # Words
//
// A verdict is hidden, read-only, read-write or guarded (read-write within a constraint). A place is the boundary,
// the cgroup that the guest sees as its root, or below it. The table is hierarchy.Table, which has an answer for
// every control file known; a policy only says where it differs. A rule is one entry of a policy's lists.
//
// # What always holds
//
//   - Deny by default at the boundary: whatever a policy says, nothing is writable there that the table does not
//     make writable. A policy can take away, never add.
//   - A control file of a controller that is not shown is hidden, whatever else the policy says of it.
//   - A file that no table knows is hidden; a policy that names it exactly makes it read-only and never more.
//   - What the table never makes writable (partitions, release_agent, net_prio, …) stays so. The exceptions are
//     named one by one in this package (optIn).
//   - A constraint that the table puts on a file is never lifted or replaced by a policy.
//
// These hold three times over: Parse refuses a policy that asks for more, compiling a rule drops what it may not
// give, and the last step of every decision made ready is a clamp to the table.
//
// A Policy is immutable; every method may be called by many goroutines at once, and there is no lock.
//
// # What it will not do
//
// No I/O: Parse takes bytes, and which hierarchies a host has is not asked here. It knows nothing of requests, pids
// or owners: constraints of the table such as hierarchy.Members are named in the decision and enforced by the
// caller.
package policy
