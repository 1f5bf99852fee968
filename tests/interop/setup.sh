#!/bin/sh
# Installs the programs that `make interop` runs against Kith: Debian packages when this is root, and what comes
# from PyPI into target/interop/venv. Everything that is there already is left alone.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
interop="$here/../../target/interop"
venv="$interop/venv"

# command or file:Debian package
needed="ip:iproute2 nft:nftables nginx:nginx-light h2load:nghttp2-client wrk:wrk curl:curl openssl:openssl
        iperf3:iperf3 python3:python3"

has() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1
}

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
