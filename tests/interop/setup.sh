#!/bin/sh
# Installs the programs that `make interop` runs against Kith: Debian packages when this is root, what comes from PyPI
# into target/interop/venv, and what is built from Go modules, SPIRE above all, into target/interop/spire. Everything
# that is there already is left alone. With --no-go, for benchmarks: without the last.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
interop="$here/../../target/interop"
venv="$interop/venv"

# command or file:Debian package
needed="ip:iproute2 nft:nftables nginx:nginx-light h2load:nghttp2-client wrk:wrk curl:curl openssl:openssl
        iperf3:iperf3 python3:python3"
go=yes
[ "${1-}" != --no-go ] || go=""

has() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1
}

# Since 1.21, Go gets by itself, as a module, the newer Go that a go.mod asks for. Debian 12 has an older one.
if [ -n "$go" ]; then
    export GOTOOLCHAIN="${GOTOOLCHAIN:-auto}"
    if ! has go || ! go version | grep -qE 'go1\.(2[1-9]|[3-9][0-9])'; then
        echo "make interop: needs Go 1.21 or newer, to build SPIRE; from Debian 13 on: apt-get install golang-go" >&2
        exit 2
    fi
fi

missing=""
for pair in $needed; do
    has "${pair%%:*}" || missing="$missing ${pair##*:}"
done
if [ ! -x "$venv/bin/python" ] && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    missing="$missing python3-venv"
fi

if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ] || ! has apt-get; then
        echo "make interop: missing packages; install them with: apt-get install$missing" >&2
        exit 2
    fi
    # The tests start nginx themselves: on a machine with systemd, its package must not start one on port 80.
    mask=""
    case "$missing" in
        *nginx*) [ ! -d /run/systemd/system ] || mask=yes ;;
    esac
    if [ -n "$mask" ]; then
        systemctl mask --runtime --quiet nginx.service
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
    if [ -n "$mask" ]; then
        systemctl unmask --runtime --quiet nginx.service
    fi
fi

# Made anew when the list of packages has changed, or the Python that it was made with is gone.
wanted="$here/python/requirements.txt"
installed="$venv/requirements.txt"
if ! cmp -s "$wanted" "$installed" || ! "$venv/bin/python" -c '' 2>/dev/null; then
    mkdir -p "$interop"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
    cp "$wanted" "$installed"
fi

if [ -z "$go" ]; then
    exit 0
fi

export GOFLAGS="-mod=readonly -trimpath -buildvcs=false"
spire="$interop/spire"
mkdir -p "$spire"

# SPIRE is built inside its own module, where its go.sum pins everything below it. That takes minutes, once.
module=github.com/spiffe/spire
version=v1.13.3
sum=h1:wDTK8tj8ShO5izjue/OFanVaehmjUxSxHtSWxBY+FJQ=
if [ "$(cat "$spire/version" 2>/dev/null)" != "$version" ] ||
    [ ! -x "$spire/spire-server" ] || [ ! -x "$spire/spire-agent" ]; then
    echo "make interop: building SPIRE $version"
    rm -f "$spire/version"
    got=$(GOFLAGS='' go mod download -json "$module@$version") || {
        echo "$got" >&2
        exit 1
    }
    case "$got" in
        *"\"Sum\": \"$sum\""*) ;;
        *)
            echo "make interop: $module@$version is not the one with sum $sum: $got" >&2
            exit 1
            ;;
    esac
    # Its data store, SQLite, is C. Two at a time: linkers of this size take a gigabyte each.
    CGO_ENABLED=1 go build -C "$(go env GOMODCACHE)/$module@$version" -p 2 -ldflags '-s -w' -o "$spire/" \
        ./cmd/spire-server ./cmd/spire-agent
    echo "$version" >"$spire/version"
fi

go build -C "$here/go" -ldflags '-s -w' -o "$spire/spiffe-peer" .
