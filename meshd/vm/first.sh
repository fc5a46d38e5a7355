#!/bin/busybox sh
# The first process of the emulated machine (see `run`): mounts the root of the machine outside beneath a tmpfs, goes there.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r file; do insmod "/modules/$file"; done < /modules/order
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro root /base
mount -t tmpfs tmpfs /top
mkdir /top/upper /top/work
mount -t overlay overlay -o lowerdir=/base,upperdir=/top/upper,workdir=/top/work /root
work=$(sed 's/.*work=\([^ ]*\).*/\1/' /proc/cmdline)
mkdir -p /root/lib/modules
mount --bind "/root$work/kernel/lib/modules" /root/lib/modules
for dir in proc sys dev; do mount -o move "/$dir" "/root/$dir"; done
exec switch_root /root /bin/sh "$work/../../vm/second.sh" "$work"
