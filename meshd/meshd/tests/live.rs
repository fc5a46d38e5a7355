//! Every key of the configuration changes on a live interface, there and back: what runs is then what is configured, and the
//! link to a peer that isn't concerned carries its packets all the while, under the same session, to where it was learned to be.
//! Also: a step that fails in the middle takes the others back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::flow::Flow;
use common::{hosts, keys, sha256, Host, Mesh};

const NAME: &str = "prod";

/// Two hosts with a live mesh; host 1 knows a third, which isn't there. Host 2 is at another port than host 1 was told, so that its
/// place is a learned one.
fn scene() -> Option<([Host; 2], Mesh)> {
    let mut both = hosts::<2>()?;
    let mesh = Mesh::new(3);
    both[0].run(NAME);
    both[1].run(NAME);
    both[0].apply(NAME, &conf(&mesh, "", ""));
    let b = mesh.interface(2, "").replace("51820", "51899") + &mesh.peer(1, "");
    both[1].apply(NAME, &b);
    both[1].until("answered", |host| host.pings("10.77.0.1"));
    Some((both, mesh))
}

/// Host 1, with more lines for its interface and for the peer that isn't there.
fn conf(mesh: &Mesh, interface: &str, third: &str) -> String {
    mesh.interface(1, interface) + &mesh.peer(2, "") + &mesh.peer(3, third)
}

fn peer(host: &Host, name: &str) -> serde_json::Value {
    let status = host.status(NAME);
    let peers = status["peers"].as_array().unwrap();
    peers
        .iter()
        .find(|peer| peer["name"] == name)
        .cloned()
        .unwrap_or_default()
}

/// What must not change by a change that doesn't concern the peer: when it shook hands (as seconds since boot), where it is.
fn unconcerned(host: &Host) -> (f64, String) {
    let peer = peer(host, "h2");
    let age = peer["latest_handshake_s"]
        .as_f64()
        .expect("it is connected");
    let now: f64 = host
        .sh("cut -d' ' -f1 /proc/uptime")
        .trim()
        .parse()
        .unwrap();
    (now - age, peer["endpoint"].as_str().unwrap().to_owned())
}

/// Takes a configuration live and checks that it runs; then goes back to the confirmed one, and checks that.
fn there_and_back(host: &Host, conf: &str, confirmed: &str, mut look: impl FnMut()) {
    let wanted = host.try_meshd(&["check", "--canonical"], conf).1;
    let id = host.stage(NAME, conf);
    host.meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    assert_eq!(host.report(NAME)["running"], wanted);
    look();
    host.meshd(&["rollback", NAME]);
    assert_eq!(host.report(NAME)["running"], confirmed);
    look();
}

