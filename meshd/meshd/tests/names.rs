//! Endpoint names and a name server: an address that changes while its peer can't be reached is found by need, the question carries
//! the mark, and no packet of anybody else waits for the answer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::flow::Flow;
use common::{hosts, installed, Mesh};
use std::time::{Duration, Instant};

const NAME: &str = "prod";

/// Answers every question for an IPv4 address with what stands in /run/address, after as many seconds as stand in /run/delay.
const SERVER: &str = "import socket,time
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('192.0.2.3',53));open('/run/serves','w').close()
while True:
    q,who=s.recvfrom(512);end=q.index(b'\\0',12)+5;ipv4=q[end-4:end-2]==b'\\0\\1'
    time.sleep(float(open('/run/delay').read()))
    address=socket.inet_aton(open('/run/address').read().strip())
    head=q[:2]+b'\\x81\\x80\\0\\1'+(b'\\0\\1' if ipv4 else b'\\0\\0')+b'\\0\\0\\0\\0'
    record=b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4'+address if ipv4 else b''
    s.sendto(head+q[12:end]+record,who);open('/run/asked','a').write('.')";

#[test]
fn an_address_that_changed_is_found_and_nobody_waits_for_the_answer() {
    if !installed("nft") {
        return eprintln!("skipped: `nft` is not installed");
    }
    let Some([mut a, mut b, mut c]) = hosts::<3>() else {
        return;
    };
    c.sh("echo 192.0.2.2 > /run/address; echo 0 > /run/delay; touch /run/asked");
    c.spawn("python3", &["-c", SERVER]);
    c.until("the name server serves", |host| {
        host.sh("ls /run").contains("serves")
    });
    a.sh("echo nameserver 192.0.2.3 > /etc/resolv.conf");
    // Only marked questions leave: an unmarked one would be stopped by a host that is closed.
    a.sh(
        "nft 'add table inet q; add chain inet q out { type filter hook output priority 0; }
         add rule inet q out meta mark != 0x77 udp dport 53 drop'",
    );
    let mesh = Mesh::new(3);
    for host in [&mut a, &mut b, &mut c] {
        host.run(NAME);
    }
    let named = mesh.peer(2, "").replace("192.0.2.2:", "two.example:");
    a.apply(
        NAME,
        &(mesh.interface(1, "FwMark = 0x77\n") + &named + &mesh.peer(3, "")),
    );
    // The one that moves has no endpoint for the other.
    let silent = mesh.peer(1, "").replace("Endpoint = 192.0.2.1:51820\n", "");
    b.apply(NAME, &(mesh.interface(2, "") + &silent));
    c.apply(NAME, &(mesh.interface(3, "") + &mesh.peer(1, "")));
    a.until("answered at the first address", |host| {
        host.pings("10.77.0.2")
    });
    assert!(a.pings("10.77.0.3"));
    let asked = |host: &common::Host| host.sh("cat /run/asked").len();
    let before = asked(&c);

    let flow = Flow::begin(&a, &c, "10.77.0.3", 200, 200);
    c.sh("echo 192.0.2.22 > /run/address; echo 0.5 > /run/delay");
    // It loses what it has learned: else it would call by itself, and roaming would do.
    b.kill(0);
    b.sh("ip addr del 192.0.2.2/24 dev eth0; ip addr add 192.0.2.22/24 dev eth0");
    b.run(NAME);
    let start = Instant::now();
    while !a.pings("10.77.0.2") {
        let now = a.status(NAME);
        assert!(start.elapsed() < Duration::from_secs(60), "{now}");
    }
    eprintln!("found at its new address after {:?}", start.elapsed());
    let counts = flow.end();
    let peers = a.status(NAME)["peers"].clone();
    let two = peers
        .as_array()
        .unwrap()
        .iter()
        .find(|peer| peer["name"] == "h2");
    assert_eq!(two.unwrap()["endpoint"], "192.0.2.22:51820");
    assert!(asked(&c) > before);
    assert_eq!(counts.sent, counts.received, "{counts:?}");
    assert!(
        counts.longest_silence_ms < 400,
        "a packet waited for the name server: {counts:?}"
    );
    let report = a.report(NAME);
    assert_eq!(report["running"], report["conf"], "a name is no drift");

    // All is well: nobody is asked anything.
    let quiet = asked(&c);
    for _ in 0..20 {
        assert!(a.pings("10.77.0.2"));
    }
    assert_eq!(asked(&c), quiet);
}
