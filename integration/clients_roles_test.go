package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"go.uber.org/automaxprocs/maxprocs"
)

// playClient looks for limits as the program does that its arguments name.
func playClient(string) {
	switch strings.Join(os.Args[1:], " ") {
	case "maxprocs": // automaxprocs, and Go itself
		own := runtime.GOMAXPROCS(0)
		if _, err := maxprocs.Set(); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(runtime.GOMAXPROCS(0), own, runtime.NumCPU())
	case "telegraf":
		playTelegraf()
	}
}

// playTelegraf does as the plugin inputs.cgroup of telegraf does: it expands patterns of directories, and in each of files.
func playTelegraf() {
	for _, c := range []struct{ name, files string }{{"memory", "memory.max"}, {"memory", "memory.*limit_in_bytes"}, {"pids", "pids.m?x"}} {
		for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			dirs, _ := filepath.Glob(pattern)
			for _, dir := range dirs {
				files, _ := filepath.Glob(filepath.Join(dir, c.files))
				for _, file := range files {
					raw, err := os.ReadFile(file)
					if err != nil {
						fmt.Println(err)
					}
					fmt.Printf("%s=%s\n", c.name, strings.TrimSpace(string(raw)))
				}
			}
		}
	}
}
