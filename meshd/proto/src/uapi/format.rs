//! The answer to `get=1`. It holds secrets, so it is erased when dropped, and made large enough never to move.

use std::fmt::Write;

use zeroize::Zeroizing;

use super::Host;
use crate::keys::hex;
use crate::time::Time;
use crate::Device;

/// Room for the interface's lines.
const INTERFACE_LEN: usize = 256;
/// Room for a peer's lines without its networks.
const PEER_LEN: usize = 512;
/// Room for one `allowed_ip` line: IPv6 takes 39 bytes, its prefix 4.
const NETWORK_LEN: usize = 64;

/// The device's configuration and state, in the order that wireguard-go writes them.
pub(super) fn get(device: &Device, now: Time, host: &dyn Host) -> Zeroizing<Vec<u8>> {
    let peers = device.peers(now);
    let room = peers
        .iter()
        .map(|peer| PEER_LEN + NETWORK_LEN * peer.allowed_ips.len());
    let mut text = Text(String::with_capacity(INTERFACE_LEN + room.sum::<usize>()));
    if let Some(key) = device.private_key() {
        text.line("private_key", &*Zeroizing::new(hex(key.expose())));
    }
    if host.listen_port() != 0 {
        text.line("listen_port", host.listen_port());
    }
    if host.fwmark() != 0 {
        text.line("fwmark", host.fwmark());
    }
    for peer in &peers {
        let handshake = peer.last_handshake.unwrap_or_default();
        text.line("public_key", hex(&peer.public_key.0));
        text.line(
            "preshared_key",
            &*Zeroizing::new(hex(peer.preshared_key.expose())),
        );
        text.line("protocol_version", 1);
        if let Some(endpoint) = peer.endpoint {
            text.line("endpoint", endpoint.remote);
        }
        text.line("last_handshake_time_sec", handshake.secs);
        text.line("last_handshake_time_nsec", handshake.nanos);
        text.line("tx_bytes", peer.tx_bytes);
        text.line("rx_bytes", peer.rx_bytes);
        text.line("persistent_keepalive_interval", peer.keepalive);
        for network in &peer.allowed_ips {
            text.line("allowed_ip", network);
        }
    }
    text.line("errno", 0);
    text.0.push('\n');
    Zeroizing::new(text.0.into_bytes())
}

struct Text(String);

impl Text {
    fn line(&mut self, key: &str, value: impl core::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key}={value}");
    }
}
