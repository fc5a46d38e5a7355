#!/bin/sh
# The main job, shown on this machine: three throw-away hosts, one mesh, traffic through it, everything taken down again.
#
# Nothing is faked: the hosts run real sshd, meshctl pushes the real daemon with Ansible over SSH.
# Called by `make demo`; needs Linux and root for the namespaces of the lab. Nothing is left behind, also after Ctrl-C.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH

if [ "$(id -u)" -ne 0 ]; then
    echo "demo: the lab needs root for its network namespaces (hint: sudo make demo)" >&2
    exit 1
fi

# A copy of the example, under a name of its own: the demo's lock and keys are nobody's, and a lab that is up stays up.
mesh=demo
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
sed "s/^mesh: .*/mesh: $mesh/" examples/three-servers/mesh.yaml > "$work/mesh.yaml"
cd "$work"

say() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}
finish() {
    meshctl lab down > /dev/null 2>&1 || echo "demo: the lab could not be taken down (hint: meshctl lab down $work)" >&2
    rm -rf "$work"
}

say meshctl lab up
trap finish EXIT
say meshctl apply --lab --yes
say meshctl status --lab
say meshctl lab exec a -- ping -c 3 -i 0.2 "b.$mesh"
say meshctl lab exec c -- ping -4 -c 3 -i 0.2 "a.$mesh"
say meshctl lab exec a -- wg show
say meshctl apply --lab --yes
trap 'rm -rf "$work"' EXIT
say meshctl lab down
echo
echo "demo: done (next: docs/tutorial.md takes you to real servers)"
