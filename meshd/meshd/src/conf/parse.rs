//! Reads the sections of a configuration into [`Conf`], key by key, each with the parser of its value.
//!
//! Strategy: a [`Reader`] hands out the pairs of one section by key and remembers what was asked for; whatever nobody
//! asked for is unknown. A value that can't be read becomes a problem and reading goes on, so that all problems are
//! reported at once.

use std::collections::HashMap;
use std::path::PathBuf;

use meshd_proto::PublicKey;

use super::key::{self, Secret, ToBase64};
use super::lexer::{sections, Pair, RawSection};
use super::time::UtcTime;
use super::value::{self, Cidr, Endpoint, Fault, HostLine, Parse, Table, TcpPort, User};
use super::{Conf, Interface, Parsed, Peer, PrivateKey, Problem};

/// Parses a configuration. `Err` holds every problem, in the order of lines.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Vec<Problem>> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes
            .iter()
            .take(error.valid_up_to())
            .filter(|b| **b == b'\n')
            .count() as u32
            + 1;
        let fault = Fault::new(
            "there are bytes which are not UTF-8",
            "save the file as UTF-8 text",
        );
        vec![Problem {
            line,
            key: "text".into(),
            fault,
        }]
    })?;
    let mut log = Log::default();
    let sections = sections(text, &mut log.problems);
    let conf = read_sections(&sections, &mut log);
    log.problems.sort_by_key(|problem| problem.line);
    if log.problems.is_empty() {
        Ok(Parsed {
            conf,
            warnings: log.warnings,
        })
    } else {
        Err(log.problems)
    }
}

