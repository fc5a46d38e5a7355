//! The canonical text: the public, comparable form of a configuration (docs/reference/contracts.md §2), the same bytes
//! from here and from the Python core (`tests/cases/canonical`).
//!
//! A [`Section`] writes one `[Name]` with its pairs; the live interface is printed with it too, so that desired and
//! observed have one shape.

use meshd_proto::PublicKey;

use super::key::ToBase64;
use super::{Conf, Endpoint, PrivateKey, Secret, Table};

/// The canonical text of `conf`; the empty text when absent. `file_key` is the public key of a private key that is kept
/// in a file; without it the line is left out.
pub fn canonical(conf: Option<&Conf>, file_key: Option<PublicKey>) -> String {
    let Some(conf) = conf else {
        return String::new();
    };
    let interface = &conf.interface;
    let public_key = match &interface.private_key {
        PrivateKey::Inline(secret) => Some(secret.public()),
        PrivateKey::File(_) => file_key,
    };
    let mut text = String::new();
    let mut section = Section::new(&mut text, "Interface");
    section.value("Name", interface.name.as_ref());
    section.value("PublicKey", public_key.map(|key| key.to_base64()));
    let next = interface.next_private_key.as_ref();
    section.value("NextPublicKey", next.map(|key| key.public().to_base64()));
    section.list("Address", &interface.addresses);
    section.value(
        "ListenPort",
        Some(interface.listen_port).filter(|port| *port != 0),
    );
    section.value(
        "FwMark",
        Some(interface.fwmark)
            .filter(|mark| *mark != 0)
            .map(|mark| format!("{mark:#x}")),
    );
    section.value("MTU", interface.mtu);
    section.value("Table", table(interface.table));
    section.value("Namespace", interface.namespace.as_ref());
    section.flag("Relay", interface.relay);
    section.list("Forward", &interface.forward);
    section.flag("Exit", interface.exit);
    let mut hosts: Vec<String> = interface.hosts.iter().map(ToString::to_string).collect();
    hosts.sort();
    hosts.dedup();
    section.each("Host", &hosts);
    section.flag("KillSwitch", interface.kill_switch);
    section.list("KillSwitchAllow", &interface.kill_switch_allow);
    section.list("RouteUsers", &interface.route_users);
    section.list("Routes", &conf.routes());

    let mut peers: Vec<_> = conf.peers.iter().collect();
    peers.sort_by_key(|peer| peer.public_key);
    for peer in peers {
        let keys = PeerKeys {
            current: &peer.public_key,
            next: peer.next_public_key.as_ref(),
            preshared: [&peer.preshared_key, &peer.next_preshared_key].map(Option::as_ref),
        };
        let mut section = Section::peer(&mut text, peer.name.as_ref(), &keys);
        section.reach(&peer.allowed_ips, peer.endpoint.as_ref(), peer.keepalive);
        section.value("Expires", peer.expires);
    }
    text
}

/// How a table other than `auto` is written.
pub fn table(table: Table) -> Option<String> {
    match table {
        Table::Auto => None,
        Table::Off => Some("off".to_owned()),
        Table::Number(number) => Some(number.to_string()),
    }
}

/// The keys of a peer as they are shown: the preshared ones by their fingerprints.
pub struct PeerKeys<'k> {
    /// Its name among the peers.
    pub current: &'k PublicKey,
    /// What it changes to.
    pub next: Option<&'k PublicKey>,
    /// The preshared key, and what it changes to.
    pub preshared: [Option<&'k Secret>; 2],
}

/// Writes one section; what has no value is left out.
pub struct Section<'t> {
    text: &'t mut String,
}

impl<'t> Section<'t> {
    /// Begins `[name]`, one blank line below whatever is there.
    pub fn new(text: &'t mut String, name: &str) -> Self {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("[{name}]\n"));
        Self { text }
    }

    /// Begins a `[Peer]` with its name and keys.
    pub fn peer(text: &'t mut String, name: Option<&String>, keys: &PeerKeys<'_>) -> Self {
        let mut section = Self::new(text, "Peer");
        let [preshared, next_preshared] = keys.preshared.map(|key| key.map(Secret::fingerprint));
        section.value("Name", name);
        section.value("PublicKey", Some(keys.current.to_base64()));
        section.value("NextPublicKey", keys.next.map(ToBase64::to_base64));
        section.value("PresharedKey", preshared);
        section.value("NextPresharedKey", next_preshared);
        section
    }

    /// Where a peer is, and for what.
    pub fn reach(
        &mut self,
        allowed_ips: &[impl ToString],
        endpoint: Option<&Endpoint>,
        keepalive: u16,
    ) {
        self.list("AllowedIPs", allowed_ips);
        self.value("Endpoint", endpoint);
        let keepalive = Some(keepalive).filter(|seconds| *seconds != 0);
        self.value("PersistentKeepalive", keepalive);
    }

    /// One line, if there is a value.
    pub fn value(&mut self, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.text
                .push_str(&format!("{key} = {}\n", value.to_string()));
        }
    }

    /// `on`, or nothing.
    pub fn flag(&mut self, key: &str, on: bool) {
        self.value(key, on.then_some("on"));
    }

    /// One line with all values, joined; nothing when there are none.
    pub fn list(&mut self, key: &str, values: &[impl ToString]) {
        let joined: Vec<String> = values.iter().map(ToString::to_string).collect();
        self.value(key, (!joined.is_empty()).then(|| joined.join(", ")));
    }

    /// One line a value.
    pub fn each(&mut self, key: &str, values: &[impl ToString]) {
        for value in values {
            self.value(key, Some(value.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::conf::parse;

    /// Every case of the folder that the Python core runs too.
    #[test]
    fn shared_cases() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/canonical");
        let mut cases = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "conf") {
                continue;
            }
            let expected = std::fs::read_to_string(path.with_extension("canonical")).unwrap();
            let parsed = parse(&std::fs::read(&path).unwrap())
                .unwrap_or_else(|problems| panic!("{}: {problems:?}", path.display()));
            assert_eq!(
                canonical(parsed.conf.as_ref(), None),
                expected,
                "{}",
                path.display()
            );
            cases += 1;
        }
        assert!(cases >= 8, "only {cases} cases in {}", folder.display());
    }

    #[test]
    fn absent_is_empty() {
        assert_eq!(canonical(None, None), "");
    }
}
