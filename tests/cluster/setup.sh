#!/bin/sh
# Installs what `make cluster-test` runs Kith on: etcd and network tools from Debian when this is root, and kube-apiserver,
# kubectl and helm, built from the Go module in tests/cluster/kube, whose go.sum pins them, into target/cluster/bin. That
# takes minutes, once: a program that is there, and says that it is of the version in go.mod, is left alone.
# KITH_TEST_ETCD, KITH_TEST_APISERVER, KITH_TEST_KUBECTL and KITH_TEST_HELM name programs to use instead.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$here/../../target/cluster/bin"
bin=$(cd "$here/../../target/cluster/bin" && pwd)

fail() {
    echo "make cluster-test: $*" >&2
    exit 2
}

has() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1
}

for variable in KITH_TEST_ETCD KITH_TEST_APISERVER KITH_TEST_KUBECTL KITH_TEST_HELM; do
    eval "named=\${$variable-}"
    case "$named" in
        "") continue ;;
        # Tests run in a folder of their own.
        /*) ;;
        *) fail "$variable=$named: expected an absolute path" ;;
    esac
    if [ ! -f "$named" ] || [ ! -x "$named" ]; then
        fail "$variable=$named: no such program"
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
        fail "missing packages; install them with: apt-get install$missing"
    fi
    # The tests start etcd themselves: on a machine with systemd, its package must not start one.
    case "$missing" in
        *etcd*)
            if [ -d /run/systemd/system ]; then
                systemctl mask --runtime --quiet etcd.service
                trap 'systemctl unmask --runtime --quiet etcd.service' EXIT
            fi
            ;;
    esac
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

# pinned MODULE: its version in go.mod
pinned() {
    version=$(awk -v module="$1" '$1 == module { print $2 }' "$here/kube/go.mod")
    [ -n "$version" ] || fail "tests/cluster/kube/go.mod does not require $1"
    echo "$version"
}

kubernetes=$(pinned k8s.io/kubernetes)
helm=$(pinned helm.sh/helm/v3)

# is PROGRAM: it is there, and says that it is of the version that is wanted
is() {
    case "$1" in
        kube-apiserver) set -- "$1" "$kubernetes" --version ;;
        kubectl) set -- "$1" "$kubernetes" version --client ;;
        helm) set -- "$1" "$helm" version --short ;;
    esac
    program=$1 version=$2
    shift 2
    [ -x "$bin/$program" ] && "$bin/$program" "$@" 2>/dev/null | grep -qwF -- "$version"
}

needed=""

# need VARIABLE PROGRAM PACKAGE
need() {
    eval "named=\${$1-}"
    if [ -z "$named" ] && ! is "$2"; then
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
    fail "needs Go 1.21 or newer, to build$(for pair in $needed; do printf ' %s' "${pair%%=*}"; done);" \
        "from Debian 13 on: apt-get install golang-go"
fi
export GOFLAGS="-mod=readonly -trimpath -buildvcs=false"
component=k8s.io/component-base/version
minor=${kubernetes#v1.}
flags="-s -w -X $component.gitVersion=$kubernetes -X $component.gitMajor=1 -X $component.gitMinor=${minor%%.*}"
flags="$flags -X helm.sh/helm/v3/internal/version.version=$helm"
for pair in $needed; do
    program=${pair%%=*}
    echo "make cluster-test: building $program"
    # Two at a time: compiling parts of this size takes a gigabyte each.
    go build -C "$here/kube" -p 2 -ldflags "$flags" -o "$bin/$program.new" "${pair##*=}"
    mv "$bin/$program.new" "$bin/$program"
    is "$program" || fail "what was built in target/cluster/bin/$program does not say the version of go.mod"
done
