package hierarchy

//go:generate go test -run TestReference -update
