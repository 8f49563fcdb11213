# vcgroupfs. On Debian, as root, with Go:
#
#	make demo     a small guest, and what it can and cannot do
#	make test     every test: on this kernel and in seven virtual machines
#	make soak     the daemon under load for twenty minutes
#	make install  the program, its manual page and the systemd unit, below PREFIX (/usr/local)
#	make selftests   the kernel's own tests of cgroups, in guests
#	make clients     what public programs make of a view, compared with doctor's table; UPDATE=1 writes that
#
# Everything that is built goes to bin/; packages that are only looked into go to ~/.cache/vcgroupfs.

GO ?= go
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
STATICCHECK ?= v0.8.2
DEADCODE ?= v0.51.0
GOVULNCHECK ?= v1.9.0
# The known vulnerabilities of that day, so that lint says the same tomorrow: make lint VULNDB=latest asks for those of today.
VULNDB ?= v0.0.0-20261105234957-e22db6528018
HELM ?= v3.22.0
# The last before packages for Windows, whose modules not every module proxy has.
NFPM ?= v2.45.0
KERNELS ?= here here-uring 6.12 6.1 6.12-clients 6.12-type 6.1-type 6.1-v1 5.10-v1
SELFTESTS ?= 6.12
CLIENTS ?= here 6.12
PREFIX ?= /usr/local
# Options for the integration tests' binary: make integration TESTFLAGS='-test.run TestHostile'. With VCGROUPFS_HOSTILE=all in the environment
# the hostile suite is tried in every runtime whose calls can be answered, not in one and a sandbox.
TESTFLAGS ?=
BENCHFLAGS ?=
SOAK ?= 20m

export GO VERSION STATICCHECK DEADCODE GOVULNCHECK VULNDB HELM NFPM UPDATE

.PHONY: all build demo test unit integration test-binary deps bench bench-type soak selftests clients reader lint ci man install seccomp package clean
all: build

# Static, so that the same file runs in any guest or virtual machine. Without what the command-line library brings to make manual pages
# of its own (a Markdown parser, 320 KB): the program makes them otherwise.
BUILD = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X github.com/vcgroupfs/vcgroupfs/cmd/internal/early.Version=$(VERSION)' -tags urfave_cli_no_docs
build:
	$(BUILD) -o bin/vcgroupfs ./cmd/vcgroupfs

demo: build
	.ci/demo.sh

# The downloads wait for the network, the unit tests for the processors. No $(MAKE) beside the downloads: make --dry-run, which a unit
# test calls, runs a line that has it.
test: deps
	mkdir -p bin
	.ci/fetch.sh >bin/fetch.log 2>&1 & $(UNIT); status=$$?; wait; exit $$status
	$(MAKE) integration

# Each fuzz target's seeds are tests of their own here. The race detector needs a C compiler.
UNIT = $(GO) test -race $$($(GO) list ./... | grep -v /integration$$)
unit:
	$(UNIT)

integration: build test-binary
	.ci/integration.sh $(KERNELS) -- $(TESTFLAGS)

# With the program that dies at named points, for the tests of what that does to guests.
test-binary:
	$(BUILD),failpoints -o bin/vcgroupfs-failpoints ./cmd/vcgroupfs
	CGO_ENABLED=0 $(GO) test -c -o bin/integration.test ./integration
	CGO_ENABLED=0 $(GO) build -o bin/vm ./integration/vm
	CGO_ENABLED=0 GOARCH=$(if $(filter arm64,$(shell $(GO) env GOARCH)),arm,386) $(GO) build -o bin/caller32 ./integration/caller32
	if command -v rustc >/dev/null; then rustc -O -C target-feature=+crt-static -o bin/parallelism integration/clients/parallelism.rs; fi

deps:
	.ci/deps.sh

# Twenty minutes, or SOAK=2m; what was sampled goes to bin/soak.tsv.
soak: build
	CGO_ENABLED=0 $(GO) test -c -tags soak -o bin/soak.test ./integration
	cd integration && VCGROUPFS=$(CURDIR)/bin/vcgroupfs VCGROUPFS_SOAK=$(SOAK) VCGROUPFS_SOAK_TSV=$(CURDIR)/bin/soak.tsv \
		../bin/soak.test -test.v -test.run 'TestSoak$$' -test.timeout 0

# Ten minutes, so no part of "test": SELFTESTS="6.12 6.1" for other kernels.
selftests: build test-binary
	.ci/selftests.sh $(SELFTESTS) -- $(TESTFLAGS)

# Programs of Debian, npm and Go modules, fetched into the cache; most of an hour in the virtual machine.
clients: build test-binary
	.ci/clients.sh $(CLIENTS) -- $(TESTFLAGS)

bench: build test-binary
	.ci/bench.sh $(BENCHFLAGS)

# What the BPF programs of statfs cost, in a virtual machine with Linux 6.12.
bench-type: build test-binary
	.ci/bench-type.sh

# What a guest's reader notices of the death of the process that serves it, as docs/reader.svg.
reader: build
	.ci/reader.sh >bin/reader.svg
	mv bin/reader.svg docs/reader.svg

lint:
	.ci/lint.sh

ci: lint test demo package

man: build
	bin/vcgroupfs man >bin/vcgroupfs.8

# mount(8) looks for mount.TYPE in /sbin.
install: build man
	install -D -m 755 bin/vcgroupfs $(DESTDIR)$(PREFIX)/bin/vcgroupfs
	install -d $(DESTDIR)/sbin
	ln -sf $(PREFIX)/bin/vcgroupfs $(DESTDIR)/sbin/mount.vcgroupfs
	install -D -m 644 bin/vcgroupfs.8 $(DESTDIR)$(PREFIX)/share/man/man8/vcgroupfs.8
	sed 's,/usr/bin/vcgroupfs,$(PREFIX)/bin/vcgroupfs,g' packaging/systemd/vcgroupfs.service >bin/vcgroupfs.service
	install -D -m 644 bin/vcgroupfs.service $(DESTDIR)$(PREFIX)/lib/systemd/system/vcgroupfs.service

# The seccomp profiles, from the runtimes' own defaults.
PODMAN_DEFAULT = github.com/containers/common@v0.64.2 pkg/seccomp/seccomp.json
DOCKER_DEFAULT = github.com/moby/profiles/seccomp@v0.3.0 default.json

seccomp:
	.ci/seccomp.sh podman $(PODMAN_DEFAULT)
	.ci/seccomp.sh docker $(DOCKER_DEFAULT)

# A deb and an rpm, in bin/.
package: build
	.ci/package.sh

clean:
	rm -rf bin
