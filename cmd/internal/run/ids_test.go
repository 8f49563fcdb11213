package run

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// idsOf reads the ids of a map, as a namespace's own.
func idsOf(text string) (all []ids) {
	for _, r := range host.IDRanges(text) {
		all = append(all, ids{r.Inside, r.Inside + r.Size})
	}
	return all
}

const hostMap = "         0          0 4294967295\n"

func TestChooseIDs(t *testing.T) {
	for text, want := range map[string]syscall.SysProcIDMap{
		hostMap:                      {HostID: 524288, Size: 65536},
		"0 524288 65536\n":           {HostID: 32768, Size: 32768}, // a guest of run --userns
		"0 32768 32768\n":            {HostID: 16384, Size: 16384}, // and of that
		"0 1000 1\n1 100000 65536\n": {HostID: 32769, Size: 32768},
		"0 100000 589823\n":          {HostID: 294911, Size: 294911}, // one too few
		"0 100000 589824\n":          {HostID: 524288, Size: 65536},
		"0 0 2\n":                    {HostID: 1, Size: 1},
	} {
		got, err := idSources{have: idsOf(text)}.ranges()
		if err != nil || !slices.Equal(got[0].mapping(), []syscall.SysProcIDMap{want}) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0 1000 1\n", "x y z\n"} {
		if got, err := (idSources{have: idsOf(text)}).ranges(); err == nil || !strings.Contains(err.Error(), "none to spare") {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// TestRangesAreDisjoint: no two of the ranges share an id, and none has one that the namespace keeps for itself.
func TestRangesAreDisjoint(t *testing.T) {
	for text, want := range map[string]int{
		hostMap: 28664, "0 524288 65536\n": 6, "0 32768 32768\n": 5, "0 100000 2048\n": 1, "0 0 2\n": 1, "0 100000 720896\n": 3,
	} {
		got, err := idSources{have: idsOf(text)}.ranges()
		if err != nil || len(got) != want {
			t.Errorf("%q: %d ranges, %v, want %d", text, len(got), err, want)
		}
		for i, r := range got {
			if r.from < 1 || i > 0 && r.from < keptIDs || r.size() < 1 || len(common(idsOf(text), []ids{r})) != 1 {
				t.Errorf("%q: %v", text, r)
			}
			if i > 0 && len(common(got[i-1:i], []ids{r})) > 0 {
				t.Errorf("%q: %v and %v", text, got[i-1], r)
			}
		}
	}
}

// TestOthersIDs: a guest has no id of a user, a group, a line of /etc/subuid or /etc/subgid, or another user namespace.
func TestOthersIDs(t *testing.T) {
	const lastID = "4294967294"
	for name, c := range map[string]struct {
		files map[string]string
		used  []ids
		want  string // the first range, or what the error says
	}{
		"no files":         {want: "524288"},
		"a user's":         {files: map[string]string{"subuid": "alice:524288:65536\n"}, want: "589824"},
		"a user's by id":   {files: map[string]string{"subuid": "1000:524288:65536\n"}, want: "589824"},
		"a group's":        {files: map[string]string{"subgid": "alice:524288:65536\n"}, want: "589824"},
		"root's":           {files: map[string]string{"subuid": "root:524288:1000000\n"}, want: "1572864"},
		"the end of one":   {files: map[string]string{"subuid": "alice:100000:424289\n"}, want: "589824"},
		"just before":      {files: map[string]string{"subuid": "alice:100000:424288\n"}, want: "524288"},
		"one in between":   {files: map[string]string{"subuid": "alice:558752:65536\n", "subgid": "bob:655360:1\n"}, want: "720896"},
		"disordered":       {files: map[string]string{"subuid": "b:589824:65536\na:100000:500000\n"}, want: "655360"},
		"nested":           {files: map[string]string{"subuid": "a:524288:200000\nb:524289:1\n"}, want: "786432"},
		"a user":           {files: map[string]string{"passwd": "root:x:0:0::/:/bin/sh\nx:x:524300:100::/:/bin/sh\n"}, want: "589824"},
		"a user's group":   {files: map[string]string{"group": "root:x:0:\nx:x:589823:\n"}, want: "589824"},
		"no lines":         {files: map[string]string{"subuid": "\n# text\nalice\nalice:x:65536\nalice:524288:0\n", "passwd": "+\nx:x:no:\n"}, want: "524288"},
		"all":              {files: map[string]string{"subuid": "alice:1:18446744073709551615\nbob:100000:9223372036854775807\n"}, want: "add a line vcgroupfs:FIRST:COUNT to both"},
		"a container":      {used: []ids{{524288, 589824}}, want: "589824"},
		"all in use":       {used: []ids{{100000, maxID}}, want: "other containers"},
		"ours":             {files: both("vcgroupfs:2000000:131072\nalice:524288:65536\n"), want: "2000000"},
		"ours beyond":      {files: both("vcgroupfs:3000000000:65536\n"), want: "3000000000"},
		"ours and last":    {files: both("vcgroupfs:" + lastID + ":65536\n"), want: "65536 in a row"},
		"ours, in use":     {files: both("vcgroupfs:2000000:131072\n"), used: []ids{{2000000, 2000001}}, want: "2065536"},
		"ours and another": {files: both("vcgroupfs:2000000:65536\nalice:2000000:1\n"), want: "all 1 ranges are taken"},
		"ours twice":       {files: both("vcgroupfs:2000000:65536\nvcgroupfs:1000000:65536\n"), want: "1000000"},
		"ours, too few":    {files: both("vcgroupfs:2000000:65535\n"), want: "65536 in a row"},
		"ours, the root's": {files: both("vcgroupfs:0:131072\n"), want: "below 65536"},
		"ours, no groups":  {files: map[string]string{"subuid": "vcgroupfs:2000000:65536\n"}, want: "in both"},
		"ours, apart": {
			files: map[string]string{"subuid": "vcgroupfs:2000000:65536\n", "subgid": "vcgroupfs:3000000:65536\n"}, want: "in both",
		},
		"ours, mistyped": {files: both("alice:100000:65536\nvcgroupfs:2000000\n"), want: "subuid:2: write vcgroupfs:FIRST:COUNT"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s := idSources{have: idsOf(hostMap), used: c.used}
			err := s.readFiles(dir)
			var got []ids
			if err == nil {
				got, err = s.ranges()
			}
			said := ""
			if err != nil {
				said = err.Error()
			} else {
				said = strconv.FormatInt(got[0].from, 10)
			}
			if err == nil && said != c.want || !strings.Contains(said, c.want) {
				t.Errorf("%s, want %s", said, c.want)
			}
			for _, r := range got {
				if len(common([]ids{r}, slices.Concat(s.taken, s.used))) > 0 {
					t.Errorf("%v is somebody's", r)
				}
			}
		})
	}
}

func both(text string) map[string]string { return map[string]string{"subuid": text, "subgid": text} }

// TestFewIDsOfFiles: in a user namespace with few ids the files, which may be those of a host with others, decide nothing.
func TestFewIDsOfFiles(t *testing.T) {
	s := idSources{have: idsOf("0 524288 65536\n"), taken: []ids{{1, 65536}}, given: []ids{{2000000, 2065536}}}
	if got, err := s.ranges(); err != nil || got[0] != (ids{32768, 65536}) {
		t.Errorf("%v, %v", got, err)
	}
	s.used = []ids{{40000, 40001}}
	if got, err := s.ranges(); err != nil || got[0] != (ids{16384, 32768}) {
		t.Errorf("with some of them in use: %v, %v", got, err)
	}
	s.used = []ids{{1, 65536}}
	if got, err := s.ranges(); err == nil || !strings.HasSuffix(err.Error(), "have all 6 ranges; end one") {
		t.Errorf("with all of them in use: %v, %v", got, err)
	}
}

// TestUnreadableFiles: a file that cannot be read is none that says nothing.
func TestUnreadableFiles(t *testing.T) {
	for _, file := range []string{"subuid", "subgid", "passwd", "group"} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := (&idSources{}).readFiles(dir); err == nil || !strings.Contains(err.Error(), "is a directory") {
			t.Errorf("%s: %v", file, err)
		}
	}
}
