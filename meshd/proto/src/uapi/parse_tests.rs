//! What the parser takes and what it refuses.

use super::*;

fn set(lines: &str) -> Result<Vec<Operation>, Errno> {
    match parse(format!("set=1\n{lines}\n\n").as_bytes(), &links)? {
        Request::Set(operations) => Ok(operations),
        Request::Get => panic!("a get"),
    }
}

fn links(name: &str) -> Option<u32> {
    match name {
        "eth0" => Some(7),
        "3" => Some(8),
        name => {
            assert!(name.len() < 16, "no link can have that name: {name}");
            None
        }
    }
}

const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";

#[test]
fn all_keys_of_the_protocol_are_understood() {
    let operations = set(&format!(
        "private_key={KEY}\nlisten_port=12912\nfwmark=0x1f\nreplace_peers=true\npublic_key={KEY}\nupdate_only=true\n\
         preshared_key={KEY}\nendpoint=[abcd:23::33%2]:51820\nreplace_allowed_ips=true\nallowed_ip=192.168.4.10/32\n\
         allowed_ip=-2001:db8::/32\npersistent_keepalive_interval=111\nprotocol_version=1\npublic_key={KEY}\nremove=true"
    ))
    .unwrap();
    let key: [u8; 32] = *parse_key(KEY).unwrap();
    let networks = ["192.168.4.10/32", "2001:db8::/32"].map(|text| parse_network(text).unwrap());
    assert_eq!(
        operations,
        [
            Operation::PrivateKey(Some(PrivateKey::new(key))),
            Operation::ListenPort(12912),
            Operation::FwMark(31),
            Operation::ReplacePeers,
            Operation::Peer(
                PublicKey(key),
                vec![
                    PeerOperation::UpdateOnly,
                    PeerOperation::PresharedKey(PresharedKey::new(key)),
                    PeerOperation::Endpoint("[abcd:23::33%2]:51820".parse().unwrap()),
                    PeerOperation::ReplaceAllowedIps,
                    PeerOperation::AddAllowedIp(networks[0]),
                    PeerOperation::RemoveAllowedIp(networks[1]),
                    PeerOperation::Keepalive(111),
                ]
            ),
            Operation::Peer(PublicKey(key), vec![PeerOperation::Remove]),
        ]
    );
}

#[test]
fn zones_are_names_of_links_or_else_numbers() {
    let endpoint = |text: &str| set(&format!("public_key={KEY}\nendpoint={text}"));
    for (text, number) in [("eth0", 7), ("2", 2), ("3", 8)] {
        let at = format!("[fe80::1%{number}]:51820").parse().unwrap();
        let expected = PeerOperation::Endpoint(at);
        let got = endpoint(&format!("[fe80::1%{text}]:51820"));
        assert_eq!(
            got,
            Ok(vec![Operation::Peer(
                PublicKey(*parse_key(KEY).unwrap()),
                vec![expected]
            )])
        );
    }
    for zone in ["", "eth1", "%eth0", "eth0]", &"e".repeat(70_000)] {
        let got = endpoint(&format!("[fe80::1%{zone}]:51820"));
        assert_eq!(got, Err(Errno::EINVAL), "{zone}");
    }
    assert_eq!(endpoint("10.0.0.1%eth0:51820"), Err(Errno::EINVAL));
}

#[test]
fn zeros_clear_the_private_key() {
    assert_eq!(
        set(&format!("private_key={}", "00".repeat(32))),
        Ok(vec![Operation::PrivateKey(None)])
    );
}

#[test]
fn requests_that_are_not_of_the_protocol_are_refused() {
    assert_eq!(parse(b"get=1\n\n", &links), Ok(Request::Get));
    assert_eq!(parse(b"get=1", &links), Ok(Request::Get));
    assert_eq!(parse(b"set=1\n\n", &links), Ok(Request::Set(vec![])));
    for request in [
        &b""[..],
        b"\n\n",
        b"get=2\n\n",
        b"get=1\nx=1\n\n",
        b"set=2\n\n",
        b"get\n\n",
        b"\xff\xff\n\n",
    ] {
        assert_eq!(parse(request, &links), Err(Errno::EPROTO), "{request:?}");
    }
}

#[test]
fn unknown_keys_and_keys_in_the_wrong_place_are_protocol_errors() {
    for lines in [
        "colour=red",
        "listen_port",
        "allowed_ip=10.0.0.0/8",
        "remove=true",
        "preshared_key=00",
    ] {
        assert_eq!(set(lines), Err(Errno::EPROTO), "{lines}");
    }
    for line in [
        "listen_port=1",
        "private_key=00",
        "fwmark=1",
        "replace_peers=true",
        "colour=red",
        "",
    ] {
        assert_eq!(
            set(&format!("public_key={KEY}\n{line}\nremove=true")),
            Err(Errno::EPROTO),
            "{line}"
        );
    }
}

#[test]
fn wrong_values_are_invalid() {
    let short = &KEY[1..];
    for line in [
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=+1",
        "listen_port=",
        "listen_port=0x10",
        "listen_port=1 ",
        "fwmark=4294967296",
        "fwmark=0x",
        "fwmark=0x1_0",
        "fwmark=-0x1",
        "replace_peers=false",
        "replace_peers=1",
        "private_key=",
        "public_key=00",
    ] {
        assert_eq!(set(line), Err(Errno::EINVAL), "{line}");
    }
    assert_eq!(set(&format!("private_key={short}")), Err(Errno::EINVAL));
    assert_eq!(set(&format!("private_key={short}g")), Err(Errno::EINVAL));
    assert_eq!(
        set(&format!("private_key={}é", &KEY[2..])),
        Err(Errno::EINVAL)
    );
    for line in [
        "endpoint=example.com:1",
        "endpoint=1.2.3.4",
        "endpoint=1.2.3.4:",
        "endpoint=::1:51820",
        "endpoint=1.2.3.4:65536",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=10.0.0.0",
        "allowed_ip=::/129",
        "allowed_ip=10.0.0/8",
        "allowed_ip=/8",
        "allowed_ip=+10.0.0.0/8",
        "allowed_ip=10.0.0.0/+8",
        "allowed_ip=--10.0.0.0/8",
        "persistent_keepalive_interval=off",
        "persistent_keepalive_interval=65536",
        "protocol_version=2",
        "update_only=yes",
        "replace_allowed_ips=",
    ] {
        assert_eq!(
            set(&format!("public_key={KEY}\n{line}")),
            Err(Errno::EINVAL),
            "{line}"
        );
    }
}

#[test]
fn digits_are_read_as_the_standard_library_reads_them() {
    for digit in 0..=255u8 {
        let expected = char::from(digit).to_digit(16).map(|value| value as u8);
        assert_eq!(
            parse_digit(digit).ok(),
            expected.filter(|_| digit.is_ascii()),
            "{digit}"
        );
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = parse(&bytes, &links);
        let _ = parse(&[b"set=1\npublic_key=".as_slice(), KEY.as_bytes(), b"\n", &bytes].concat(), &links);
    }
}
