package daemon

// Settings are what the flags of serve say to the worker and the answerer. The holder passes them on as bytes that it does not
// decode. Their JSON is an ABI between two versions of the program: an upgrade's worker has them from an older holder.
type Settings struct {
	Socket      string `json:"socket"`      // path of the control socket
	Group       int    `json:"group"`       // whose members may look, -1 for none
	Guests      string `json:"guests"`      // directory of declared guests, "" for none
	MaxGuests   int    `json:"maxGuests"`   //
	MaxOpen     int    `json:"maxOpen"`     // files and directories that a guest may have open
	MaxWatches  int    `json:"maxWatches"`  // directories of a guest that are watched
	MaxBlocking int    `json:"maxBlocking"` // host calls that block at once, over all guests
	MaxRate     int    `json:"maxRate"`     // requests of a guest in a second, 0 for no bound
	MaxCPU      int    `json:"maxCPU"`      // percent of a processor for a guest's requests that may block, 0 for no bound
	Self        *Self  `json:"self,omitempty"`
	Notify      string `json:"notify,omitempty"` // path of the socket for listeners, "" for none
}

// Self is the directory by which a container comes to its view without being known; nil for none.
type Self struct {
	Path        string   `json:"path"`        // where it is mounted
	Containers  []string `json:"containers"`  // patterns of the cgroups that are containers' (hierarchy.Containers)
	Policy      string   `json:"policy"`      // a file, "" for the default
	Controllers []string `json:"controllers"` // shown; empty: as the policy says
}
