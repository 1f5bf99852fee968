# shellcheck shell=sh disable=SC2034,SC2154
# What the three scripts have in common: sourced, with $top set.
name=${KITH_KIND:-kith}
# A file of its own: the cluster that you use otherwise is never spoken to.
export KUBECONFIG="$top/target/kind/$name.kubeconfig"

# need PROGRAM:WHERE-FROM…: says all that is missing at once.
need() {
    missing=0
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 && continue
        echo "kind: ${pair%%:*} is missing: ${pair#*:}" >&2
        missing=1
    done
    [ "$missing" = 0 ] || exit 2
}
