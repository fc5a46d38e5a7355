//! What outlives the daemon: the interface with its addresses and routes, the sockets, the sessions; over a crash, an
//! upgrade and a stop. Here under our own supervisor, whose keeper speaks systemd's protocol; `tests/roles` has systemd.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{hosts, Host, Mesh, MESHD};

/// A supervised daemon of mesh `prod` that ends with its host.
fn supervise(host: &mut Host) -> usize {
    // What `meshd start` makes.
    host.sh("mkdir -p /run/meshd");
    let child = host.spawn(MESHD, &["supervise", "prod"]);
    host.until("the supervised daemon serves", serves);
    child
}

fn serves(host: &Host) -> bool {
    host.try_meshd(&["status", "prod"], "").0 == 0
}

/// The daemon's process id under the supervisor `child`.
fn daemon(host: &Host, child: usize) -> String {
    let supervisor = host.pid(child);
    let line = format!("cat /proc/{supervisor}/task/{supervisor}/children");
    host.sh(&line).trim().to_owned()
}

/// Kills the daemon as `kill -9` does and waits for the next one.
fn kill_daemon(host: &Host, child: usize) {
    let first = daemon(host, child);
    host.sh(&format!("kill -9 {first}"));
    host.until("another daemon serves", |host| {
        let next = daemon(host, child);
        !next.is_empty() && next != first && serves(host)
    });
}

/// Everything of the interface that the kernel holds, the UDP sockets' identities included.
fn kernel_state(host: &Host) -> String {
    host.sh(
        "ip -o link show prod; ip -o addr show prod scope global
         ip route show table all dev prod; ip -6 route show table all dev prod
         sed -n 's/^ *[0-9]*: [0-9A-F]*:CA6C .* \\([0-9][0-9]*\\) 2 .*/socket \\1/p' /proc/net/udp /proc/net/udp6",
    )
}

#[test]
fn the_interface_and_the_sockets_outlive_a_crash() {
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    let mesh = Mesh::new(2);
    let supervisor = supervise(&mut a);
    a.apply("prod", &mesh.conf(1));
    b.run("prod");
    b.apply("prod", &mesh.conf(2));
    b.until("answered", |host| host.pings("10.77.0.1"));
    let before = kernel_state(&a);
    assert_eq!(before.matches("socket ").count(), 2, "{before}");
    for _ in 0..3 {
        kill_daemon(&a, supervisor);
        assert_eq!(kernel_state(&a), before);
        assert_eq!(a.report("prod")["running"], a.report("prod")["conf"]);
    }
    a.until("answered again", |host| host.pings("10.77.0.2"));

    // Another port: the store must not hold the old one.
    let moved = mesh.conf(1).replacen("51820", "51821", 1);
    a.apply("prod", &moved);
    a.apply("prod", &mesh.conf(1));
    a.apply("prod", &moved);
    kill_daemon(&a, supervisor);
    assert_eq!(a.report("prod")["listen_port"], 51821);
    assert_eq!(
        a.sh("grep -c :CA6C /proc/net/udp || true"),
        "0\n",
        "nobody has the old port"
    );

    // A link that was deleted, or renamed, is not taken for ours.
    a.sh("ip link set prod name other");
    kill_daemon(&a, supervisor);
    a.until("a new link", |host| host.sh("ip -br link").contains("prod"));
    assert_eq!(a.report("prod")["running"], a.report("prod")["conf"]);
    assert!(!a.sh("ip -br link").contains("other"));
    a.sh("ip link del prod");
    kill_daemon(&a, supervisor);
    assert_eq!(a.report("prod")["running"], a.report("prod")["conf"]);

    // Absent means absent: nothing is kept for nobody.
    a.meshd(&["remove", "prod"]);
    assert!(!a.sh("ip -br link").contains("prod"));
    kill_daemon(&a, supervisor);
    assert_eq!(a.report("prod")["state"], "absent");
    assert!(!a.sh("ip -br link").contains("prod"));
}

#[test]
fn an_upgrade_replaces_the_process_and_a_stop_ends_everything() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(1);
    let supervisor = supervise(&mut a);
    a.apply("prod", &mesh.conf(1));
    let (first, before) = (daemon(&a, supervisor), kernel_state(&a));
    a.meshd(&["upgrade", "prod"]);
    assert_ne!(daemon(&a, supervisor), first);
    assert_eq!(kernel_state(&a), before);

    // Not while a switch may still go back: the next daemon would go back at once.
    let id = a.stage("prod", &mesh.interface(1, ""));
    a.meshd(&["switch", "prod", "--id", &id, "--within", "60"]);
    let (code, _, err) = a.try_meshd(&["upgrade", "prod"], "");
    assert_eq!(code, 1);
    assert!(err.contains("confirm it, or roll back"), "{err}");
    a.meshd(&["rollback", "prod"]);

    assert_eq!(a.terminate(supervisor), 0);
    assert!(!a.sh("ip -br link").contains("prod"));
    assert_eq!(a.sh("ls /run/meshd"), "prod.pid\n");
    let (code, _, err) = a.try_meshd(&["upgrade", "prod"], "");
    assert_eq!(code, 4, "{err}");
}

#[test]
fn a_daemon_that_nobody_starts_again_is_not_ended_for_a_successor() {
    let Some([mut a]) = hosts::<1>() else { return };
    let daemon = a.run("prod");
    let (code, _, err) = a.try_meshd(&["upgrade", "prod"], "");
    assert_eq!(code, 1);
    assert!(err.contains("nobody would start the daemon again"), "{err}");
    assert!(!a.has_ended(daemon));
}
