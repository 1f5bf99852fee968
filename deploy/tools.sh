#!/bin/sh
# Makes sure that programs are there: `tools.sh nft:nftables ip:iproute2` (program:Debian package).
# Installs what is missing when it may; otherwise says which packages to install. Exit 1 when something is missing.
set -eu
missing=
for pair in "$@"; do
    program=${pair%%:*}
    package=${pair#*:}
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    # A fresh machine has no package lists yet, or old ones.
    # shellcheck disable=SC2086
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "missing:$missing. Install them, e.g.: sudo apt-get install$missing" >&2
    exit 1
fi
