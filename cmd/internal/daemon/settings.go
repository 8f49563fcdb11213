package daemon

// Settings are the flags of serve for the worker and the answerer. The holder passes them on as bytes, without decoding
// them. Their JSON is an ABI between two versions of the program: during an upgrade the new worker gets them from an
// older holder.
type Settings struct {
	Socket      string `json:"socket"`      // path of the control socket
	Group       int    `json:"group"`       // group with read access, -1 for none
	Guests      string `json:"guests"`      // directory of declared guests, "" for none
	MaxGuests   int    `json:"maxGuests"`   //
	MaxOpen     int    `json:"maxOpen"`     // open files and directories of a guest
	MaxWatches  int    `json:"maxWatches"`  // watched directories of a guest
	MaxBlocking int    `json:"maxBlocking"` // blocking host calls at once, over all guests
	MaxRate     int    `json:"maxRate"`     // requests of a guest in a second, 0 for no bound
	MaxCPU      int    `json:"maxCPU"`      // percent of a processor for a guest's requests that may block, 0 for no bound
	Self        *Self  `json:"self,omitempty"`
	Notify      string `json:"notify,omitempty"` // path of the socket for listeners, "" for none
}

// Self is the directory by which an unknown container gets its view; nil for none.
type Self struct {
	Path        string   `json:"path"`        // mount point
	Containers  []string `json:"containers"`  // patterns of the containers' cgroups (runtimes.Containers)
	Policy      string   `json:"policy"`      // a file, "" for the default
	Controllers []string `json:"controllers"` // shown; if empty, the policy decides
}
