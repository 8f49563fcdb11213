package early

import (
	"os"
	"strconv"
)

// hook gives a container its view, or removes its guest, and reports that it did.
func hook(kind string, words []string) bool {
	o, ok := parse(words)
	if !ok {
		return false
	}
	var box container
	switch kind {
	case "oci":
		box, ok = ofOCI()
	case "lxc":
		box, ok = ofLXC()
	default:
		return false
	}
	if !ok || !isName(box.id) {
		return false
	}
	if box.pid == 0 {
		// The daemon has noticed the end of the process, and removed the guest, unless it was faster: 404.
		status := ask(o.socket, request("DELETE", box, o.madeBy, nil))
		return status/100 == 2 || status == 404
	}
	body, ok := o.spec(box)
	return ok && ask(o.socket, request("PUT", box, o.madeBy, body))/100 == 2
}

// request returns the head and the body of a request for the guest of a container (package api).
func request(method string, box container, madeBy string, body []byte) []byte {
	r := make([]byte, 0, 1024+len(body))
	r = append(r, method+" /v1/guests/"+box.id+" HTTP/1.1\r\nHost: vcgroupfs\r\nVcgroupfs-Maker: by="...)
	r = append(escape(r, madeBy), "&of="...)
	r = append(escape(r, box.of), "\r\n"...)
	if body != nil {
		r = append(r, "Content-Type: application/json\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n"...)
	}
	return append(append(r, "\r\n"...), body...)
}

// escape appends a value in the form of a query (RFC 3986, "Percent-Encoding").
func escape(to []byte, value string) []byte {
	const hex = "0123456789ABCDEF"
	for _, c := range []byte(value) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' {
			to = append(to, c)
		} else {
			to = append(to, '%', hex[c>>4], hex[c&15])
		}
	}
	return to
}

// spec returns the guest's spec in JSON (api.GuestSpec). Not ok for an option that the rest of the program refuses.
func (o options) spec(box container) (body []byte, ok bool) {
	body, ok = append(body, `{"ofRuntime":true,"pid":`+strconv.Itoa(box.pid)+`,"into":{"path":`...), true
	text := func(value string) {
		var utf8 bool
		body, utf8 = quote(body, value)
		ok = ok && utf8
	}
	text(o.into)
	if box.rootfs != "" {
		body = append(body, `,"rootfs":`...)
		text(box.rootfs)
	}
	for _, field := range []struct {
		is   bool
		text string
	}{{o.stack, `,"stack":true`}, {o.noStack, `,"stack":false`}, {o.tmpfs, `,"tmpfs":true`},
		{o.procCgroups, `,"procCgroups":true`}} {
		if field.is {
			body = append(body, field.text...)
		}
	}
	body = append(body, '}')
	if o.controllers != "" {
		body = append(body, `,"controllers":[`...)
		for i, name := range names(o.controllers) {
			if i > 0 {
				body = append(body, ',')
			}
			text(name)
		}
		body = append(body, ']')
	}
	switch o.layout {
	case "auto":
	case "v1", "v2", "hybrid":
		body = append(body, `,"layout":"`+o.layout+`"`...)
	default:
		return nil, false
	}
	if o.policy != "" {
		policy, err := os.ReadFile(o.policy)
		if err != nil || len(policy) == 0 {
			return nil, false
		}
		body = append(body, `,"policy":`...)
		text(string(policy))
	}
	return append(body, '}'), ok
}

// names splits a list of controllers.
func names(list string) (all []string) {
	begin := 0
	for i := range len(list) + 1 {
		if i == len(list) || list[i] == ',' || list[i] == '+' || list[i] == ' ' {
			if i > begin {
				all = append(all, list[begin:i])
			}
			begin = i + 1
		}
	}
	return all
}
