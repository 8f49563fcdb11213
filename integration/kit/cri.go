package kit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/encoding/protowire"
)

// CRIClient calls a runtime as the kubelet does: gRPC of the service runtime.v1.RuntimeService (k8s.io/cri-api,
// api.proto). Its handful of messages are written out by the numbers of their fields, so that nobody who builds this
// needs Kubernetes' modules.
type CRIClient struct{ http http.Client }

func newCRIClient(socket string) *CRIClient {
	only := new(http.Protocols)
	only.SetUnencryptedHTTP2(true)
	return &CRIClient{http.Client{Transport: &http.Transport{Protocols: only,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}}}
}

// message is a protobuf message: numbers of fields and their values, which are strings, other messages, lists of
// strings, maps of strings, or numbers.
func message(fields ...any) (raw []byte) {
	bytesField := func(number int, value []byte) {
		raw = protowire.AppendBytes(protowire.AppendTag(raw, protowire.Number(number), protowire.BytesType), value)
	}
	for i := 0; i < len(fields); i += 2 {
		number := fields[i].(int)
		switch value := fields[i+1].(type) {
		case string:
			bytesField(number, []byte(value))
		case []byte:
			bytesField(number, value)
		case []string:
			for _, s := range value {
				bytesField(number, []byte(s))
			}
		case map[string]string:
			for k, v := range value {
				bytesField(number, message(1, k, 2, v))
			}
		case int:
			raw = protowire.AppendVarint(protowire.AppendTag(raw, protowire.Number(number), protowire.VarintType), uint64(value))
		}
	}
	return raw
}

// field is the last one of this number in a message: bytes, or a number.
func field(raw []byte, number int) (value []byte, n uint64) {
	for len(raw) > 0 {
		num, kind, size := protowire.ConsumeField(raw)
		if size < 0 {
			return nil, 0
		}
		if int(num) == number {
			_, _, tag := protowire.ConsumeTag(raw)
			switch kind {
			case protowire.BytesType:
				value, _ = protowire.ConsumeBytes(raw[tag:])
			case protowire.VarintType:
				n, _ = protowire.ConsumeVarint(raw[tag:])
			}
		}
		raw = raw[size:]
	}
	return value, n
}

// call makes one call. The error is the runtime's message.
func (c *CRIClient) call(method string, request []byte) (answer []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))) // not compressed
	req, err := http.NewRequestWithContext(ctx, "POST", "http://runtime/runtime.v1.RuntimeService/"+method,
		bytes.NewReader(append(frame, request...)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	status := resp.Trailer
	if resp.Header.Get("Grpc-Status") != "" { // there is no body
		status = resp.Header
	}
	if code := status.Get("Grpc-Status"); code != "0" {
		said, _ := url.PathUnescape(status.Get("Grpc-Message"))
		return nil, fmt.Errorf("%s: status %q, %s", method, code, said)
	}
	if len(raw) < len(frame[:5]) {
		return nil, errors.New(method + ": no answer")
	}
	return raw[5:], nil
}
