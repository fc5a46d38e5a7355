//! A container as unprivileged LXC makes them: a user namespace whose root is nobody outside, with its own network, and
//! /dev/net/tun from outside or not.
use crate::common::{Host, MESHD};
use std::process::{Command, Stdio};

/// What the container was given.
#[derive(Clone, Copy, Debug)]
pub enum Node {
    Given,
    Missing,
    /// There, but only for root outside.
    Forbidden,
}

/// Becomes nobody, whose user namespaces these are.
const NOBODY: [&str; 6] = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
];
const ENTER: [&str; 5] = [
    "nsenter",
    "--preserve-credentials",
    "--user",
    "--net",
    "--mount",
];

const INSIDE: &str = "set -e
for dir in run var etc; do mount -t tmpfs -o mode=755 tmpfs /$dir; done
mkdir -p /run/lock /var/lib /var/log
printf '127.0.0.1 localhost' > /etc/hosts
ip link set lo up
echo ready
exec sleep 600";

/// A container linked to `out`'s switch as host 2. `None`: not possible here, and said why.
pub fn container(out: &Host, node: Node) -> Option<Host> {
    let nobody = |args: &[&str]| {
        let mut command = Command::new(NOBODY[0]);
        command.args(&NOBODY[1..]).args(args).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !nobody(&[
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "true",
    ]) {
        eprintln!("skipped: nobody may not make user namespaces here");
        return None;
    }
    if !nobody(&["test", "-x", MESHD]) {
        eprintln!("skipped: nobody can't run {MESHD}");
        return None;
    }
    let device = match node {
        Node::Given => "mknod -m 666 /mnt/tun c 10 200 && mount --bind /mnt/tun /dev/net/tun",
        Node::Forbidden => "mknod -m 600 /mnt/tun c 10 200 && mount --bind /mnt/tun /dev/net/tun",
        Node::Missing => "mount -t tmpfs -o mode=755 tmpfs /dev/net",
    };
    let outside = format!(
        "set -e; mount --make-rprivate /; mount -t tmpfs -o mode=755 tmpfs /mnt; {device}
         exec {} unshare --user --map-root-user --net --mount sh -c \"$1\"",
        NOBODY.join(" ")
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &outside, "sh", INSIDE]);
    let enter = [&NOBODY[..], &ENTER[..]].concat();
    let host = Host::held_by(command, &enter);
    out.sh(&format!(
        "ip link add name port2 type veth peer name eth0 netns {} && ip link set port2 master switch up",
        host.holder()
    ));
    host.sh("ip addr add 192.0.2.2/24 dev eth0 && ip addr add 2001:db8::2/64 dev eth0 nodad && ip link set eth0 up");
    Some(host)
}
