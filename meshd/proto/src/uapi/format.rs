//! The answer to `get=1`.

use std::fmt::Write;

use super::Host;
use crate::keys::hex;
use crate::time::Time;
use crate::Device;

/// The device's configuration and state, in the order that wireguard-go writes them.
pub(super) fn get(device: &Device, now: Time, host: &dyn Host) -> Vec<u8> {
    let mut text = String::new();
    if let Some(key) = device.private_key() {
        line(&mut text, "private_key", hex(key.expose()));
    }
    if host.listen_port() != 0 {
        line(&mut text, "listen_port", host.listen_port());
    }
    if host.fwmark() != 0 {
        line(&mut text, "fwmark", host.fwmark());
    }
    for peer in device.peers(now) {
        let handshake = peer.last_handshake.unwrap_or_default();
        line(&mut text, "public_key", hex(&peer.public_key.0));
        line(&mut text, "preshared_key", hex(peer.preshared_key.expose()));
        line(&mut text, "protocol_version", 1);
        if let Some(endpoint) = peer.endpoint {
            line(&mut text, "endpoint", endpoint.remote);
        }
        line(&mut text, "last_handshake_time_sec", handshake.secs);
        line(&mut text, "last_handshake_time_nsec", handshake.nanos);
        line(&mut text, "tx_bytes", peer.tx_bytes);
        line(&mut text, "rx_bytes", peer.rx_bytes);
        line(&mut text, "persistent_keepalive_interval", peer.keepalive);
        for network in &peer.allowed_ips {
            line(&mut text, "allowed_ip", network);
        }
    }
    text.push_str("errno=0\n\n");
    text.into_bytes()
}

fn line(text: &mut String, key: &str, value: impl core::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{key}={value}");
}
