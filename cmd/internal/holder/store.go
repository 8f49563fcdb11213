package holder

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// deviceName begins the names of guests' connections in the service manager's store.
	deviceName = "device-"
	// listenerName begins the names of listeners there: listener-KEY-WORD.
	listenerName = "listener-"
	// maxWord is the longest word about a listener: a name in systemd's store has at most 255 bytes (FDNAME_MAX).
	maxWord = 200
)

// ListenersRegion is the region of descriptors by which calls of containers are answered (package listener). Guests'
// regions are 0 and more. These belong to containers, which may live longer than their guests. Each has a word about
// it, which goes to the next answerer and is part of its name in the service manager's store.
const ListenersRegion = -2

// Listener is a descriptor by which calls of a container are answered, as the holder keeps it.
type Listener struct {
	Key  uint64 // not 0
	FD   int
	Word string // at most 200 printable ASCII characters, no colon among them
}

// store keeps descriptors over the death of the process that sent them. The service manager keeps those without which
// no guest or listener could be resumed over the death of the holder, too.
type store struct {
	manager *manager
	held    map[int]map[uint64]int
	words   map[uint64]string // of the listeners, by key
}

func newStore(m *manager) store {
	return store{manager: m, held: map[int]map[uint64]int{}, words: map[uint64]string{}}
}

// put keeps a descriptor in memory alone, instead of the one under the same name.
func (s *store) put(i item, fd int) {
	region := s.held[i.region]
	if region == nil {
		region = map[uint64]int{}
		s.held[i.region] = region
	}
	if old, ok := region[i.key]; ok {
		unix.Close(old)
	}
	region[i.key] = fd
}

// hold keeps a descriptor of a guest, instead of the one under the same name.
func (s *store) hold(i item, fd int) {
	s.put(i, fd)
	if i.key == DeviceKey {
		s.manager.storeFD(deviceName+strconv.Itoa(i.region), fd)
	}
}

// drop closes a descriptor that is kept.
func (s *store) drop(i item) {
	region := s.held[i.region]
	if fd, ok := region[i.key]; ok {
		unix.Close(fd)
		delete(region, i.key)
	}
}

// forget closes all descriptors of a guest.
func (s *store) forget(region int) {
	for _, fd := range s.held[region] {
		unix.Close(fd)
	}
	if _, ok := s.held[region][DeviceKey]; ok {
		s.manager.unstore(deviceName + strconv.Itoa(region))
	}
	delete(s.held, region)
}

// forgetGuests closes all descriptors of guests: connections that no worker serves end. Listeners stay, for their
// containers live on.
func (s *store) forgetGuests() {
	for region := range s.held {
		if region != ListenersRegion {
			s.forget(region)
		}
	}
}

// hasGuests reports that a descriptor of a guest is kept.
func (s *store) hasGuests() bool {
	for region, held := range s.held {
		if region != ListenersRegion && len(held) > 0 {
			return true
		}
	}
	return false
}

// guests lists the descriptors of guests.
func (s *store) guests() (items []item, fds []int) {
	for region, held := range s.held {
		if region == ListenersRegion {
			continue
		}
		for key, fd := range held {
			items, fds = append(items, item{region, key}), append(fds, fd)
		}
	}
	return items, fds
}

// holdListener keeps a listener, instead of the one under the same key.
func (s *store) holdListener(l Listener) {
	s.dropListener(l.Key)
	if len(l.Word) > maxWord {
		l.Word = l.Word[:maxWord]
	}
	s.put(item{ListenersRegion, l.Key}, l.FD)
	s.words[l.Key] = l.Word
	s.manager.storeFD(storedName(l.Key, l.Word), l.FD)
}

func (s *store) dropListener(key uint64) {
	if _, ok := s.held[ListenersRegion][key]; !ok {
		return
	}
	s.manager.unstore(storedName(key, s.words[key]))
	s.drop(item{ListenersRegion, key})
	delete(s.words, key)
}

// dropListeners closes all listeners; another process that has them open keeps them.
func (s *store) dropListeners() {
	for key := range s.held[ListenersRegion] {
		s.dropListener(key)
	}
}

// listeners lists the listeners that are kept.
func (s *store) listeners() (all []Listener) {
	for key, fd := range s.held[ListenersRegion] {
		all = append(all, Listener{key, fd, s.words[key]})
	}
	return all
}

func (s *store) listenerCount() int { return len(s.held[ListenersRegion]) }

func storedName(key uint64, word string) string {
	return listenerName + strconv.FormatUint(key, 10) + "-" + word
}

// adopt keeps a descriptor that the service manager gave back, and reports that its name is one of the store's.
func (s *store) adopt(name string, fd int) bool {
	if number, ok := strings.CutPrefix(name, deviceName); ok {
		region, err := strconv.Atoi(number)
		if err != nil || region < 0 {
			return false
		}
		s.hold(item{region, DeviceKey}, fd)
		return true
	}
	rest, ok := strings.CutPrefix(name, listenerName)
	if !ok {
		return false
	}
	number, word, _ := strings.Cut(rest, "-")
	key, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return false
	}
	s.holdListener(Listener{key, fd, word})
	return true
}
