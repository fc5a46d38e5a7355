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

# The lock and the keys of the demo belong to nobody: a copy of the example is applied, not the example itself.
work=$(mktemp -d)
cp examples/three-servers/mesh.yaml "$work/"
cd "$work"
mesh=$(sed -n 's/^mesh: *//p' mesh.yaml | sed 's/ *#.*//')
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }
finish() { meshctl lab down "$work/mesh.yaml" > /dev/null 2>&1 || echo "demo: could not take the lab down (meshctl lab down)" >&2; rm -rf "$work"; }
trap finish EXIT
trap 'exit 130' INT TERM

say meshctl lab up
say meshctl apply --lab --yes
say meshctl status --lab
say meshctl lab exec a -- ping -c 3 -i 0.2 "b.$mesh"
say meshctl lab exec c -- ping -6 -c 3 -i 0.2 "a.$mesh"
say meshctl apply --lab --yes
say meshctl lab exec a -- meshd status "$mesh"
trap - EXIT
say meshctl lab down
rm -rf "$work"
echo
echo "demo: done; next: docs/tutorial.md takes you to real servers"
