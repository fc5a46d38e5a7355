//! A UAPI request, read: lines of `key=value` into operations. Strict: what is not understood is an error, and an error
//! anywhere means that nothing is done.

use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;

use zeroize::Zeroizing;

use super::Errno;
use crate::allowed_ips::Cidr;
use crate::keys::{PresharedKey, PrivateKey, PublicKey};

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// `get=1`
    Get,
    /// `set=1` and what follows, in order.
    Set(Vec<Operation>),
}

/// A change of the device.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation {
    /// `private_key`; zeros clear it.
    PrivateKey(Option<PrivateKey>),
    /// `listen_port`
    ListenPort(u16),
    /// `fwmark`; 0 clears it.
    FwMark(u32),
    /// `replace_peers=true`
    ReplacePeers,
    /// `public_key` and the lines that follow it.
    Peer(PublicKey, Vec<PeerOperation>),
}

/// A change of a peer.
#[derive(Debug, PartialEq, Eq)]
pub enum PeerOperation {
    /// `remove=true`
    Remove,
    /// `update_only=true`
    UpdateOnly,
    /// `preshared_key`; zeros clear it.
    PresharedKey(PresharedKey),
    /// `endpoint`
    Endpoint(SocketAddr),
    /// `persistent_keepalive_interval` in seconds; 0 is off.
    Keepalive(u16),
    /// `replace_allowed_ips=true`
    ReplaceAllowedIps,
    /// `allowed_ip`
    AddAllowedIp(Cidr),
    /// `allowed_ip` with a minus in front: taken away if it is this peer's.
    RemoveAllowedIp(Cidr),
}

/// What numbers links have by their names; `None`: there is no such link.
pub type Links<'a> = &'a dyn Fn(&str) -> Option<u32>;

/// Reads a request, with or without its final empty line.
///
/// # Errors
/// [`Errno::EPROTO`] for lines and keys that are not of the protocol, [`Errno::EINVAL`] for values.
pub fn parse(request: &[u8], links: Links<'_>) -> Result<Request, Errno> {
    let text = core::str::from_utf8(request).map_err(|_| Errno::EPROTO)?;
    let text = text.strip_suffix("\n\n").unwrap_or(text);
    let mut lines = text.lines();
    match lines.next() {
        Some("get=1") if lines.next().is_none() => Ok(Request::Get),
        Some("set=1") => parse_set(lines, links).map(Request::Set),
        _ => Err(Errno::EPROTO),
    }
}

fn parse_set<'a>(
    lines: impl Iterator<Item = &'a str>,
    links: Links<'_>,
) -> Result<Vec<Operation>, Errno> {
    let mut operations = Vec::new();
    for line in lines {
        let (key, value) = line.split_once('=').ok_or(Errno::EPROTO)?;
        if key == "public_key" {
            operations.push(Operation::Peer(PublicKey(*parse_key(value)?), Vec::new()));
        } else if let Some(Operation::Peer(_, peer)) = operations.last_mut() {
            peer.extend(parse_peer_line(key, value, links)?);
        } else {
            operations.extend(parse_device_line(key, value)?);
        }
    }
    Ok(operations)
}

fn parse_device_line(key: &str, value: &str) -> Result<Option<Operation>, Errno> {
    Ok(Some(match key {
        "private_key" => {
            let bytes = parse_key(value)?;
            let set = *bytes != [0; 32];
            Operation::PrivateKey(set.then(|| PrivateKey::new(*bytes)))
        }
        "listen_port" => Operation::ListenPort(parse_number(value)?),
        "fwmark" => Operation::FwMark(parse_mark(value)?),
        "replace_peers" => {
            parse_true(value)?;
            Operation::ReplacePeers
        }
        _ => return Err(Errno::EPROTO),
    }))
}

