package fs

import (
	"testing"
	"time"
)

// TestChanges: a removal waits for the changes of its own directory in its own hierarchy, and no change begins while it takes effect.
func TestChanges(t *testing.T) {
	one, two := &viewHierarchy{}, &viewHierarchy{}
	var c changes
	at := changed{one, 7}
	if !c.begin(at) || !c.begin(at) {
		t.Fatal("a change is not admitted")
	}
	_, ended := c.close(at)
	if ended == nil {
		t.Fatal("a removal does not wait for a change")
	}
	if _, other := c.close(changed{one, 8}); other != nil {
		t.Error("the removal of another directory waits")
	}
	if open, other := c.close(changed{two, 7}); other != nil {
		t.Error("the removal from another hierarchy waits")
	} else {
		open()
	}
	c.end(at)
	select {
	case <-ended:
		t.Error("the removal goes on while a change is under way")
	default:
	}
	c.end(at)
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the removal does not go on")
	}
	open, ended := c.close(at)
	if ended != nil || c.begin(at) {
		t.Error("a change begins during a removal")
	}
	open()
	if !c.begin(at) {
		t.Error("no change begins after a removal")
	}
	c.end(at)
	if len(c.all) > 1 { // the other directory is closed still
		t.Errorf("left: %v", c.all)
	}
}

// TestLinkCounts: a count holds as long as the host has the link count that it was made with, and grows with what the view adds.
func TestLinkCounts(t *testing.T) {
	one, two := &viewHierarchy{}, &viewHierarchy{}
	var c linkCounts
	want := func(what string, hier *viewHierarchy, host, count int) {
		t.Helper()
		got, known, _ := c.get(hier, 7, host)
		if known != (count > 0) || got != count {
			t.Errorf("%s: %d, %v, want %d", what, got, known, count)
		}
	}
	put := func(hier *viewHierarchy, host, count int) {
		_, _, before := c.get(hier, 7, host)
		c.put(hier, 7, host, count, before)
	}
	want("nothing is known", one, 5, 0)
	put(one, 5, 3)
	put(two, 5, 4)
	want("a count", one, 5, 3)
	want("the host has another one", one, 6, 0)
	c.add(one, 7, 1, 1)
	want("a new cgroup", one, 6, 4)
	want("a new cgroup in another hierarchy", two, 6, 4)
	c.add(two, 7, 0, 1)
	want("one more hierarchy", two, 6, 5)
	want("one more hierarchy than this", one, 6, 4)
	put(one, 9, 2)
	want("the host's changes", two, 6, 0)
	_, _, before := c.get(two, 7, 9)
	c.add(one, 7, 0, 1)
	c.put(two, 7, 9, 8, before)
	want("a count that was overtaken", two, 9, 0)
	c.forget(7)
	want("forgotten", one, 9, 0)
}