/// What was noticed while reading.
#[derive(Default)]
struct Log {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Log {
    fn problem(&mut self, line: u32, key: &str, fault: Fault) {
        self.problems.push(Problem {
            line,
            key: key.to_owned(),
            fault,
        });
    }
}

fn read_sections(sections: &[RawSection<'_>], log: &mut Log) -> Option<Conf> {
    let mut interface = None;
    let mut first_interface = None;
    let mut peers: Vec<(u32, Peer)> = Vec::new();
    for section in sections {
        if section.name.eq_ignore_ascii_case("interface") {
            match first_interface {
                None => {
                    first_interface = Some(section.line);
                    interface = read_interface(section, log);
                }
                Some(line) => log.problem(
                    section.line,
                    "[Interface]",
                    Fault::new(
                        format!("there is one already in line {line}"),
                        "keep one [Interface]",
                    ),
                ),
            }
        } else if section.name.eq_ignore_ascii_case("peer") {
            peers.extend(read_peer(section, log).map(|peer| (section.line, peer)));
        } else {
            let fault = Fault::new(
                format!("`[{}]` is no known section", section.name),
                "use [Interface] or [Peer]",
            );
            log.problem(section.line, "section", fault);
        }
    }
    if let (None, Some(first)) = (first_interface, sections.first()) {
        log.problem(
            first.line,
            "[Interface]",
            Fault::new("there is none", "add an [Interface] section"),
        );
    }
    check_peers_apart(&peers, interface.as_ref(), log);
    let peers = peers.into_iter().map(|(_, peer)| peer).collect();
    interface.map(|interface| Conf { interface, peers })
}

/// No two peers share a key or a network, and none is this interface itself.
fn check_peers_apart(peers: &[(u32, Peer)], interface: Option<&Interface>, log: &mut Log) {
    let current = interface.and_then(|interface| match &interface.private_key {
        PrivateKey::Inline(secret) => Some(secret.public()),
        PrivateKey::File(_) => None,
    });
    let next = interface.and_then(|interface| interface.next_private_key.as_ref());
    let own = [current, next.map(Secret::public)];
    let mut keys: HashMap<PublicKey, u32> = HashMap::new();
    let mut networks: HashMap<Cidr, u32> = HashMap::new();
    for (line, peer) in peers {
        let next = peer.next_public_key.map(|next| ("NextPublicKey", next));
        for (word, key) in [Some(("PublicKey", peer.public_key)), next]
            .into_iter()
            .flatten()
        {
            if own.contains(&Some(key)) {
                let fault = Fault::new("it is this interface's own key", "remove the peer");
                log.problem(*line, word, fault);
            }
            if let Some(other) = keys.insert(key, *line) {
                let fault = Fault::new(
                    format!(
                        "{} belongs to the peer in line {other} too",
                        key.to_base64()
                    ),
                    "give each key one [Peer]",
                );
                log.problem(*line, word, fault);
            }
        }
        for network in &peer.allowed_ips {
            if let Some(other) = networks.insert(*network, *line) {
                let fault = Fault::new(
                    format!("{network} belongs to the peer in line {other} too"),
                    "give each network to one peer",
                );
                log.problem(*line, "AllowedIPs", fault);
            }
        }
    }
}

fn read_interface(section: &RawSection<'_>, log: &mut Log) -> Option<Interface> {
    let mut reader = Reader::new(section, log);
    let inline = reader.once("PrivateKey", Secret::parse);
    let file = reader.once("PrivateKeyFile", key_file);
    let next_private_key = reader.once("NextPrivateKey", Secret::parse);
    let name = reader.once("Name", value::label);
    let addresses = reader.list("Address", Cidr::parse);
    let listen_port = reader.once("ListenPort", value::listen_port).unwrap_or(0);
    let fwmark = reader.once("FwMark", value::fwmark).unwrap_or(0);
    let mtu = reader.once("MTU", value::mtu);
    let table = reader.once("Table", Table::parse).unwrap_or_default();
    let namespace = reader.once("Namespace", value::label);
    let relay = reader.once("Relay", value::switch).unwrap_or(false);
    let forward = reader.list("Forward", Cidr::parse_network);
    let exit = reader.once("Exit", value::switch).unwrap_or(false);
    let hosts = reader.each("Host", HostLine::parse);
    let kill_switch = reader.once("KillSwitch", value::switch).unwrap_or(false);
    let kill_switch_allow = reader.list("KillSwitchAllow", TcpPort::parse);
    let route_users = reader.list("RouteUsers", User::parse);
    if inline.is_some() && inline == next_private_key {
        reader.same_twice("NextPrivateKey", "PrivateKey");
    }
    let dns = reader.list("DNS", value::resolver);
    if let Some(line) = reader.line_of("DNS").filter(|_| namespace.is_none()) {
        let fault = Fault::new(
            "meshd leaves the resolver alone",
            "set it up by hand or remove the line",
        );
        reader.log.warnings.push(Problem {
            line,
            key: "DNS".into(),
            fault,
        });
    }
    let private_key = match (inline, file) {
        (Some(secret), None) => Some(PrivateKey::Inline(secret)),
        (None, Some(path)) => Some(PrivateKey::File(path)),
        (Some(_), Some(_)) => {
            let fault = Fault::new("PrivateKeyFile is there too", "keep one of the two");
            reader.log.problem(section.line, "PrivateKey", fault);
            None
        }
        (None, None) => {
            if reader
                .line_of("PrivateKey")
                .or(reader.line_of("PrivateKeyFile"))
                .is_none()
            {
                let fault = Fault::new("there is none", "make one with `meshd genkey`");
                reader.log.problem(section.line, "PrivateKey", fault);
            }
            None
        }
    };
    reader.finish();
    Some(Interface {
        name,
        private_key: private_key?,
        next_private_key,
        addresses,
        listen_port,
        fwmark,
        mtu,
        table,
        relay,
        forward,
        exit,
        hosts,
        namespace,
        dns,
        kill_switch,
        kill_switch_allow,
        route_users,
    })
}

fn read_peer(section: &RawSection<'_>, log: &mut Log) -> Option<Peer> {
    let mut reader = Reader::new(section, log);
    let public_key = reader.once("PublicKey", key::public_key);
    if reader.line_of("PublicKey").is_none() {
        let fault = Fault::new("there is none", "every [Peer] needs its public key");
        reader.log.problem(section.line, "PublicKey", fault);
    }
    let name = reader.once("Name", value::label);
    let next_public_key = reader.once("NextPublicKey", key::public_key);
    let preshared_key = reader
        .once("PresharedKey", Secret::parse)
        .filter(|key| !key.is_zero());
    let next_preshared_key = reader
        .once("NextPresharedKey", Secret::parse)
        .filter(|key| !key.is_zero());
    if preshared_key.is_some() && preshared_key == next_preshared_key {
        reader.same_twice("NextPresharedKey", "PresharedKey");
    }
    let allowed_ips = reader.list("AllowedIPs", Cidr::parse_network);
    let endpoint = reader.once("Endpoint", Endpoint::parse);
    let keepalive = reader
        .once("PersistentKeepalive", value::keepalive)
        .unwrap_or(0);
    let expires = reader.once("Expires", UtcTime::parse);
    reader.finish();
    Some(Peer {
        name,
        public_key: public_key?,
        next_public_key,
        preshared_key,
        next_preshared_key,
        allowed_ips,
        endpoint,
        keepalive,
        expires,
    })
}

fn key_file(text: &str) -> Result<PathBuf, Fault> {
    if text.starts_with('/') {
        Ok(PathBuf::from(text))
    } else {
        Err(Fault::new(
            format!("`{text}` is not an absolute path"),
            "begin it with /",
        ))
    }
}

/// wg-quick keys that run programs or rewrite the file; silently ignored they would leak.
const HOOKS: [&str; 5] = ["PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig"];

/// Hands out the pairs of a section by key.
struct Reader<'s, 'a, 'l> {
    section: &'s RawSection<'a>,
    known: Vec<&'static str>,
    log: &'l mut Log,
}

impl<'s, 'a, 'l> Reader<'s, 'a, 'l> {
    fn new(section: &'s RawSection<'a>, log: &'l mut Log) -> Self {
        Self {
            section,
            known: Vec::new(),
            log,
        }
    }

