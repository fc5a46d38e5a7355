//! The values of a configuration: networks, endpoints, labels, marks and times, each parsed once into a type that can't
//! be wrong and printed in the one canonical spelling.
//!
//! Every parser is a pure `fn(&str) -> Result<T, Fault>`; a [`Fault`] says what is wrong and what to type instead. Line
//! and key are added by the caller, which knows them. Keys and secrets live in `key.rs`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is wrong with a value, and what to type instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, beginning with the value as the user wrote it (never for a secret).
    pub what: String,
    /// What can be typed instead.
    pub hint: String,
}

impl Fault {
    /// A fault out of its two sentences.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
        }
    }
}

/// A parser of one value.
pub type Parse<T> = fn(&str) -> Result<T, Fault>;

/// An address with the length of its network's prefix; host bits are kept. The order is the canonical one: IPv4 first,
/// then by address as a number, then by prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The address, host bits included.
    pub addr: IpAddr,
    /// 0–32 for IPv4, 0–128 for IPv6.
    pub prefix: u8,
}

impl Cidr {
    /// The prefix length of a single address of this family.
    pub fn full(addr: IpAddr) -> u8 {
        if addr.is_ipv4() {
            32
        } else {
            128
        }
    }

    /// `10.1.2.3/24` or `10.1.2.3` (which is /32; /128 for IPv6).
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let (host, prefix) = match text.split_once('/') {
            Some((host, prefix)) => (host, Some(prefix)),
            None => (text, None),
        };
        let addr: IpAddr = host.parse().map_err(|_| {
            Fault::new(
                format!("`{text}` is not an address"),
                "write it as 10.0.0.1/24 or fd00::1/64",
            )
        })?;
        let full = Self::full(addr);
        let prefix = match prefix {
            None => full,
            Some(digits) => number(digits, 0, u64::from(full)).map_err(|_| {
                Fault::new(
                    format!("`{text}` has no valid prefix length"),
                    format!("use a length from 0 to {full}"),
                )
            })? as u8,
        };
        Ok(Self { addr, prefix })
    }

    /// The same with host bits cleared: a network.
    pub fn network(self) -> Self {
        let addr = match self.addr {
            IpAddr::V4(v4) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
        };
        Self {
            addr,
            prefix: self.prefix,
        }
    }

    /// A network: as [`Cidr::parse`], host bits cleared.
    pub fn parse_network(text: &str) -> Result<Self, Fault> {
        Self::parse(text).map(Self::network)
    }

    /// Whether `inner` lies wholly within this network (equal networks do).
    pub fn contains(self, inner: Self) -> bool {
        let outer = Self {
            addr: inner.addr,
            prefix: self.prefix,
        };
        self.addr.is_ipv4() == inner.addr.is_ipv4()
            && self.prefix <= inner.prefix
            && outer.network().addr == self.network().addr
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

/// Where a peer can be reached, as configured: an address, or a name that is resolved later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address or name.
    pub host: Host,
    /// UDP port, never 0.
    pub port: u16,
}

/// The host part of an [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A literal address.
    Addr(IpAddr),
    /// A DNS name, lower case, without a trailing dot.
    Name(String),
}

impl Endpoint {
    /// `HOST:PORT` or `[V6]:PORT`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        const HINT: &str =
            "write it as host.example.com:51820, 192.0.2.1:51820 or [2001:db8::1]:51820";
        let bad = |why: &str| Fault::new(format!("`{text}` {why}"), HINT);
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest
                .split_once("]:")
                .ok_or_else(|| bad("has no port after the bracket"))?,
            None => text.rsplit_once(':').ok_or_else(|| bad("has no port"))?,
        };
        let port = number(port, 1, 65535).map_err(|_| bad("has no valid port"))? as u16;
        let host = if text.starts_with('[') {
            Host::Addr(IpAddr::V6(
                host.parse()
                    .map_err(|_| bad("has no IPv6 address in its brackets"))?,
            ))
        } else if host.contains(':') {
            return Err(bad("needs brackets round its IPv6 address"));
        } else if let Ok(v4) = host.parse::<Ipv4Addr>() {
            Host::Addr(IpAddr::V4(v4))
        } else {
            let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
            if !is_host_name(&name) || name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
                return Err(bad("is not a host name or address"));
            }
            Host::Name(name)
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Addr(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            Host::Addr(addr) => write!(f, "{addr}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// One line of the hosts file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLine {
    addr: IpAddr,
    names: Vec<String>,
}

impl HostLine {
    /// `ADDRESS NAME [NAME…]`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        const HINT: &str = "write it as 10.0.0.2 b b.prod";
        let mut words = text.split_whitespace();
        let first = words.next().unwrap_or_default();
        let addr = first
            .parse()
            .map_err(|_| Fault::new(format!("`{text}` does not begin with an address"), HINT))?;
        let names: Vec<String> = words.map(str::to_owned).collect();
        match names.iter().find(|name| !is_host_name(name)) {
            Some(name) => Err(Fault::new(format!("`{name}` is not a host name"), HINT)),
            None if names.is_empty() => Err(Fault::new(format!("`{text}` names no host"), HINT)),
            None => Ok(Self { addr, names }),
        }
    }
}

impl fmt::Display for HostLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.addr, self.names.join(" "))
    }
}

/// The routing table that gets the routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Table {
    /// The main table.
    #[default]
    Auto,
    /// No routes at all.
    Off,
    /// This one.
    Number(u32),
}

