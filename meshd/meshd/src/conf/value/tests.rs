//! Values as people write them, right and wrong.

use super::*;

#[test]
fn networks_are_masked_and_ordered() {
    let net = |t| Cidr::parse_network(t).unwrap();
    assert_eq!(net("10.1.2.3/8").to_string(), "10.0.0.0/8");
    assert_eq!(net("1.2.3.4/0").to_string(), "0.0.0.0/0");
    assert_eq!(net("2001:DB8::FFFF/32").to_string(), "2001:db8::/32");
    assert_eq!(net("::1/0").to_string(), "::/0");
    assert_eq!(Cidr::parse("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
    let mut all = [
        net("::/0"),
        net("10.0.0.0/16"),
        net("10.0.0.0/8"),
        net("9.0.0.0/8"),
    ];
    all.sort();
    assert_eq!(
        all.map(|n| n.to_string()),
        ["9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/16", "::/0"]
    );
    assert!(net("10.0.0.0/8").contains(net("10.9.0.0/16")));
    assert!(!net("10.0.0.0/16").contains(net("10.0.0.0/8")));
    assert!(net("0.0.0.0/0").contains(net("10.0.0.0/8")));
    assert!(!net("0.0.0.0/0").contains(net("::/0")));
}

#[test]
fn addresses_that_are_none_are_refused() {
    for text in [
        "",
        "10.0.0",
        "10.0.0.1/33",
        "10.0.0.1/+8",
        "10.0.0.1/",
        "::/129",
        "010.0.0.1",
        "fe80::1%eth0",
    ] {
        assert!(Cidr::parse(text).is_err(), "{text}");
    }
}

#[test]
fn endpoints_round_trip() {
    for text in ["192.0.2.1:51820", "[2001:db8::1]:1", "b.example.com:65535"] {
        assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(
        Endpoint::parse("B.Example.COM.:7").unwrap().to_string(),
        "b.example.com:7"
    );
    for text in [
        "",
        "b",
        "b:",
        "b:0",
        "b:65536",
        "2001:db8::1:5",
        "[::1]",
        "[1.2.3.4]:5",
        "1.2.3:5",
        "a b:5",
        "-a:5",
    ] {
        assert!(Endpoint::parse(text).is_err(), "{text}");
    }
}

#[test]
fn marks_and_numbers() {
    assert_eq!(fwmark("0xCAFE"), Ok(0xcafe));
    assert_eq!(fwmark("51820"), Ok(51820));
    assert_eq!(fwmark("OFF"), Ok(0));
    for text in ["", "0x", "0x+1", "-1", "0x100000000", "on"] {
        assert!(fwmark(text).is_err(), "{text}");
    }
    assert!(mtu("1279").is_err() && mtu("65456").is_err() && mtu("+1420").is_err());
    assert_eq!(mtu("1280"), Ok(1280));
}

#[test]
fn services() {
    for text in ["tcp/22", "tcp/65535"] {
        assert_eq!(TcpPort::parse(text).unwrap().to_string(), text);
    }
    for text in ["", "22", "tcp", "tcp/", "tcp/0", "tcp/65536", "udp/53"] {
        assert!(TcpPort::parse(text).is_err(), "{text}");
    }
}

#[test]
fn host_lines() {
    assert_eq!(
        HostLine::parse("10.0.0.2   b\tb.prod").unwrap().to_string(),
        "10.0.0.2 b b.prod"
    );
    for text in ["", "10.0.0.2", "b 10.0.0.2", "10.0.0.2 b#c", "10.0.0.2 b/c"] {
        assert!(HostLine::parse(text).is_err(), "{text}");
    }
}

#[test]
fn users_are_names_ids_and_ranges() {
    for (text, is) in [
        ("alice", "alice"),
        ("007", "7"),
        ("30-30", "30"),
        ("2000-2999", "2000-2999"),
        ("_a.B-9", "_a.B-9"),
    ] {
        assert_eq!(User::parse(text).unwrap().to_string(), is, "{text}");
    }
    for text in [
        "",
        "root",
        "0",
        "0-7",
        "-a",
        "a b",
        "7-",
        "9-7",
        "4294967295",
        "7x",
        "é",
        &"a".repeat(33),
    ] {
        assert!(User::parse(text).is_err(), "{text}");
    }
}
