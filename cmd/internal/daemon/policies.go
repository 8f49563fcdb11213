package daemon

import (
	"strings"
	"sync"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// policies are the parsed policies of guests. Guests with the same text and controllers share one.
type policies struct {
	mu     sync.Mutex
	parsed map[string]*policy.Policy // guarded by mu; by text and controllers
}

// maxPolicies bounds the policies kept for later guests.
const maxPolicies = 256

func newPolicies() *policies { return &policies{parsed: map[string]*policy.Policy{}} }

// of returns the policy of a spec that an earlier worker or serve has checked.
func (x *policies) of(s api.GuestSpec) (*policy.Policy, error) {
	x.mu.Lock()
	p := x.parsed[policyKey(s)]
	x.mu.Unlock()
	if p != nil {
		return p, nil
	}
	p, err := spec.PolicyOf(s.Policy, s.Controllers)
	if err != nil {
		return nil, err
	}
	return x.share(s, p), nil
}

// share stores a policy, or returns the stored one with the same text and controllers.
func (x *policies) share(s api.GuestSpec, p *policy.Policy) *policy.Policy {
	key := policyKey(s)
	x.mu.Lock()
	defer x.mu.Unlock()
	if same := x.parsed[key]; same != nil {
		return same
	}
	if len(x.parsed) >= maxPolicies {
		clear(x.parsed)
	}
	x.parsed[key] = p
	return p
}

func policyKey(s api.GuestSpec) string { return strings.Join(s.Controllers, ",") + "\x00" + s.Policy }