impl Table {
    /// `auto`, `off` or a number.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            digits => number(digits, 1, u64::from(u32::MAX))
                .map(|n| Self::Number(n as u32))
                .map_err(|_| {
                    Fault::new(
                        format!("`{text}` is not a routing table"),
                        "use auto, off or a number from 1",
                    )
                }),
        }
    }

    /// The kernel's number of this table (main is 254, linux/rtnetlink.h); `None`: no routes.
    pub fn id(self) -> Option<u32> {
        match self {
            Self::Auto => Some(254),
            Self::Off => None,
            Self::Number(n) => Some(n),
        }
    }
}

/// A service of this host, by its TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TcpPort(pub u16);

impl TcpPort {
    /// `tcp/22`. No other protocol tells an answer from a packet that begins something.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let port = text.to_ascii_lowercase();
        let port = port
            .strip_prefix("tcp/")
            .and_then(|port| number(port, 1, 65535).ok());
        port.map(|port| Self(port as u16)).ok_or_else(|| {
            Fault::new(
                format!("`{text}` is not a TCP service"),
                "write it as tcp/22",
            )
        })
    }
}

impl fmt::Display for TcpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp/{}", self.0)
    }
}

/// Users of this host, as a name of /etc/passwd or by number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// User ids, both ends included; never root's.
    Ids(u32, u32),
    /// Its name.
    Name(String),
}

impl User {
    /// `alice`, `1001` or `2000-2999`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let name = text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        if text == "root" || text == "0" || text.starts_with("0-") {
            let why = "what the kernel sends by itself counts as root's, and so do its SSH servers";
            return Err(Fault::new(why, "use KillSwitch, or name other users"));
        }
        if name {
            return user_name(text).map(Self::Name);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let id = |text: &str| number(text, 1, u64::from(u32::MAX - 1)).map(|id| id as u32);
        let (first, last) = (id(first)?, id(last)?);
        if first <= last {
            Ok(Self::Ids(first, last))
        } else {
            Err(Fault::new(
                format!("`{text}` ends before it begins"),
                "write the lower number first",
            ))
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ids(first, last) if first == last => write!(f, "{first}"),
            Self::Ids(first, last) => write!(f, "{first}-{last}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A user's name: what useradd(8) takes, and the capitals and dots that other directories have.
fn user_name(text: &str) -> Result<String, Fault> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.len() <= 32 && !text.starts_with(['-', '.']) && text.bytes().all(inner) {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(
            format!("`{text}` is not a user"),
            "use a name, a number or 2000-2999",
        ))
    }
}

/// A name in the mesh: 1 to 63 of letters, digits, `.`, `_`, `-`, beginning with a letter or digit.
pub fn label(text: &str) -> Result<String, Fault> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if first && text.len() <= 63 && text.bytes().all(inner) {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(
            format!("`{text}` is not a name"),
            "use up to 63 letters, digits, dots and dashes",
        ))
    }
}

/// A resolver's address, or a search domain, as wg-quick(8) takes both.
pub fn resolver(text: &str) -> Result<String, Fault> {
    if text.parse::<IpAddr>().is_ok() || is_host_name(text) {
        Ok(text.to_owned())
    } else {
        let why = format!("`{text}` is neither an address nor a domain");
        Err(Fault::new(why, "write it as 10.0.0.53"))
    }
}

/// A host name: dot-separated labels of letters, digits, `-` and `_`, at most 253 bytes.
fn is_host_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let is_label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(inner);
    text.len() <= 253 && text.split('.').all(is_label) && !text.starts_with('-')
}

/// `on` or `off`.
pub fn switch(text: &str) -> Result<bool, Fault> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Fault::new(
            format!("`{text}` is neither on nor off"),
            "use on or off",
        )),
    }
}

/// SO_MARK of the outer socket: `off`, decimal or 0x hex; 0 is off.
pub fn fwmark(text: &str) -> Result<u32, Fault> {
    let lower = text.to_ascii_lowercase();
    let mark = match lower.strip_prefix("0x") {
        _ if lower == "off" => Some(0),
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None => number(&lower, 0, u64::from(u32::MAX))
            .ok()
            .map(|n| n as u32),
    };
    mark.ok_or_else(|| {
        Fault::new(
            format!("`{text}` is not a mark"),
            "use off, a number or 0x with hex digits",
        )
    })
}

/// UDP port to listen on; 0 leaves the choice to the kernel.
pub fn listen_port(text: &str) -> Result<u16, Fault> {
    number(text, 0, 65535).map(|n| n as u16)
}

/// MTU of the interface. Below 1280 the kernel would delete its IPv6 addresses for good (RFC 8200 §5); above 65455 an
/// outer packet of 65535 bytes could not hold it (80 bytes: IPv6 40, UDP 8, WireGuard 32).
pub fn mtu(text: &str) -> Result<u16, Fault> {
    number(text, 1280, 65455).map(|n| n as u16)
}

/// Seconds between keepalives; `off` is 0.
pub fn keepalive(text: &str) -> Result<u16, Fault> {
    if text.eq_ignore_ascii_case("off") {
        Ok(0)
    } else {
        number(text, 0, 65535).map(|n| n as u16)
    }
}

/// A decimal number without sign, between `low` and `high`.
fn number(text: &str, low: u64, high: u64) -> Result<u64, Fault> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(n) if digits && (low..=high).contains(&n) => Ok(n),
        Ok(_) if digits => Err(Fault::new(
            format!("`{text}` is out of range"),
            format!("use a number from {low} to {high}"),
        )),
        _ => Err(Fault::new(
            format!("`{text}` is not a number"),
            format!("use a number from {low} to {high}"),
        )),
    }
}

#[cfg(test)]
mod tests;
