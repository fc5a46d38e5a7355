//! What outlives the daemon: the interface with its addresses and routes, the sockets, the sessions; over a crash, an
//! upgrade and a stop. Here under our own supervisor, whose keeper speaks systemd's protocol; `tests/roles` has systemd.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::thread::sleep;
use std::time::Duration;

use common::supervised::{
    daemon, handshake, kernel_state, kill_daemon, pair, serves, supervise, supervise_with,
};
use common::{hosts, Host, Mesh, MESHD};

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
    assert!(before.matches("socket ").count() >= 2, "{before}");
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
    // Kernels before 6.4 rename only a link that is down.
    a.sh("ip link set prod down && ip link set prod name other && ip link set other up");
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

#[test]
fn a_daemon_that_keeps_dying_forgets_its_sessions() {
    let Some(([a, b], supervisor)) = pair(&["MESHD_QUICK_DEATH_MS=60000"]) else {
        return;
    };
    let first = handshake(&b);
    let poisoned = |host: &Host| {
        let notes = host.status("prod")["notes"].to_string();
        notes.contains("its sessions were forgotten")
    };
    for _ in 0..2 {
        kill_daemon(&a, supervisor);
        assert!(!poisoned(&a));
    }
    // So that another handshake is told from the first.
    sleep(Duration::from_millis(1500));
    kill_daemon(&a, supervisor);
    assert!(poisoned(&a));
    a.until("answered by a new session", |host| host.pings("10.77.0.2"));
    assert_ne!(handshake(&b), first);
}

#[test]
fn without_secret_memory_and_with_swap_on_disk_no_session_is_kept_and_status_says_so() {
    let swaps = "/run/swaps";
    let environment = ["MESHD_NO_MEMFD_SECRET=1", &format!("MESHD_SWAPS={swaps}")];
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    let notes = |host: &Host| host.status("prod")["notes"].to_string();
    let mesh = Mesh::new(2);
    a.sh(&format!(
        "printf 'Filename\\n/swapfile file 4 0 -2\\n' > {swaps}"
    ));
    let supervisor = supervise_with(&mut a, &environment);
    a.apply("prod", &mesh.conf(1));
    b.run("prod");
    b.apply("prod", &mesh.conf(2));
    b.until("answered", |host| host.pings("10.77.0.1"));
    assert!(
        notes(&a).contains("sessions are not kept over a restart"),
        "{}",
        notes(&a)
    );
    let (before, first) = (kernel_state(&a), handshake(&b));
    sleep(Duration::from_millis(1500));
    kill_daemon(&a, supervisor);
    assert_eq!(kernel_state(&a), before, "the interface stays all the same");
    a.until("answered by a new session", |host| host.pings("10.77.0.2"));
    assert_ne!(handshake(&b), first);

    // Without the swap plain memory will do.
    a.sh(&format!("echo Filename > {swaps}"));
    kill_daemon(&a, supervisor);
    a.until("answered", |host| host.pings("10.77.0.2"));
    assert_eq!(notes(&a), "[]");
    let first = handshake(&b);
    kill_daemon(&a, supervisor);
    assert!(a.pings("10.77.0.2"));
    assert_eq!(handshake(&b), first);
}

#[test]
fn a_program_that_is_missing_for_a_moment_costs_nothing() {
    let Some([mut host]) = hosts::<1>() else {
        return;
    };
    let mesh = Mesh::new(2);
    let lib = "/usr/local/lib/meshd";
    host.sh(&format!(
        "mount -t tmpfs none /usr/local/lib && mkdir -p {lib}/1 /run/meshd && cp {MESHD} {lib}/1/ && ln -s 1 {lib}/current"
    ));
    let program = format!("{lib}/current/meshd");
    let supervisor = host.spawn(&program, &["supervise", "prod"]);
    host.until("the supervised daemon serves", serves);
    host.apply("prod", &mesh.conf(1));
    let before = kernel_state(&host);
    host.sh(&format!("rm {lib}/current"));
    let first = daemon(&host, supervisor);
    host.sh(&format!("kill -9 {first}"));
    host.until("nobody is there", |host| !serves(host));
    assert!(!host.has_ended(supervisor));
    host.sh(&format!("ln -s 1 {lib}/current"));
    host.until("another daemon serves", serves);
    assert_eq!(kernel_state(&host), before, "kept by the supervisor");
    host.sh(&format!("rm {lib}/current"));
    host.sh(&format!("kill -9 {}", daemon(&host, supervisor)));
    host.until("nobody is there", |host| !serves(host));
    assert_eq!(host.terminate(supervisor), 0, "it ends when told, too");
}
