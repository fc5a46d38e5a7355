//! The daemon around its mesh: bare devices, endpoint names, background operation, what idles.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{hosts, installed, keys, sha256, Mesh, MESHD};
use std::thread::sleep;
use std::time::Duration;

#[test]
fn a_bare_device_is_what_wg_expects() {
    let Some([mut a]) = hosts::<1>() else { return };
    if !installed("wg") {
        eprintln!("skipped: `wg` is not installed");
        return;
    }
    let bare = a.spawn(MESHD, &["bare", "wg7"]);
    a.until("serves wg", |host| {
        host.sh("ls /run/wireguard 2>/dev/null || true")
            .contains("wg7.sock")
    });
    let ((own, own_public), (_, peer)) = (keys(), keys());
    a.sh(&format!(
        "echo {own} > /run/key; echo AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA= > /run/psk
         wg set wg7 private-key /run/key listen-port 5000 fwmark 0x1234 peer {peer} preshared-key /run/psk \
         allowed-ips 10.0.0.0/8,fd00::/8 endpoint 192.0.2.9:7 persistent-keepalive 25"
    ));
    let dump = a.sh("wg show wg7 dump");
    let lines: Vec<Vec<&str>> = dump
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(lines[0], [own.as_str(), &own_public, "5000", "0x1234"]);
    assert_eq!(
        lines[1],
        [
            peer.as_str(),
            "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
            "192.0.2.9:7",
            "10.0.0.0/8,fd00::/8",
            "0",
            "0",
            "0",
            "25"
        ]
    );
    a.sh("wg showconf wg7 > /run/conf && wg syncconf wg7 /run/conf");
    assert_eq!(
        a.sh("wg show wg7 dump"),
        dump,
        "syncconf with what is so changes nothing"
    );
    a.sh("wg setconf wg7 /run/conf");
    assert_eq!(a.sh("wg show wg7 dump"), dump);
    // The zone of an address is told by name, and told back so that `wg` knows it again.
    a.sh("ip link add br7 type bridge");
    for zone in ["br7", "$(ip -o link show br7 | cut -d: -f1)"] {
        a.sh(&format!(
            "wg set wg7 peer {peer} endpoint [fe80::9%{zone}]:7"
        ));
        let told = a.sh(
            "wg showconf wg7 > /run/conf && wg syncconf wg7 /run/conf && wg show wg7 endpoints",
        );
        assert!(told.trim_end().ends_with("\t[fe80::9%br7]:7"), "{told}");
    }
    a.sh(&format!("wg set wg7 peer {peer} remove"));
    assert_eq!(a.sh("wg show wg7 dump").lines().count(), 1);
    assert_eq!(
        a.sh(&format!("wg set wg7 peer {own_public} && wg show wg7 dump"))
            .lines()
            .count(),
        1,
        "our own key is no peer"
    );

    // It survives its link's move and its rename, and ends with the link.
    a.sh("ip link set wg7 name wg8 && ip link set wg8 up");
    assert!(!a.has_ended(bare));
    a.sh("ip link del wg8");
    a.until("ended", |host| host.sh("ls /run/wireguard").is_empty());
    sleep(Duration::from_millis(200));
    assert!(a.has_ended(bare));
}

#[test]
fn a_bare_device_whose_name_is_taken_says_so() {
    let Some([a]) = hosts::<1>() else { return };
    a.sh("ip link add wg7 type bridge");
    let (code, _, err) = a.try_meshd(&["bare", "wg7"], "");
    assert_eq!(code, 1);
    assert!(
        err.starts_with("meshd: interface wg7: another interface has that name ("),
        "{err}"
    );
}

#[test]
fn endpoint_names_are_looked_up_and_looked_up_again() {
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    let mesh = Mesh::new(2);
    let named = mesh.interface(1, "") + &mesh.peer(2, "").replace("192.0.2.2:", "Two.example:");
    a.sh("printf '\\n192.0.2.99 two.example\\n' >> /etc/hosts");
    a.run("prod");
    a.apply("prod", &named);
    b.run("prod");
    // Our side alone knows where the other one is.
    b.apply(
        "prod",
        &(mesh.interface(2, "") + &mesh.peer(1, "").replace("Endpoint = 192.0.2.1:51820\n", "")),
    );
    a.until("resolved", |host| {
        host.status("prod")["peers"][0]["endpoint"] == "192.0.2.99:51820"
    });
    assert_eq!(
        a.status("prod")["peers"][0]["configured_endpoint"],
        "two.example:51820"
    );
    a.sh("sed -i s/192.0.2.99/192.0.2.2/ /etc/hosts");
    a.meshd(&["ping", "prod", "--wait", "16"]);
    assert_eq!(
        a.status("prod")["peers"][0]["alive"],
        true,
        "{}",
        a.status("prod")
    );
    let report = a.report("prod");
    assert_eq!(report["running"], report["conf"]);
}

