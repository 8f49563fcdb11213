package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// PolicyOf parses a guest's policy from the text of a file, "" for the default, and narrows it to controllers if any
// are named. The errors are those of policy.Parse and WithControllers.
func PolicyOf(text string, controllers []string) (p *policy.Policy, err error) {
	p = policy.Default()
	if text != "" {
		if p, err = policy.Parse("policy", []byte(text)); err != nil {
			return nil, fault.With(fault.BadPolicy, err)
		}
	}
	if len(controllers) > 0 {
		return p.WithControllers(controllers)
	}
	return p, nil
}

// ControllerNames splits a list of controllers in the form of command lines and annotations.
func ControllerNames(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '+' || r == ' ' })
}

// Narrow applies a container's annotation to the controllers that the host allows. An empty annotation asks for all of
// them. The error names the annotation and the controller that is not allowed, or a list without a controller.
func Narrow(allowed []string, annotation, asked string) ([]string, error) {
	list := ControllerNames(asked)
	if len(list) == 0 {
		if strings.TrimSpace(asked) != "" {
			return nil, fmt.Errorf("annotation %s: no controller in %q", annotation, asked)
		}
		return allowed, nil
	}
	for _, c := range list {
		if len(allowed) > 0 && !slices.Contains(allowed, c) {
			return nil, fmt.Errorf("annotation %s: controller %q is not allowed; the host allows %s", annotation, c,
				strings.Join(allowed, ", "))
		}
	}
	return list, nil
}
