//! The cross-platform userspace configuration protocol that `wg` speaks (wireguard.com/xplatform), as bytes in and
//! bytes out: `get=1` and `set=1`.
//!
//! Strategy: a request is parsed as a whole into operations ([`parse`]), so one that is wrong changes nothing; then
//! they are applied as one transaction. What lies outside of the device (socket, mark) is asked of a [`Host`].
//!
//! What it does not do: listen, read or write a socket; that is the daemon's.

mod format;
mod parse;

pub use parse::{parse, Links, Operation, PeerOperation, Request};

use zeroize::Zeroizing;

use crate::endpoint::Endpoint;
use crate::keys::PublicKey;
use crate::{Context, Device, Upsert};

/// The longest request that is taken, in bytes: beyond it the connection should be closed.
pub const MAX_REQUEST: usize = 64 << 20;

/// An errno of Linux (asm-generic/errno-base.h), positive here; on the wire it is written negative, as wireguard-go
/// does (ipc/uapi_unix.go) and `wg` expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Input/output error.
    pub const EIO: Errno = Errno(5);
    /// A value that is not allowed.
    pub const EINVAL: Errno = Errno(22);
    /// A key or line that is not of the protocol.
    pub const EPROTO: Errno = Errno(71);
    /// The listen port is taken.
    pub const EADDRINUSE: Errno = Errno(98);
    /// There are too many peers.
    pub const ENOSPC: Errno = Errno(28);
}

/// What of an interface lies outside of the [`Device`].
pub trait Host {
    /// The UDP port in use; 0 if none.
    fn listen_port(&self) -> u16;
    /// The mark of outgoing packets; 0 if none.
    fn fwmark(&self) -> u32;
    /// The number of the link of that name where the socket is; `None`: there is none.
    fn link(&self, name: &str) -> Option<u32>;
    /// Moves to another UDP port; 0 lets the kernel choose. The old one is kept when this fails.
    ///
    /// # Errors
    /// [`Errno::EADDRINUSE`] if the port is taken, or what the system said.
    fn set_listen_port(&mut self, port: u16) -> Result<(), Errno>;
    /// Marks outgoing packets; 0 doesn't.
    ///
    /// # Errors
    /// What the system said.
    fn set_fwmark(&mut self, mark: u32) -> Result<(), Errno>;
}

/// What a request ends with: its last line's end, and an empty line.
pub const END: &[u8] = b"\n\n";

/// Length of the first whole request in `received`, empty line included; `None` if it isn't all there yet.
pub fn request_len(received: &[u8]) -> Option<usize> {
    received
        .windows(END.len())
        .position(|few| few == END)
        .map(|at| at + END.len())
}

/// Answers one request (its empty line may be left out). The answer may hold keys and is erased when dropped; the caller
/// erases the request.
pub fn handle(
    device: &mut Device,
    ctx: &mut Context<'_>,
    host: &mut dyn Host,
    request: &[u8],
) -> Zeroizing<Vec<u8>> {
    let result = match parse(request, &|name| host.link(name)) {
        Ok(Request::Get) => return format::get(device, ctx.now, host),
        Ok(Request::Set(operations)) => {
            device.transaction(|device| set(device, ctx, host, operations))
        }
        Err(errno) => Err(errno),
    };
    let code = result.map_or_else(|Errno(code)| -code, |()| 0);
    Zeroizing::new(format!("errno={code}\n\n").into_bytes())
}

fn set(
    device: &mut Device,
    ctx: &mut Context<'_>,
    host: &mut dyn Host,
    operations: Vec<Operation>,
) -> Result<(), Errno> {
    for operation in operations {
        match operation {
            Operation::PrivateKey(key) => device.set_private_key(key),
            Operation::ListenPort(port) => host.set_listen_port(port)?,
            Operation::FwMark(mark) => host.set_fwmark(mark)?,
            Operation::ReplacePeers => device.remove_all_peers(),
            Operation::Peer(key, operations) => set_peer(device, ctx, &key, operations)?,
        }
    }
    Ok(())
}

fn set_peer(
    device: &mut Device,
    ctx: &mut Context<'_>,
    key: &PublicKey,
    operations: Vec<PeerOperation>,
) -> Result<(), Errno> {
    if operations.contains(&PeerOperation::Remove) {
        device.remove_peer(key);
        return Ok(());
    }
    if operations.contains(&PeerOperation::UpdateOnly) && device.peer(key, ctx.now).is_none() {
        return Ok(());
    }
    match device.upsert_peer(key) {
        Upsert::Added | Upsert::Kept => {}
        Upsert::OwnKey => return Ok(()),
        Upsert::Full => return Err(Errno::ENOSPC),
    }
    for operation in operations {
        let done = match operation {
            PeerOperation::Remove | PeerOperation::UpdateOnly => Ok(()),
            PeerOperation::PresharedKey(preshared) => device.set_preshared_key(key, preshared),
            PeerOperation::Endpoint(remote) => {
                device.set_endpoint(ctx, key, Some(Endpoint::new(remote)))
            }
            PeerOperation::Keepalive(seconds) => device.set_keepalive(ctx, key, seconds),
            PeerOperation::ReplaceAllowedIps => device.set_allowed_ips(key, &[]),
            PeerOperation::AddAllowedIp(network) => device.add_allowed_ip(key, network),
            PeerOperation::RemoveAllowedIp(network) => device.remove_allowed_ip(key, &network),
        };
        done.map_err(|_| Errno::EINVAL)?;
    }
    Ok(())
}