#[test]
fn a_dead_link_says_why() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(4);
    a.run("prod");
    let conf = mesh.interface(1, "")
        + &mesh.peer(2, "")
        + &mesh.peer(3, "").replace("Endpoint = 192.0.2.3:51820\n", "")
        + &mesh.peer(4, "").replace("192.0.2.4:", "nowhere.invalid:");
    a.sh("echo > /etc/resolv.conf");
    a.apply("prod", &conf);
    let status: serde_json::Value =
        serde_json::from_str(&a.meshd(&["ping", "prod", "--wait", "3", "--json"])).unwrap();
    let reason = |name: &str| {
        let peers = status["peers"].as_array().unwrap();
        let peer = peers.iter().find(|peer| peer["name"] == name).unwrap();
        assert_eq!(peer["alive"], false, "{peer}");
        peer["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason("h2"), "no answer from 192.0.2.2:51820");
    assert_eq!(reason("h3"), "no endpoint known");
    assert_eq!(
        reason("h4"),
        "endpoint name does not resolve: nowhere.invalid"
    );
}

#[test]
fn in_the_background_without_an_init() {
    let Some([a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(1);
    a.meshd(&["start", "prod"]);
    a.apply("prod", &mesh.conf(1));
    let supervisor = a.sh("cat /run/meshd/prod.pid");
    a.meshd(&["start", "prod"]);
    assert_eq!(
        a.sh("cat /run/meshd/prod.pid"),
        supervisor,
        "start is a no-op while it runs"
    );
    let daemon = |host: &common::Host| {
        host.sh(&format!(
            "cat /proc/{0}/task/{0}/children",
            supervisor.trim()
        ))
        .trim()
        .to_owned()
    };
    let first = daemon(&a);
    a.sh(&format!("kill -9 {first}"));
    a.until("started again", |host| {
        let again = daemon(host);
        !again.is_empty() && again != first && host.try_meshd(&["status", "prod"], "").0 == 0
    });
    assert_eq!(a.report("prod")["state"], "running");
    assert!(a
        .sh("cat /var/log/meshd-prod.log")
        .contains("the daemon died"));
    a.meshd(&["stop", "prod"]);
    a.meshd(&["stop", "prod"]);
    assert!(a
        .sh("ls /run/meshd; ip link show prod 2>&1 || true")
        .contains("does not exist"));
    assert_eq!(a.try_meshd(&["status", "prod"], "").0, 4);
    assert_eq!(a.report("prod")["state"], "down");
    assert_eq!(a.report("prod")["running"], "");
    a.meshd(&["remove", "prod"]);
    assert_eq!(
        a.sh("ls -A /etc/meshd; ls -A /var/lib/meshd 2>/dev/null || true"),
        ""
    );
}

#[test]
fn the_private_key_can_live_in_a_file() {
    let Some([mut a]) = hosts::<1>() else { return };
    let (private, public) = keys();
    a.run("prod");
    a.sh(&format!(
        "mkdir -p /etc/meshd; echo {private} > /etc/meshd/prod.key; chmod 600 /etc/meshd/prod.key"
    ));
    a.apply(
        "prod",
        "[Interface]\nPrivateKeyFile = /etc/meshd/prod.key\nAddress = 10.77.0.1/32\n",
    );
    let report = a.report("prod");
    assert_eq!(report["public_key"], public);
    assert_eq!(report["running"], report["conf"]);
    assert!(report["conf"].as_str().unwrap().contains(&public));
    let missing = "[Interface]\nPrivateKeyFile = /etc/meshd/none\n";
    let (code, _, err) = a.try_meshd(&["stage", "prod", "--id", &sha256(missing)], missing);
    assert_eq!(code, 3, "{err}");
}

#[test]
fn what_cannot_be_done_is_refused() {
    let Some([mut a]) = hosts::<1>() else { return };
    a.run("prod");
    let (private, _) = keys();
    // Failing closed takes routing tables of its own.
    for table in ["off", "7"] {
        let conf =
            format!("[Interface]\nPrivateKey = {private}\nKillSwitch = on\nTable = {table}\n");
        let (code, _, err) = a.try_meshd(&["stage", "prod", "--id", &sha256(&conf)], &conf);
        assert_eq!(code, 3, "{err}");
        assert!(err.contains("remove the Table line"), "{err}");
    }
}

#[test]
fn an_idle_daemon_sleeps() {
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    let mesh = Mesh::new(2);
    for host in [&a, &b] {
        // What the kernel itself sends into a new link is not our doing.
        host.sh("sysctl -qw net.ipv6.conf.default.router_solicitations=0");
    }
    let daemon = a.run("prod");
    b.run("prod");
    a.apply("prod", &mesh.conf(1));
    b.apply("prod", &mesh.conf(2));
    a.until("answered", |host| host.pings("10.77.0.2"));
    // The timers of the last packet are over after 25 s at most (paper section 6); nothing is due after that for minutes.
    sleep(Duration::from_secs(27));
    let pid = a.pid(daemon);
    let switches = |host: &common::Host| {
        host.sh(&format!(
            "cat /proc/{pid}/task/*/status | grep ctxt_switches"
        ))
    };
    let before = switches(&a);
    sleep(Duration::from_secs(10));
    assert_eq!(switches(&a), before, "somebody woke up");
}

#[test]
fn a_hub_passes_packets_on_without_the_kernel() {
    let Some([mut hub, mut left, mut right]) = hosts::<3>() else {
        return;
    };
    let mesh = Mesh::new(3);
    let through = |n: usize| {
        mesh.interface(n, "")
            + &mesh
                .peer(1, "")
                .replace("10.77.0.1/32, fd77::1/128", "10.77.0.0/24, fd77::/64")
    };
    let middle = mesh.interface(1, "Relay = on\n") + &mesh.peer(2, "") + &mesh.peer(3, "");
    for (host, conf) in [
        (&mut hub, middle),
        (&mut left, through(2)),
        (&mut right, through(3)),
    ] {
        host.run("prod");
        host.apply("prod", &conf);
    }
    assert_eq!(
        hub.sh(
            "cat /proc/sys/net/ipv4/conf/prod/forwarding /proc/sys/net/ipv6/conf/prod/forwarding"
        ),
        "0\n0\n"
    );
    for to in ["10.77.0.3", "fd77::3"] {
        left.until(&format!("{to} answers"), |host| host.pings(to));
    }
    let hops = left.sh("ping -c 1 -W 5 10.77.0.3 | grep -o ttl=[0-9]*");
    assert_eq!(hops, "ttl=63\n", "one hop each way");
}

#[test]
fn a_site_behind_a_host_is_reached_and_forwarding_put_back() {
    let Some([mut gate, mut far]) = hosts::<2>() else {
        return;
    };
    let mesh = Mesh::new(2);
    gate.sh(
        "ip netns add shed && ip link add name site type veth peer name eth0 netns shed
         ip addr add 192.168.20.1/24 dev site && ip link set site up
         ip -n shed addr add 192.168.20.7/24 dev eth0 && ip -n shed link set eth0 up
         ip -n shed route add default via 192.168.20.1",
    );
    let forwarding = |host: &common::Host| host.sh("cat /proc/sys/net/ipv4/conf/site/forwarding");
    assert_eq!(forwarding(&gate), "0\n");
    gate.run("prod");
    gate.apply(
        "prod",
        &(mesh.interface(1, "Forward = 192.168.20.0/24\n") + &mesh.peer(2, "")),
    );
    far.run("prod");
    far.apply(
        "prod",
        &(mesh.interface(2, "")
            + &mesh
                .peer(1, "")
                .replace("10.77.0.1/32", "10.77.0.1/32, 192.168.20.0/24")),
    );
    assert_eq!(forwarding(&gate), "1\n");
    assert_eq!(
        gate.sh("cat /proc/sys/net/ipv4/conf/prod/forwarding"),
        "1\n"
    );
    far.until("the site answers", |host| host.pings("192.168.20.7"));
    let report = gate.report("prod");
    assert_eq!(report["running"], report["conf"]);
    // What somebody turns off is put back: nothing else would say that the site is cut off.
    gate.sh("sysctl -qw net.ipv4.conf.site.forwarding=0");
    gate.until("it forwards again", |host| forwarding(host) == "1\n");
    let other = mesh.interface(1, "Forward = 192.168.20.0/25\n") + &mesh.peer(2, "");
    gate.apply("prod", &other);
    assert_eq!(
        forwarding(&gate),
        "1\n",
        "the new network needs the link of the old"
    );
    far.until("the site answers still", |host| host.pings("192.168.20.7"));
    gate.terminate(0);
    assert_eq!(forwarding(&gate), "0\n");
    // After a crash what was turned on is still known: to the next daemon, and to `remove` without one.
    let daemon = gate.run("prod");
    assert_eq!(forwarding(&gate), "1\n");
    gate.kill(daemon);
    assert_eq!(forwarding(&gate), "1\n");
    let daemon = gate.run("prod");
    gate.apply("prod", &(mesh.interface(1, "") + &mesh.peer(2, "")));
    assert_eq!(forwarding(&gate), "0\n", "no network needs it");
    gate.apply("prod", &other);
    assert_eq!(forwarding(&gate), "1\n");
    gate.kill(daemon);
    gate.meshd(&["remove", "prod"]);
    assert_eq!(forwarding(&gate), "0\n");
    assert_eq!(gate.sh("ls /var/lib/meshd"), "");
    gate.sh("ip netns del shed");
}

#[test]
fn the_service_manager_hears_ready_and_then_the_watchdog() {
    let Some([mut a]) = hosts::<1>() else { return };
    if !installed("socat") {
        eprintln!("skipped: socat is not installed");
        return;
    }
    a.spawn(
        "socat",
        &[
            "-u",
            "UNIX-RECV:/run/notify",
            "OPEN:/run/heard,creat,append",
        ],
    );
    a.until("somebody listens", |host| {
        host.sh("ls /run").contains("notify")
    });
    let daemon = a.spawn(
        "env",
        &[
            "NOTIFY_SOCKET=/run/notify",
            "WATCHDOG_USEC=400000",
            MESHD,
            "run",
            "prod",
        ],
    );
    a.until("ready", |host| {
        host.sh("cat /run/heard 2>/dev/null || true")
            .contains("READY=1")
    });
    assert_eq!(
        a.try_meshd(&["status", "prod"], "").0,
        0,
        "ready means that it serves"
    );
    a.until("watchdog", |host| {
        host.sh("cat /run/heard").matches("WATCHDOG=1").count() >= 3
    });
    assert_eq!(a.terminate(daemon), 0);
    a.until("stopping", |host| {
        host.sh("cat /run/heard").contains("STOPPING=1")
    });
}

#[test]
fn a_bare_device_works_on_in_another_namespace() {
    let Some([mut a, b]) = hosts::<2>() else {
        return;
    };
    let bare = a.spawn(MESHD, &["bare", "wg7"]);
    a.until("serves wg", |host| {
        host.sh("ls /run/wireguard 2>/dev/null || true")
            .contains("wg7.sock")
    });
    let ((own, own_public), (other, other_public)) = (keys(), keys());
    a.sh(&format!("echo {own} > /run/key; wg set wg7 private-key /run/key listen-port 5000 peer {other_public} allowed-ips 10.0.0.2/32 endpoint 192.0.2.2:5000"));
    // The inner side is seen from a namespace of its own only; the sockets stay.
    a.sh("ip netns add inner && ip link set wg7 netns inner && ip -n inner addr add 10.0.0.1/24 dev wg7 && ip -n inner link set wg7 up");
    let mut b = b;
    b.spawn(MESHD, &["bare", "wg7"]);
    b.until("serves wg", |host| {
        host.sh("ls /run/wireguard 2>/dev/null || true")
            .contains("wg7.sock")
    });
    b.sh(&format!("echo {other} > /run/key; wg set wg7 private-key /run/key listen-port 5000 peer {own_public} allowed-ips 10.0.0.1/32
        ip addr add 10.0.0.2/24 dev wg7; ip link set wg7 up"));
    a.until("answered", |host| {
        host.sh("ip netns exec inner ping -c 1 -W 1 10.0.0.2 >/dev/null && echo yes || true")
            == "yes\n"
    });
    a.sh("ip -n inner link del wg7; ip netns del inner");
    a.until("ended", |host| host.sh("ls /run/wireguard").is_empty());
    sleep(Duration::from_millis(200));
    assert!(a.has_ended(bare));
}

/// Turned off by sysctl, as many images have it: the mesh's IPv4 half works, and nothing is tried again and again.
#[test]
fn a_host_without_ipv6_has_the_rest() {
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    a.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let mesh = Mesh::new(2);
    for (n, host) in (1..).zip([&mut a, &mut b]) {
        host.run("prod");
        host.apply("prod", &mesh.conf(n));
    }
    a.until("answered", |host| host.pings("10.77.0.2"));
    assert_eq!(a.sh("ip -6 addr show dev prod"), "");
    let report = a.report("prod");
    assert_eq!(report["running"], report["conf"], "no drift");
}
