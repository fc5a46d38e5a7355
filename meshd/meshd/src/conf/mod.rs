//! `NAME.conf`: wg-quick's INI dialect with our own keys, parsed once into types that can't be wrong.
//!
//! Strategy: `lexer` cuts bytes into sections of `Key = value` lines, `parse` reads each key with the parser of its
//! value (`value`, `key`), and every problem is collected with its line, so that a user sees all of them at once.
//! `canonical` prints the public, comparable form. All of it is pure: a private key kept in a file is named here
//! ([`PrivateKey::File`]) and read by the caller.

mod canonical;
mod key;
mod lexer;
mod parse;
mod time;
mod value;

use std::fmt;
use std::path::PathBuf;

use meshd_proto::PublicKey;

pub use canonical::{canonical, table, PeerKeys, Section};
pub use key::{Secret, ToBase64};
pub use parse::parse;
pub use time::UtcTime;
pub use value::{Cidr, Endpoint, Fault, Host, HostLine, Table, TcpPort, User};

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// The `[Interface]` section.
    pub interface: Interface,
    /// The `[Peer]` sections, in the order of the file; public keys are unique.
    pub peers: Vec<Peer>,
}

/// The `[Interface]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// This host's own name in the mesh.
    pub name: Option<String>,
    /// Where the private key is.
    pub private_key: PrivateKey,
    /// The key it changes to (rotation).
    pub next_private_key: Option<Secret>,
    /// Addresses of the interface, sorted, without duplicates.
    pub addresses: Vec<Cidr>,
    /// UDP port; 0: chosen by the kernel.
    pub listen_port: u16,
    /// SO_MARK of the outer socket; 0: none.
    pub fwmark: u32,
    /// Bytes; `None`: found by meshd.
    pub mtu: Option<u16>,
    /// Routing table of the routes.
    pub table: Table,
    /// The network namespace that the interface lives in; `None`: that of its sockets.
    pub namespace: Option<String>,
    /// Whether meshd passes packets of one peer on to another.
    pub relay: bool,
    /// Site networks behind this host, sorted, without duplicates.
    pub forward: Vec<Cidr>,
    /// Whether this host is a way out to the internet for its peers.
    pub exit: bool,
    /// Lines of the marked block in the hosts file, in the order of the file.
    pub hosts: Vec<HostLine>,
    /// Resolvers and search domains, for programs in the namespace.
    pub dns: Vec<String>,
    /// Fail closed.
    pub kill_switch: bool,
    /// Services of this host whose answers may leave all the same, sorted, without duplicates.
    pub kill_switch_allow: Vec<TcpPort>,
    /// The users whose packets a peer is the default way for, sorted, without duplicates; none: everybody's.
    pub route_users: Vec<User>,
}

/// Where a private key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateKey {
    /// In the configuration itself.
    Inline(Secret),
    /// In this file (absolute path), which the caller reads.
    File(PathBuf),
}

/// A `[Peer]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name in the mesh.
    pub name: Option<String>,
    /// Its identity.
    pub public_key: PublicKey,
    /// The key it changes to (rotation).
    pub next_public_key: Option<PublicKey>,
    /// Mixed into the handshake; all zero reads as none.
    pub preshared_key: Option<Secret>,
    /// The preshared key it changes to (rotation).
    pub next_preshared_key: Option<Secret>,
    /// Networks, sorted, without duplicates; none of them belongs to another peer.
    pub allowed_ips: Vec<Cidr>,
    /// Where it can be reached.
    pub endpoint: Option<Endpoint>,
    /// Seconds; 0: off.
    pub keepalive: u16,
    /// When the peer is dropped.
    pub expires: Option<UtcTime>,
}

impl Conf {
    /// The networks that get a route to the interface: every allowed-IP network that isn't within a network of
    /// `Address` which the kernel routes by itself. Sorted, without duplicates; none with `Table = off`.
    pub fn routes(&self) -> Vec<Cidr> {
        if self.interface.table == Table::Off {
            return Vec::new();
        }
        let by_kernel = |net: &Cidr| {
            self.interface
                .addresses
                .iter()
                .any(|a| a.prefix < Cidr::full(a.addr) && a.network().contains(*net))
        };
        let mut routes: Vec<Cidr> = self
            .peers
            .iter()
            .flat_map(|peer| &peer.allowed_ips)
            .filter(|net| !by_kernel(net))
            .copied()
            .collect();
        routes.sort();
        routes.dedup();
        routes
    }
}

/// Something wrong (or, as a warning, doubtful) in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; 0 when it is about the file as a whole.
    pub line: u32,
    /// The key or section it is about.
    pub key: String,
    /// What is wrong and what to type instead.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, ", self.line)?;
        }
        write!(f, "{}: {} ({})", self.key, self.fault.what, self.fault.hint)
    }
}

/// A configuration that could be read, with what is doubtful in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// `None`: the file has no section, which means *absent*, no interface.
    pub conf: Option<Conf>,
    /// Doubtful, but taken.
    pub warnings: Vec<Problem>,
}