fn parse_peer_line(
    key: &str,
    value: &str,
    links: Links<'_>,
) -> Result<Option<PeerOperation>, Errno> {
    Ok(Some(match key {
        "preshared_key" => PeerOperation::PresharedKey(PresharedKey::new(*parse_key(value)?)),
        "endpoint" => PeerOperation::Endpoint(parse_endpoint(value, links).ok_or(Errno::EINVAL)?),
        "persistent_keepalive_interval" => PeerOperation::Keepalive(parse_number(value)?),
        "allowed_ip" => match value.strip_prefix('-') {
            Some(network) => PeerOperation::RemoveAllowedIp(parse_network(network)?),
            None => PeerOperation::AddAllowedIp(parse_network(value)?),
        },
        "remove" => {
            parse_true(value)?;
            PeerOperation::Remove
        }
        "update_only" => {
            parse_true(value)?;
            PeerOperation::UpdateOnly
        }
        "replace_allowed_ips" => {
            parse_true(value)?;
            PeerOperation::ReplaceAllowedIps
        }
        "protocol_version" => match value {
            "1" => return Ok(None),
            _ => return Err(Errno::EINVAL),
        },
        _ => return Err(Errno::EPROTO),
    }))
}

/// The zone of a link-local address is the name of a link, as `wg` has it from getnameinfo(3), or else its number. Names come first,
/// as for getaddrinfo(3): a link may be called `2`.
fn parse_endpoint(value: &str, links: Links<'_>) -> Option<SocketAddr> {
    /// The longest name of a link, bytes (IFNAMSIZ less its final zero).
    const NAME_LEN: usize = 15;
    let numbered = value.split_once('%').and_then(|(address, rest)| {
        let (zone, port) = rest.rsplit_once("]:")?;
        let link = Some(zone)
            .filter(|zone| zone.len() <= NAME_LEN)
            .and_then(links)?;
        Some(format!("{address}%{link}]:{port}"))
    });
    numbered.as_deref().unwrap_or(value).parse().ok()
}

fn parse_true(value: &str) -> Result<(), Errno> {
    match value {
        "true" => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

fn parse_number<T: FromStr>(value: &str) -> Result<T, Errno> {
    // `parse` alone would take a plus sign.
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Errno::EINVAL);
    }
    value.parse().map_err(|_| Errno::EINVAL)
}

/// Decimal, or hexadecimal after `0x`.
fn parse_mark(value: &str) -> Result<u32, Errno> {
    match value.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).map_err(|_| Errno::EINVAL)
        }
        Some(_) => Err(Errno::EINVAL),
        None => parse_number(value),
    }
}

fn parse_network(value: &str) -> Result<Cidr, Errno> {
    let (address, prefix) = value.split_once('/').ok_or(Errno::EINVAL)?;
    let address: IpAddr = address.parse().map_err(|_| Errno::EINVAL)?;
    Cidr::new(address, parse_number(prefix)?).ok_or(Errno::EINVAL)
}

fn parse_key(value: &str) -> Result<Zeroizing<[u8; 32]>, Errno> {
    let mut key = Zeroizing::new([0; 32]);
    if value.len() != 2 * key.len() {
        return Err(Errno::EINVAL);
    }
    for (byte, digits) in key.iter_mut().zip(value.as_bytes().chunks_exact(2)) {
        *byte = parse_digit(digits[0])? << 4 | parse_digit(digits[1])?;
    }
    Ok(key)
}

/// One hexadecimal digit, by arithmetic alone: a table would be read at places that depend on the secret.
fn parse_digit(digit: u8) -> Result<u8, Errno> {
    let decimal = digit.wrapping_sub(b'0');
    let letter = (digit | 0x20).wrapping_sub(b'a');
    // All ones where the digit is of that kind.
    let is_decimal = (u16::from(decimal).wrapping_sub(10) >> 8) as u8;
    let is_letter = (u16::from(letter).wrapping_sub(6) >> 8) as u8;
    if is_decimal | is_letter == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(decimal & is_decimal | letter.wrapping_add(10) & is_letter)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
