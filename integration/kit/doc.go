// Package kit is what the tests in integration share: the host and boundaries in it (OpenHost, NewBoundary), views that
// the program mounts (MountView), daemons and their guests (StartDaemon, Place, Insider), guests of run (RunGuest),
// containers of runtimes (Bundle, Podman, Docker, Containerd, NewLXC), and helper processes, which are the test binary
// itself in a role (StartHelper).
//
// Three things always hold. What a helper makes goes with its test: t.Cleanup takes it away, and Main fails a run that
// leaves anything. A helper fails its test by itself, or skips it with a reason of the machine or of the kernel. A wait
// is for an event and has a bound, Patience or EventPatience, that an emulated machine keeps.
//
// Kit has no test matter. The steps of traces, the attempts of the hostile suite, the tables of failpoints and roles
// that one test starts stay beside their tests, also where files of one prefix share them. Kit knows the program only
// from outside, by its command line and its socket.
package kit
