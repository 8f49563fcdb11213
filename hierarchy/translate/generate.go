package translate

//go:generate go test -run TestReference -update
