# Everything has one entry here; the work is done by scripts that can be run alone.

.DEFAULT_GOAL := help
.PHONY: help deps vmrun build demo test unit lint e2e fuzz hostile suites wall leaks leaks-network leaks-templates clones clients conformance bench counts bench-boot bench-io bench-net bench-verbs bench-density bench-report flame install deb kernel kernel-icount clean

help: ## list the targets
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

deps: ## install the Debian packages that are missing
	@.ci/deps

vmrun: deps ## build target/release/vmrun alone, kernel and boot image inside
	@.ci/build

build: vmrun ## build vmrun, its man pages and completions: all that 'make install' installs
	@.ci/documents

demo: vmrun ## run real containers in microVMs (installs and builds what is missing)
	@tests/demo

test: build ## run all tests (installs and builds what is missing)
	@tests/all

unit: deps ## run the tests that need neither root nor KVM
	@tests/unit

lint: deps ## formatting, clippy, dependency policy, shell scripts
	@tests/lint

e2e: build ## run the end-to-end tests
	@tests/e2e/run

fuzz: deps ## hostile inputs: each target for SECONDS (60), then the property tests with many inputs
	@tests/fuzz/run --seconds $(or $(SECONDS),60) --properties

hostile: build ## a guest that attacks all devices for SECONDS (600), and what becomes of its host
	@tests/hostile/run --seconds $(or $(SECONDS),600)

wall: build ## print what a running sandbox's processes may do, and compare with docs/security.md
	@tests/wall/run

suites: build ## suites of file systems in a directory, in crun and on a volume
	@tests/suites/run

leaks-network: build ## 100 sandboxes with two network cards, a third of them killed
	@tests/leaks/network

leaks: build ## 200 lives and 100 monitors killed at random moments, and what is left
	@tests/leaks/run

leaks-templates: build ## 300 starts from a template and 50 killed makers of one, and what is left
	@tests/leaks/templates

clones: build ## 50 guests of one template: nothing random, no name and no key is another's
	@VMRUN_E2E_CLONES=50 tests/e2e/run guests_from_one_template

clients: build ## run podman, containerd and Docker with vmrun under them
	@tests/clients/run

conformance: build ## run the conformance table on crun, runc and vmrun
	@tests/conformance/run

bench: build ## measure what the README promises, and say which budgets are met
	@benches/budgets

counts: build ## what a start costs, counted, against benches/baseline.json
	@tests/counts

bench-boot: build ## print boot and start-up times, kernel work, memory
	@benches/boot

bench-io: build ## print what a program's files cost, counted, and small files against crun
	@benches/io

bench-net: build ## print what a sandbox's network carries, against QEMU microvm and crun
	@benches/net

bench-verbs: build ## print what exec and state cost, against crun
	@benches/verbs

bench-density: build ## print how many sandboxes run side by side in 4 GiB, and what each takes
	@benches/density

bench-report: build ## look at the page of 'vmrun bench' in a browser (installs Chromium)
	@tests/report/run

flame: build ## draw where a cold and a warm start's time goes: docs/flame-*.svg
	@benches/flame/run

# As root, cargo need not be there: what is to be installed was built before.
install: ## install what 'make build' made: PREFIX=/usr/local, DESTDIR=
	@.ci/install

deb: build ## make target/vmrun_VERSION_amd64.deb
	@.ci/deb

kernel: deps ## build the guest kernel alone
	@guest-kernel/build

kernel-icount: deps ## print the guest kernel's instructions from entry to the agent
	@guest-kernel/icount

clean: ## remove what was built in this checkout (the cache outside stays)
	cargo clean
