//! What is read, and every way to be refused.

use super::*;

const KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PEER: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

fn problems(text: &str) -> Vec<String> {
    parse(text.as_bytes())
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn conf(text: &str) -> Conf {
    parse(text.as_bytes()).unwrap().conf.unwrap()
}

#[test]
fn nothing_means_absent() {
    for text in ["", "\n\n", "# a comment\n  # another"] {
        assert_eq!(
            parse(text.as_bytes()),
            Ok(Parsed {
                conf: None,
                warnings: vec![]
            }),
            "{text}"
        );
    }
}

#[test]
fn plain_wg_quick_file() {
    let text = format!(
        "[interface]\r\nprivatekey={KEY}\r\nADDRESS = 10.0.0.1/24, fd00::1/64\r\nDNS = 1.1.1.1 # here\r\n\
         [PEER]\r\nPublicKey = {PEER}\r\nAllowedIPs = 10.0.0.2, 10.0.0.2/32\r\nAllowedIPs=10.9.8.7/8\r\n"
    );
    let parsed = parse(text.as_bytes()).unwrap();
    assert_eq!(parsed.warnings.len(), 1);
    let conf = parsed.conf.unwrap();
    assert_eq!(conf.interface.addresses.len(), 2);
    let allowed: Vec<String> = conf.peers[0]
        .allowed_ips
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(allowed, ["10.0.0.0/8", "10.0.0.2/32"]);
}

#[test]
fn every_problem_is_reported_with_line_and_hint() {
    let text = format!(
        "MTU = 1420\n[Interface]\nPrivateKey = nonsense\nAdress = 10.0.0.1\nMTU = 100\nPostUp = reboot\n\
         [Peer]\nAllowedIPs = 10.0.0.0/40, x\n[Peer]\nPublicKey = {PEER}\nPublicKey = {PEER}\n[Bear]\nwords\n[open\n"
    );
    assert_eq!(
        problems(&text),
        [
            "line 1, MTU: it stands before the first section (put [Interface] above it)",
            "line 3, PrivateKey: the text is not a key (a key is 32 bytes in base64: 43 characters and `=`)",
            "line 4, Adress: `Adress` is no known key here (did you mean Address?)",
            "line 5, MTU: `100` is out of range (use a number from 1280 to 65455)",
            "line 6, PostUp: meshd runs no hooks (remove the line)",
            "line 7, PublicKey: there is none (every [Peer] needs its public key)",
            "line 8, AllowedIPs: `10.0.0.0/40` has no valid prefix length (use a length from 0 to 32)",
            "line 8, AllowedIPs: `x` is not an address (write it as 10.0.0.1/24 or fd00::1/64)",
            "line 11, PublicKey: it stands in line 10 already (keep one of them)",
            "line 12, section: `[Bear]` is no known section (use [Interface] or [Peer])",
            "line 13, text: this is no `Key = value` (remove the line or put # before it)",
            "line 14, section: the heading is not closed (write [Interface] or [Peer])",
        ]
    );
}

#[test]
fn peers_are_apart() {
    let own = Secret::parse(KEY).unwrap().public().to_base64();
    let text = format!(
        "[Interface]\nPrivateKey = {KEY}\n[Peer]\nPublicKey = {PEER}\nAllowedIPs = 10.0.0.2\n\
         [Peer]\nPublicKey = {PEER}\nAllowedIPs = 10.0.0.2\n[Peer]\nPublicKey = {own}\n[Interface]\n"
    );
    assert_eq!(problems(&text).len(), 4, "{:?}", problems(&text));
}

#[test]
fn next_keys_are_other_keys() {
    let next = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";
    let own = Secret::parse(next).unwrap().public().to_base64();
    let text = format!(
        "[Interface]\nPrivateKey = {KEY}\nNextPrivateKey = {KEY}\n\
         [Peer]\nPublicKey = {PEER}\nNextPublicKey = {PEER}\nPresharedKey = {KEY}\nNextPresharedKey = {KEY}\n"
    );
    assert_eq!(
        problems(&text),
        [
            "line 3, NextPrivateKey: it is the PrivateKey itself (remove the line)",
            &format!("line 4, NextPublicKey: {PEER} belongs to the peer in line 4 too (give each key one [Peer])"),
            "line 8, NextPresharedKey: it is the PresharedKey itself (remove the line)",
        ]
    );
    let text = format!(
        "[Interface]\nPrivateKey = {KEY}\nNextPrivateKey = {next}\n\
         [Peer]\nPublicKey = {PEER}\n[Peer]\nPublicKey = {own}\nNextPublicKey = {PEER}\n"
    );
    assert_eq!(
        problems(&text),
        [
            "line 6, PublicKey: it is this interface's own key (remove the peer)",
            &format!("line 6, NextPublicKey: {PEER} belongs to the peer in line 4 too (give each key one [Peer])"),
        ]
    );
}

#[test]
fn interface_is_needed_and_holds_one_key() {
    assert!(problems(&format!("[Peer]\nPublicKey = {PEER}\n"))[0]
        .contains("[Interface]: there is none"));
    assert!(problems("[Interface]\n")[0].contains("PrivateKey: there is none"));
    assert_eq!(
        problems(&format!(
            "[Interface]\nPrivateKey = {KEY}\nPrivateKeyFile = /k\n"
        ))
        .len(),
        1
    );
    assert_eq!(problems("[Interface]\nPrivateKeyFile = k\n").len(), 1);
}

#[test]
fn bytes_that_are_no_text_name_their_line() {
    let found = parse(b"[Interface]\n\xff\n").unwrap_err();
    assert_eq!(found[0].line, 2);
}

#[test]
fn routes_leave_to_the_kernel_what_it_routes() {
    let conf = conf(&format!(
        "[Interface]\nPrivateKey = {KEY}\nAddress = 10.0.0.1/24, 10.5.0.1/32, fd00::1/64\n[Peer]\nPublicKey = {PEER}\n\
         AllowedIPs = 10.0.0.2/32, 10.5.0.1/32, 10.0.0.0/16, fd00::2/128, fd01::/64\n"
    ));
    let routes: Vec<String> = conf.routes().iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["10.0.0.0/16", "10.5.0.1/32", "fd01::/64"]);
}

#[test]
fn edits_count() {
    assert_eq!(edits("adress", "address"), 1);
    assert_eq!(edits("", "abc"), 3);
    assert_eq!(edits("kitten", "sitting"), 3);
}