#[test]
fn every_key_changes_live_and_who_is_not_concerned_notices_nothing() {
    let Some(([a, b], mesh)) = scene() else {
        return;
    };
    let base = conf(&mesh, "", "");
    let line = |from: &str, to: &str| base.replacen(from, to, 1);
    let (stranger, _) = keys();
    let (_, other_key) = keys();
    let changes = [
        ("a name", line("Name = h1", "Name = one")),
        (
            "an address",
            line("Address = ", "Address = 10.78.0.1/24, fd78::1/64, "),
        ),
        (
            "the only IPv4 address",
            line("10.77.0.1/32", "10.77.0.1/24"),
        ),
        ("the port", line("ListenPort = 51820", "ListenPort = 51833")),
        (
            "a port of the kernel's choice",
            line("ListenPort = 51820\n", ""),
        ),
        ("the mark", conf(&mesh, "FwMark = 0x77\n", "")),
        ("the MTU", conf(&mesh, "MTU = 1300\n", "")),
        ("relaying", conf(&mesh, "Relay = on\n", "")),
        ("forwarding", conf(&mesh, "Forward = 192.168.7.0/24\n", "")),
        (
            "a next key",
            conf(&mesh, &format!("NextPrivateKey = {stranger}\n"), ""),
        ),
        (
            "a peer's keepalive",
            conf(&mesh, "", "PersistentKeepalive = 25\n"),
        ),
        (
            "a peer's preshared key",
            conf(&mesh, "", &format!("PresharedKey = {stranger}\n")),
        ),
        (
            "a peer's next keys",
            conf(
                &mesh,
                "",
                &format!("NextPublicKey = {other_key}\nNextPresharedKey = {stranger}\n"),
            ),
        ),
        ("a peer's endpoint", line("192.0.2.3:51820", "192.0.2.33:1")),
        (
            "a peer's endpoint by name",
            line("192.0.2.3:51820", "localhost:1"),
        ),
        ("no endpoint", line("Endpoint = 192.0.2.3:51820\n", "")),
        (
            "a peer's networks",
            line(
                "10.77.0.3/32, fd77::3/128",
                "10.77.0.3/32, 10.80.0.0/16, fd80::/48",
            ),
        ),
        (
            "a peer's end",
            conf(&mesh, "", "Expires = 2036-01-01T00:00:00Z\n"),
        ),
        ("a peer's key", line(mesh.public(3), &other_key)),
        ("a peer's name", line("Name = h3", "Name = three")),
        ("one peer less", mesh.interface(1, "") + &mesh.peer(2, "")),
    ];
    let mut before = unconcerned(&a);
    assert_eq!(before.1, "192.0.2.2:51899", "learned");
    let confirmed = a.report(NAME)["conf"].as_str().unwrap().to_owned();
    let flow = Flow::begin(&a, &b, "10.77.0.2", 300, 500);
    // To the ports that are left, too.
    let back = Flow::begin(&b, &a, "10.77.0.1", 300, 500);
    let mut look = |what: &str| {
        let now = unconcerned(&a);
        if what == "a next key" {
            // That concerns everybody: a handshake tries it.
            before.0 = now.0;
        }
        assert!((now.0 - before.0).abs() < 1.0, "{what} cost a handshake");
        assert_eq!(now.1, before.1, "{what} moved a peer");
    };
    for (what, to) in &changes {
        there_and_back(&a, to, &confirmed, || look(what));
    }
    // The host looks in the main table: let it look in another one too while that is used.
    a.sh("ip rule add pref 100 table 4711 && ip -6 rule add pref 100 table 4711");
    there_and_back(&a, &conf(&mesh, "Table = 4711\n", ""), &confirmed, || {
        look("a table")
    });
    // What the kernel asks about the way back of a packet that comes in changes with each of these, too.
    a.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    let all = base.replace("fd77::2/128", "fd77::2/128, 0.0.0.0/0, ::/0");
    let closed = [
        (
            "the kill switch",
            conf(&mesh, "KillSwitch = on\nKillSwitchAllow = tcp/22\n", ""),
        ),
        (
            "the kill switch and a mark",
            conf(&mesh, "KillSwitch = on\nFwMark = 7\n", ""),
        ),
        ("everything through a peer", all.clone()),
        (
            "everything of a user",
            all.replace("Address", "RouteUsers = 1001\nAddress"),
        ),
        ("a way out", conf(&mesh, "Exit = on\n", "")),
    ];
    for (what, to) in &closed {
        there_and_back(&a, to, &confirmed, || look(what));
    }
    let counts = [flow.end(), back.end()];
    eprintln!("{} changes there and back: {counts:?}", changes.len());
    for counts in counts {
        assert_eq!(counts.sent, counts.received, "{counts:?}");
    }
}

