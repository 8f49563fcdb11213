package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestIdleStreams: as many followers of events as root has connections shut nobody out. The commands work, also those by which a
// container is made, and followers that there is no place for are told so.
func TestIdleStreams(t *testing.T) {
	const connections = 112 // root's, cmd/internal/api
	d := kit.StartDaemon(t)
	p := kit.NewPlace(t, d, "streams")
	followed, busy := 0, 0
	for range connections {
		c, err := net.Dial("unix", d.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
		switch answer, err := http.ReadResponse(bufio.NewReader(c), nil); {
		case err != nil:
			t.Fatal(err)
		case answer.StatusCode == http.StatusOK:
			followed++
		case answer.StatusCode == http.StatusServiceUnavailable:
			busy++
		}
	}
	if followed != connections/2 || busy != connections/2 {
		t.Errorf("%d follow events, %d are too many", followed, busy)
	}
	d.WantTry(t, 0, "", p.Add("web")...)
	d.WantTry(t, 0, "web", "guest", "ls")
	d.WantTry(t, 1, "end one", "guest", "events")
	d.WantTry(t, 0, "", "guest", "rm", "web")
	d.Stop(t)
}

// playScrape asks for the metrics at an address by 32 connections at once, as often as it can. It says how many were answered when its
// input ends.
func playScrape(address string) {
	var answered, refused atomic.Int64
	for range 32 {
		go func() {
			client := &http.Client{Timeout: kit.Patience}
			for {
				answer, err := client.Get("http://" + address + "/metrics")
				if err != nil {
					refused.Add(1)
					continue
				}
				io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
				if answered.Add(1) == 1 {
					fmt.Println("ready")
				}
			}
		}()
	}
	io.Copy(io.Discard, os.Stdin)
	fmt.Println(answered.Load(), "answered,", refused.Load(), "refused")
	os.Exit(0)
}

// playStreams follows a daemon's events by as many connections as it gets, keeps them, and goes on asking for one more. It says how many
// it had when its input ends.
func playStreams(socket string) {
	end := make(chan bool)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	var kept []net.Conn
	for refused := 0; ; {
		select {
		case <-end:
			fmt.Println(len(kept), "followed,", refused, "refused")
			return
		default:
		}
		c, err := net.Dial("unix", socket)
		if err == nil {
			io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
			if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && answer.StatusCode == http.StatusOK {
				kept = append(kept, c)
				continue
			}
			c.Close()
		}
		if refused++; refused == 1 {
			fmt.Println("ready")
		}
	}
}

// mkdirs is how often a neighbour can make and remove a cgroup within a time.
func mkdirs(t *testing.T, p *kit.Place, within time.Duration) (n int) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); n++ {
		if err := unix.Mkdir(p.At("n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Rmdir(p.At("n")); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestScrapeFlood: whoever asks for the metrics as often as he can makes a neighbour's mkdir at most twice as rare. Those who ask get the
// processors when nobody else wants them, so that it is the daemon's work that is measured. A machine that is busy with something else is
// given three tries.
func TestScrapeFlood(t *testing.T) {
	address := kit.LoopbackAddress(t)
	d := kit.StartDaemonWith(t, kit.Program(t), []string{"--metrics", address})
	p := kit.NewPlace(t, d, "scraped")
	d.WantTry(t, 0, "", p.Add("web")...)
	const most = 4.0 // 0.8 to 1.3 on a quiet machine, 18 to 126 when each was answered
	ratio := 0.0
	for range 3 {
		quiet := mkdirs(t, p, time.Second)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), kit.RoleVariable+"=scrape "+address, "GOMAXPROCS=1")
		flood := kit.StartProcess(t, cmd)
		if line, err := flood.Out.ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatal(line, err)
		}
		flooded := mkdirs(t, p, 2*time.Second) / 2
		flood.In.Close()
		said, _ := flood.Out.ReadString('\n')
		ratio = float64(quiet) / float64(max(1, flooded))
		t.Logf("%d mkdirs a second, %d while the metrics are asked for: a ratio of %.2f; %s", quiet, flooded, ratio, strings.TrimSpace(said))
		if ratio <= most {
			break
		}
	}
	if ratio > most {
		t.Errorf("a neighbour's mkdir is %.2f times rarer, want at most %.0f", ratio, most)
	}
	d.Stop(t)
}
