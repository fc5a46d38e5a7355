//! Where there is no exit to be had it is said, before anything leaks.
use crate::common::{self, hosts, sha256, Mesh};
use crate::world::NAME;

#[test]
fn what_cannot_be_an_exit_is_refused() {
    let Some([mut host]) = hosts::<1>() else {
        return;
    };
    host.run(NAME);
    let mesh = Mesh::new(2);
    for (lines, allowed, why) in [
        (
            "KillSwitch = on\n",
            "fd77::2/128",
            "KillSwitch keeps everything",
        ),
        ("RouteUsers = 7\n", "0.0.0.0/0", "RouteUsers needs a peer"),
        ("Namespace = x\n", "fd77::2/128", "in a namespace"),
        ("Table = 9\n", "fd77::2/128", "its answers find the peers"),
        ("", "0.0.0.0/0", "a peer is the default way"),
        ("", "8000::/1", "a peer is the default way"),
    ] {
        let peer = mesh.peer(2, "").replace("fd77::2/128", allowed);
        let conf = mesh.interface(1, &format!("Exit = on\n{lines}")) + &peer;
        let (code, _, err) = host.try_meshd(&["stage", NAME, "--id", &sha256(&conf)], &conf);
        assert_eq!(code, 3, "{lines}{err}");
        assert!(err.contains(&format!("Exit: {why}")), "{err}");
        assert!(err.trim_end().ends_with(')'), "a hint: {err}");
    }
}

#[test]
fn switches_that_cannot_be_turned_and_ways_that_are_missing_are_told() {
    let Some([mut host]) = hosts::<1>() else {
        return;
    };
    // A container's /proc/sys.
    host.sh("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys");
    host.run(NAME);
    let mesh = Mesh::new(2);
    let conf = mesh.interface(1, "Exit = on\n") + &mesh.peer(2, "");
    // Without a default route there is nothing to turn.
    host.apply(NAME, &conf);
    let notes = host.status(NAME)["notes"].to_string();
    for word in ["no IPv4 default route", "no IPv6 default route"] {
        assert!(notes.contains(word), "{notes}");
    }
    // It comes later than the configuration.
    host.sh("ip route add default via 192.0.2.9 && ip -6 route add default via 2001:db8::9");
    host.until("IPv4 works, and IPv6 is told", |host| {
        let notes = host.status(NAME)["notes"].to_string();
        notes.contains("IPv6 forwarding can't be turned on") && !notes.contains("default route")
    });
    assert_eq!(
        host.sh("cat /proc/sys/net/ipv4/conf/eth0/forwarding"),
        "1\n"
    );
    let report = host.report(NAME);
    assert_ne!(report["running"], report["conf"], "it isn't what it says");
    // Another configuration is refused for it.
    let more = conf.clone() + "PersistentKeepalive = 9\n";
    let (code, _, err) = host.try_meshd(&["stage", NAME, "--id", &sha256(&more)], &more);
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("Read-only file system")
            && err.contains("sysctl net.ipv6.conf.all.forwarding=1"),
        "{err}"
    );
    // Somebody turns it on from outside.
    host.sh("mount -o remount,bind,rw /proc/sys && sysctl -qw net.ipv6.conf.all.forwarding=1 && mount -o remount,bind,ro /proc/sys");
    host.apply(NAME, &more);
    let report = host.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    assert_eq!(host.status(NAME)["notes"].to_string(), "[]");
    if common::installed("nft") {
        host.sh("nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'");
        let notes = host.status(NAME)["notes"].to_string();
        assert!(
            notes.contains("(table ip filter, chain FORWARD)"),
            "{notes}"
        );
    }
    host.meshd(&["remove", NAME]);
    assert_eq!(
        host.sh("cat /proc/sys/net/ipv4/conf/eth0/forwarding"),
        "0\n"
    );
    assert_eq!(
        host.sh("cat /proc/sys/net/ipv6/conf/all/forwarding"),
        "1\n",
        "it was not ours"
    );
}