#[test]
fn a_step_that_fails_in_the_middle_takes_the_others_back() {
    let Some(([a, b], mesh)) = scene() else {
        return;
    };
    let before = a.report(NAME);
    let unchanged = unconcerned(&a);
    let flow = Flow::begin(&a, &b, "10.77.0.2", 100, 500);
    // The port, the mark, relaying and an address are done by then: the kernel takes no multicast address for a host.
    for closed in ["", "KillSwitch = on\n"] {
        let bad = mesh
            .interface(
                1,
                &format!("FwMark = 0x99\nRelay = on\nMTU = 1300\n{closed}"),
            )
            .replace("51820", "51844")
            .replace("Address = ", "Address = 10.78.0.1/24, ff0e::1/128, ");
        let bad = bad + &mesh.peer(2, "PersistentKeepalive = 7\n");
        let id = a.stage(NAME, &bad);
        let (code, _, err) = a.try_meshd(&["switch", NAME, "--id", &id, "--within", "60"], "");
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("interface prod"), "{err}");
        let after = a.report(NAME);
        assert_eq!(after["running"], before["running"]);
        assert_eq!(after["switched_id"], serde_json::Value::Null);
        assert_eq!(a.try_meshd(&["confirm", NAME, "--id", &id], "").0, 5);
        assert_eq!(a.sh("cat /etc/meshd/prod.conf"), conf(&mesh, "", ""));
    }
    assert!(!a
        .sh("ip addr show prod; wg show prod fwmark || true")
        .contains("10.78.0.1"));
    assert!((unconcerned(&a).0 - unchanged.0).abs() < 1.0);
    let counts = flow.end();
    assert_eq!(counts.sent, counts.received, "{counts:?}");
}

#[test]
fn an_end_survives_a_restart_and_a_clock_that_jumps() {
    let Some(([mut a, b], mesh)) = scene() else {
        return;
    };
    let ends = |host: &Host, when: &str| {
        let at = host.sh(&format!("date -u -d '{when}' +%Y-%m-%dT%H:%M:%SZ"));
        let peer = mesh.peer(2, &format!("Expires = {}\n", at.trim()));
        mesh.interface(1, "") + &peer.replace("192.0.2.2:51820", "192.0.2.2:51899")
    };
    // An hour away: it is there, after a restart too.
    a.apply(NAME, &ends(&a, "+1 hour"));
    a.kill(0);
    a.run(NAME);
    a.until("answered", |host| host.pings("10.77.0.2"));
    assert!(b.pings("10.77.0.1"));
    // A moment away, and over while there is no daemon.
    let conf = ends(&a, "+2 seconds");
    a.apply(NAME, &conf);
    a.kill(1);
    let over = a.sh("date -u -d '+3 seconds' +%s");
    a.until("its time is over", |host| host.sh("date -u +%s") >= over);
    a.run(NAME);
    assert_eq!(peer(&a, "h2"), serde_json::Value::Null);
    let report = a.report(NAME);
    assert_eq!(report["running"], report["conf"], "its end is no drift");
    assert_eq!(
        report["conf_sha256"],
        sha256(report["conf"].as_str().unwrap())
    );
    assert!(!a.pings("10.77.0.2"), "its packets go nowhere");
    assert!(a.sh("ip route get 10.77.0.2").contains("dev prod"));
}

/// Sets this machine's clock, so only where nobody else needs it: in the emulated machine of `meshd/vm/run`.
#[test]
fn a_clock_set_forward_ends_a_peer_at_once() {
    if std::env::var_os("MESHD_TEST_CLOCK").is_none() {
        eprintln!("skipped: it sets the clock of the machine (`meshd/vm/run` has one for it)");
        return;
    }
    let Some(([a, b], mesh)) = scene() else {
        return;
    };
    let flow = Flow::begin(&b, &a, "10.77.0.1", 50, 100);
    let end = a.sh("date -u -d '+10 days' +%Y-%m-%dT%H:%M:%SZ");
    let expiring = mesh.peer(2, &format!("Expires = {}\n", end.trim()));
    a.apply(NAME, &(mesh.interface(1, "") + &expiring));
    assert!(a.pings("10.77.0.2"));
    // Neither a day ahead nor back again means anything to it, and no session minds.
    for days in ["+1 day", "-1 day"] {
        a.sh(&format!("date -s \"$(date -d '{days}')\""));
        assert!(a.pings("10.77.0.2") && b.pings("10.77.0.1"), "{days}");
    }
    let counts = flow.end();
    assert_eq!(counts.sent, counts.received, "{counts:?}");
    a.sh("date -s \"$(date -d '+11 days')\"");
    a.until("the peer is gone", |host| peer(host, "h2").is_null());
    assert!(!a.pings("10.77.0.2"));
}
