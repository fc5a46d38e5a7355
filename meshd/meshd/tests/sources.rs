//! From which address a host's outer packets go while its uplinks change.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{hosts, Mesh};
use std::time::{Duration, Instant};

const NAME: &str = "prod";

#[test]
fn another_uplink_is_used_with_an_address_of_its_own() {
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    // Both uplinks of the first host lead to an address that is of neither; each drops what has an address of the other.
    a.sh(&format!(
        "ip link add eth1 type veth peer name eth1 netns {}
         ip addr add 198.51.100.1/24 dev eth1 && ip link set eth1 up && ip route add 203.0.113.9 via 192.0.2.2",
        b.holder()
    ));
    b.sh(
        "ip addr add 198.51.100.2/24 dev eth1 && ip link set eth1 up && ip addr add 203.0.113.9/32 dev lo
         for link in eth0 eth1; do echo 1 > /proc/sys/net/ipv4/conf/$link/rp_filter; done",
    );
    let mesh = Mesh::new(2);
    for (n, host) in (1..).zip([&mut a, &mut b]) {
        host.run(NAME);
        // The second doesn't know where the first is until that tells it.
        let other = mesh.peer(3 - n, "").replace("192.0.2.2:", "203.0.113.9:");
        let other = other.replace("Endpoint = 192.0.2.1:51820\n", "");
        host.apply(NAME, &(mesh.interface(n, "") + &other));
    }
    a.until("answered", |host| host.pings("10.77.0.2"));
    for way in ["198.51.100.2", "192.0.2.2"] {
        a.sh(&format!("ip route replace 203.0.113.9 via {way}"));
        let start = Instant::now();
        a.until("answered", |host| host.pings("10.77.0.2"));
        // And not when fifteen seconds of silence make it doubt the address.
        assert!(start.elapsed() < Duration::from_secs(10), "by {way}");
    }
}
