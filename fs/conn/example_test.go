package conn_test

import (
	"errors"
	"io/fs"
	"log"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
)

// A connection is made, mounted once and served by the goroutine that calls Serve. Mounting takes CAP_SYS_ADMIN.
func Example() {
	c, err := conn.New(conn.Config{FS: fuse.NewDefaultRawFileSystem(), FSName: "cgroup2", Subtype: "cgroup2"})
	if errors.Is(err, fs.ErrNotExist) {
		log.Fatal("this kernel has no FUSE")
	}
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Mount("/mnt/guest", nil); err != nil {
		log.Fatal(err)
	}
	if err := c.Serve(); err != nil { // until somebody unmounts it
		log.Fatal(err)
	}
}
