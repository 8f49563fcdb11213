package integration

func playHostile(string) {}
