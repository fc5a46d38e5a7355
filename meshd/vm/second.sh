#!/bin/sh
# The emulated machine on its own root (see `run`): runs every line of the list, says how it went, turns the machine off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/netns /run/lock
ln -s /proc/self/fd /dev/fd 2> /dev/null
ip link set lo up
modprobe -a tun veth bridge wireguard nf_tables
mknod -m 666 /dev/net/tun c 10 200 2> /dev/null
failed=0
# Here the clock may be set, and the kernel has WireGuard: a test that finds otherwise fails.
export MESHD_TEST_CLOCK=1 MESHD_TEST_KERNEL=1
while read -r program filter; do
    echo "vm: $(basename "$program") $filter"
    # shellcheck disable=SC2086  # a list of words
    "$program" --test-threads=1 --nocapture $filter < /dev/null 2>&1 || failed=1
done < "$1/list"
[ "$failed" = 1 ] || echo 'vm: all passed'
sync
echo b > /proc/sysrq-trigger
sleep 60
