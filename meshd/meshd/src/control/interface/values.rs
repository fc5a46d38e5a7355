//! Values of the configuration as the protocol core's and back, and what can go wrong with an interface as sentences.

use std::io::ErrorKind;
use std::net::SocketAddr;

use meshd_os::tun::TunError;
use meshd_proto::{Cidr as Network, PrivateKey};

use crate::conf::{Cidr, Endpoint, Host, Secret};
use crate::failure::Failure;

/// An endpoint that needs no look-up.
pub fn literal(endpoint: &Endpoint) -> Option<SocketAddr> {
    match endpoint.host {
        Host::Addr(ip) => Some(SocketAddr::new(ip, endpoint.port)),
        Host::Name(_) => None,
    }
}

pub(super) fn from_socket(at: SocketAddr) -> Endpoint {
    Endpoint {
        host: Host::Addr(at.ip()),
        port: at.port(),
    }
}

pub(super) fn to_private(key: &Secret) -> PrivateKey {
    PrivateKey::new(*key.expose())
}

pub(super) fn from_private(key: &PrivateKey) -> Secret {
    Secret::new(*key.expose())
}

pub(super) fn to_network(cidr: &Cidr) -> Option<Network> {
    Network::new(cidr.addr, cidr.prefix)
}

pub(super) fn from_network(network: &Network) -> Cidr {
    Cidr {
        addr: network.address(),
        prefix: network.prefix(),
    }
}

/// A failure of the interface `name`.
pub fn failure(name: &str, error: meshd_os::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "it needs CAP_NET_ADMIN",
        _ => "",
    };
    Failure::new(format!("interface {name}"), error, hint)
}

/// The port belongs to somebody else.
pub fn port_taken(name: &str, port: u16) -> Failure {
    Failure::new(
        format!("interface {name}"),
        format!("UDP port {port} is taken by another program"),
        format!("choose another port, or see who has it with `ss -lunp sport = :{port}`"),
    )
}

/// A link that isn't ours has the name.
pub fn foreign_link(name: &str) -> Failure {
    Failure::new(
        format!("interface {name}"),
        "another interface has that name",
        format!("rename or delete it (`ip link show {name}`), or name the mesh otherwise"),
    )
}

pub(super) fn tun_failure(name: &str, error: &TunError) -> Failure {
    let hint = match error {
        TunError::NameTaken => return foreign_link(name),
        TunError::Missing => "load the module `tun`, or give the container /dev/net/tun",
        TunError::Forbidden => {
            "it needs CAP_NET_ADMIN, and /dev/net/tun of mode 0666 as udev makes it"
        }
        _ => "",
    };
    Failure::new(format!("interface {name}"), error, hint)
}
