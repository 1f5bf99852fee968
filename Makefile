# The same commands that CI runs. Each does its own set-up.

CARGO ?= cargo

.PHONY: all fmt lint deny test policy-test soak interop cluster-test fuzz scale bench policy-bench demo tools images manifests kind-up kind-test kind-down

all: lint test

fmt:
	$(CARGO) fmt --all

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Licences, sources and banned crates; needs cargo-deny.
deny:
	$(CARGO) deny check licenses bans sources

# The programs first: tests start them as real processes.
test: tools
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace --exclude kith-tests
	$(CARGO) test -p kith-tests --lib --bins --test tidy --test e2e -- --test-threads=3

# 2,000 requests a second for 60 s while SVIDs and roots are replaced; `make test` has the same in little.
soak: tools
	$(CARGO) build --release --bin kith
	KITH_SOAK=full KITH_BIN=$(CURDIR)/target/release/kith $(CARGO) test -p kith-tests --test e2e rotation:: -- --nocapture

interop: tools
	tests/interop/setup.sh
	$(CARGO) build --workspace --bins
	$(CARGO) test -p kith-tests --test interop -- --test-threads=2

# On a real etcd and a real API server; needs root, as containers have users of their own.
cluster-test: tools
	tests/cluster/setup.sh
	HELM="$${KITH_TEST_HELM:-target/cluster/bin/helm}" deploy/manifests/render --check
	$(CARGO) build --workspace --bins
	$(CARGO) test -p kith-control --lib -- --ignored --test-threads=2 kubernetes::operate
	$(CARGO) test -p kith-tests --test cluster -- --test-threads=2

# Every target for a minute, two at a time: about ten minutes. `make fuzz SECONDS=600` for longer.
fuzz:
	tests/fuzz/run $(SECONDS)

# The control plane at the size of a large cluster: 10,000 pods on a real API server, a simulated sidecar for each.
scale:
	tests/cluster/setup.sh
	$(CARGO) build --release -p kith-control
	$(CARGO) build --release -p kith-tests --bin kith-scale
	target/release/kith-scale $(SCALE)

demo: tools
	$(CARGO) run --release --bin kith -- demo $(DEMO)

bench: tools
	tests/interop/setup.sh --no-go
	$(CARGO) build --release -p kith -p kith-tests --bins
	$(CARGO) build --release -p kith-proxy
	target/release/kith-bench --proxy target/release/kith-proxy $(BENCH)

# The project's own suite of decisions; `make test` runs it too.
policy-test:
	$(CARGO) run -q --bin kith -- policy test --quiet tests/policy/*.yaml

policy-bench:
	$(CARGO) bench -p kith-policy

# Network namespaces and redirects need two programs that are not on every machine.
tools:
	@deploy/tools.sh nft:nftables ip:iproute2

# Static binaries as OCI archives in target/images: no container engine, no registry.
images: tools
	deploy/images/build

# What the chart makes with its default values, for those without Helm; needs helm.
manifests:
	deploy/manifests/render

# A cluster of this machine's containers; needs docker, kind, kubectl and helm.
kind-up: tools
	deploy/kind/up

kind-test:
	deploy/kind/test

kind-down:
	deploy/kind/down
