#!/bin/sh
# Installs what `make cluster-test` runs Kith on: etcd and network tools from Debian when this is root, and kube-apiserver,
# kubectl and helm, built from the Go module in tests/cluster/kube, whose go.sum pins them, into target/cluster/bin. That
# takes minutes, once. What is there already is left alone. KITH_TEST_ETCD, KITH_TEST_APISERVER, KITH_TEST_KUBECTL and
# KITH_TEST_HELM name programs to use instead.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$here/../../target/cluster/bin"
bin=$(cd "$here/../../target/cluster/bin" && pwd)

has() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1
}

for named in "${KITH_TEST_ETCD-}" "${KITH_TEST_APISERVER-}" "${KITH_TEST_KUBECTL-}" "${KITH_TEST_HELM-}"; do
    if [ -n "$named" ] && [ ! -x "$named" ]; then
        echo "make cluster-test: $named, which a KITH_TEST_… variable names, is no program" >&2
        exit 2
    fi
done

missing=""
for pair in ip:iproute2 nft:nftables etcd:etcd-server; do
    case "$pair" in
        etcd:*) [ -z "${KITH_TEST_ETCD-}" ] || continue ;;
    esac
    has "${pair%%:*}" || missing="$missing ${pair##*:}"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ] || ! has apt-get; then
        echo "make cluster-test: missing packages; install them with: apt-get install$missing" >&2
        exit 2
    fi
    # The tests start etcd themselves: on a machine with systemd, its package must not start one.
    mask=""
    case "$missing" in
        *etcd*) [ ! -d /run/systemd/system ] || mask=yes ;;
    esac
    if [ -n "$mask" ]; then
        systemctl mask --runtime --quiet etcd.service
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
    if [ -n "$mask" ]; then
        systemctl unmask --runtime --quiet etcd.service
    fi
fi

kubernetes=v1.36.3
helm=v3.21.4
needed=""

# need VARIABLE PROGRAM PACKAGE
need() {
    eval "named=\${$1-}"
    [ -z "$named" ] || return 0
    if [ ! -x "$bin/$2" ] || [ "$here/kube/go.sum" -nt "$bin/$2" ]; then
        needed="$needed $2=$3"
    fi
}
need KITH_TEST_APISERVER kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
need KITH_TEST_KUBECTL kubectl k8s.io/kubernetes/cmd/kubectl
need KITH_TEST_HELM helm helm.sh/helm/v3/cmd/helm
[ -n "$needed" ] || exit 0

# Since 1.21, Go gets by itself, as a module, the newer Go that a go.mod asks for. Debian 12 has an older one.
export GOTOOLCHAIN="${GOTOOLCHAIN:-auto}"
if ! has go || ! go version | grep -qE 'go1\.(2[1-9]|[3-9][0-9])'; then
    echo "make cluster-test: needs Go 1.21 or newer, to build a kube-apiserver; from Debian 13 on: apt-get install golang-go" >&2
    exit 2
fi
export GOFLAGS="-mod=readonly -trimpath -buildvcs=false"
component=k8s.io/component-base/version
flags="-s -w -X $component.gitVersion=$kubernetes -X $component.gitMajor=1 -X $component.gitMinor=36"
flags="$flags -X helm.sh/helm/v3/internal/version.version=$helm"
for pair in $needed; do
    program=${pair%%=*}
    echo "make cluster-test: building $program"
    # Two at a time: compiling parts of this size takes a gigabyte each.
    go build -C "$here/kube" -p 2 -ldflags "$flags" -o "$bin/$program.new" "${pair##*=}"
    mv "$bin/$program.new" "$bin/$program"
done