    /// The line of `key`, if the section has it.
    fn line_of(&mut self, key: &'static str) -> Option<u32> {
        self.pairs(key).first().map(|pair| pair.line)
    }

    /// A key that may stand once.
    fn once<T>(&mut self, key: &'static str, parse: Parse<T>) -> Option<T> {
        let pairs = self.pairs(key);
        for again in pairs.iter().skip(1) {
            let first = pairs[0].line;
            let fault = Fault::new(
                format!("it stands in line {first} already"),
                "keep one of them",
            );
            self.log.problem(again.line, key, fault);
        }
        pairs
            .first()
            .and_then(|pair| self.read(key, pair.line, pair.value, parse))
    }

    /// A key that may be repeated, one value a line.
    fn each<T>(&mut self, key: &'static str, parse: Parse<T>) -> Vec<T> {
        self.pairs(key)
            .iter()
            .filter_map(|pair| self.read(key, pair.line, pair.value, parse))
            .collect()
    }

    /// A key that may be repeated, each a comma-separated list; sorted, without duplicates. An empty value is an empty
    /// list, as `wg` writes it.
    fn list<T: Ord>(&mut self, key: &'static str, parse: Parse<T>) -> Vec<T> {
        let mut values: Vec<T> = Vec::new();
        for pair in self.pairs(key) {
            if !pair.value.is_empty() {
                let items = pair.value.split(',').map(str::trim);
                values.extend(items.filter_map(|item| self.read(key, pair.line, item, parse)));
            }
        }
        values.sort();
        values.dedup();
        values
    }

    /// A next key that is the current one.
    fn same_twice(&mut self, next: &'static str, current: &str) {
        let line = self.line_of(next).unwrap_or(self.section.line);
        let fault = Fault::new(format!("it is the {current} itself"), "remove the line");
        self.log.problem(line, next, fault);
    }

    /// Everything nobody asked for is unknown.
    fn finish(self) {
        for pair in &self.section.pairs {
            let is = |known: &&str| known.eq_ignore_ascii_case(pair.key);
            if self.known.iter().any(is) {
                continue;
            }
            let fault = if HOOKS.iter().any(is) {
                Fault::new("meshd runs no hooks", "remove the line")
            } else {
                Fault::new(
                    format!("`{}` is no known key here", pair.key),
                    nearest(pair.key, &self.known),
                )
            };
            self.log.problem(pair.line, pair.key, fault);
        }
    }

    fn pairs(&mut self, key: &'static str) -> Vec<Pair<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.section
            .pairs
            .iter()
            .filter(|pair| pair.key.eq_ignore_ascii_case(key))
            .copied()
            .collect()
    }

    fn read<T>(&mut self, key: &str, line: u32, value: &str, parse: Parse<T>) -> Option<T> {
        parse(value)
            .map_err(|fault| self.log.problem(line, key, fault))
            .ok()
    }
}

/// A hint naming the known key closest to `wrong`, or what to do when none is close.
fn nearest(wrong: &str, known: &[&str]) -> String {
    let distance = |known: &&&str| edits(&wrong.to_ascii_lowercase(), &known.to_ascii_lowercase());
    match known.iter().min_by_key(distance) {
        Some(best) if distance(&best) <= 3 => format!("did you mean {best}?"),
        _ => "remove the line".to_owned(),
    }
}

/// Levenshtein's distance, in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
