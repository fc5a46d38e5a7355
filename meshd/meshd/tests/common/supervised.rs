//! A daemon under our own supervisor, and what of it must outlive it.

use std::fs::File;
use std::thread::JoinHandle;

use meshd_os::namespace;

use super::{hosts, Host, Mesh, MESHD};

/// A supervised daemon of mesh `prod` that ends with its host.
pub fn supervise(host: &mut Host) -> usize {
    supervise_with(host, &[])
}

/// The same with these variables in its environment.
pub fn supervise_with(host: &mut Host, environment: &[&str]) -> usize {
    // What `meshd start` makes.
    host.sh("mkdir -p /run/meshd");
    let arguments = [environment, &[MESHD, "supervise", "prod"]].concat();
    let child = host.spawn("env", &arguments);
    host.until("the supervised daemon serves", serves);
    child
}

pub fn serves(host: &Host) -> bool {
    host.try_meshd(&["status", "prod"], "").0 == 0
}

/// The daemon's process id under the supervisor `child`.
pub fn daemon(host: &Host, child: usize) -> String {
    let supervisor = host.pid(child);
    let line = format!("cat /proc/{supervisor}/task/{supervisor}/children");
    host.sh(&line).trim().to_owned()
}

/// Kills the daemon as `kill -9` does and waits for the next one.
pub fn kill_daemon(host: &Host, child: usize) {
    let first = daemon(host, child);
    host.sh(&format!("kill -9 {first}"));
    host.until("another daemon serves", |host| {
        let next = daemon(host, child);
        !next.is_empty() && next != first && serves(host)
    });
}

/// Everything of the interface that the kernel holds, the UDP sockets' identities included.
pub fn kernel_state(host: &Host) -> String {
    host.sh(
        "ip -o link show prod; ip -o addr show prod scope global
         ip route show table all dev prod; ip -6 route show table all dev prod
         sed -n 's/^ *[0-9]*: [0-9A-F]*:CA6C .* \\([0-9][0-9]*\\) 2 .*/socket \\1/p' /proc/net/udp /proc/net/udp6",
    )
}

/// Two hosts that have shaken hands; the first one's daemon is supervised.
pub fn pair(environment: &[&str]) -> Option<([Host; 2], usize)> {
    let [mut a, mut b] = hosts::<2>()?;
    let mesh = Mesh::new(2);
    let supervisor = supervise_with(&mut a, environment);
    a.apply("prod", &mesh.conf(1));
    b.run("prod");
    b.apply("prod", &mesh.conf(2));
    b.until("answered", |host| host.pings("10.77.0.1"));
    Some(([a, b], supervisor))
}

/// When peers last shook hands, in whole seconds since 1970. As the daemon wrote it down then: an age, and the time it was asked
/// for, would come out as one second or the next.
pub fn handshake(host: &Host) -> String {
    host.sh("wg show prod latest-handshakes")
}

/// Runs `f` in a thread in the host's network namespace.
pub fn on<T: Send + 'static>(host: &Host, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let there = File::open(format!("/proc/{}/ns/net", host.holder())).unwrap();
    std::thread::spawn(move || namespace::within(&there, f).unwrap())
}
