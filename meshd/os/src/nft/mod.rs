//! nf_tables by netlink: one table of ours, put there whole, taken away, looked at, watched. No `nft` program is needed.
//!
//! Strategy: [`Table`] says what is wanted; `encode` turns it into the requests of one transaction, which the kernel takes
//! whole or not at all, so that no packet ever meets half a table. A table that is there already is replaced in place.
//!
//! Where the kernel can keep a table that has an owner after the owner is gone (flags `owner` and `persist` together, 6.9
//! and newer), the conversation that loaded the table owns it as long as it is open: nobody else's `nft flush ruleset`
//! touches it. An owner alone (5.12 and newer) would take the table along when it is killed, so it isn't used. Elsewhere,
//! or when the owner is gone, anybody with CAP_NET_ADMIN may flush it: [`NftEvents`] tells, and it can be put back.
//!
//! What it does not do: other families than `inet`, other hooks than forward and postrouting, frames that never pass there
//! (AF_PACKET).
//!
//! Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h, net/netfilter/{nfnetlink,nf_tables_api}.c.
mod encode;
mod table;
mod watch;

pub use table::{state, status, Chain, Hook, Match, Rule, Table, Verdict};
#[cfg(feature = "fuzzing")]
pub(crate) use watch::names;
pub use watch::NftEvents;

use crate::error::{Error, Result};
use crate::netlink::wire::{self, Message, Request};
use crate::netlink::{failure, receive, Netlink};
use crate::sys;
use std::fmt;
use std::io;
use std::os::fd::AsFd;

/// NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST.
const OWNER_PERSIST: u32 = 2 | 4;
/// Bytes of nfgenmsg.
const NFGENMSG: usize = 4;
/// Room for the transaction of a large mesh, and for an acknowledgement of each of its requests.
const SOCKET_BUFFER: i32 = 4 << 20;
/// Room for an answer; nf_tables sends no large ones to what we ask.
const BUFFER: usize = 16 << 10;

/// Why a table could not be loaded, deleted or looked at.
#[derive(Debug)]
pub enum NftError {
    /// The kernel has no nf_tables, or lacks a part of it that is needed.
    Missing,
    /// CAP_NET_ADMIN is missing.
    Forbidden,
    /// Another process owns a table of that name.
    Owned,
    /// Anything else.
    Failed(Error),
}

impl fmt::Display for NftError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("this kernel has no nf_tables"),
            Self::Forbidden => f.write_str("no permission to change nf_tables"),
            Self::Owned => f.write_str("another process owns the nf_tables table"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NftError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for NftError {
    fn from(error: Error) -> Self {
        match error.errno() {
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => Self::Missing,
            Some(libc::EACCES) => Self::Forbidden,
            _ => Self::Failed(error),
        }
    }
}

/// A conversation with nf_tables of the calling thread's network namespace, at the time of opening. It may own the table
/// it loads, so keep it open.
#[derive(Debug)]
pub struct Nft {
    netlink: Netlink,
}

/// What is there of a table: chains that are ours by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    chains: Vec<(Hook, FoundChain)>,
}

/// What is there of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundChain {
    rules: u32,
    drops: bool,
}

impl Found {
    /// Whether this can be `table`. It is a check against a flush, not against somebody who edits our rules with care.
    pub fn is_like(&self, table: &Table) -> bool {
        let wanted = table.chains.iter().map(|chain| {
            let (rules, drops) = (chain.rules.len() as u32, chain.drops);
            (chain.hook, FoundChain { rules, drops })
        });
        wanted.clone().all(|chain| self.chains.contains(&chain))
            && self.chains.len() == wanted.count()
    }
}

impl Nft {
    /// Opens the conversation.
    pub fn open() -> std::result::Result<Self, NftError> {
        let netlink = Netlink::with(libc::NETLINK_NETFILTER)?;
        for (forced, plain) in [
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        ] {
            // In a user namespace only the plain one is allowed; a small mesh fits the default.
            let fd = netlink.fd().as_fd();
            let _ = sys::setsockopt(fd, libc::SOL_SOCKET, forced, SOCKET_BUFFER)
                .or_else(|_| sys::setsockopt(fd, libc::SOL_SOCKET, plain, SOCKET_BUFFER));
        }
        Ok(Self { netlink })
    }

    /// Makes or replaces the table, all of it in one step. Says whether it is safe from others' flushes as long as this
    /// conversation is open.
    pub fn load(&self, table: &Table) -> std::result::Result<bool, NftError> {
        let what = format!("load nf_tables table {}", table.name);
        match self.transact(encode::load(table, OWNER_PERSIST), &what) {
            Ok(()) => Ok(true),
            // The flags are unknown, or the table is there without them.
            Err(e)
                if matches!(
                    e.errno(),
                    Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ERANGE)
                ) =>
            {
                self.transact(encode::load(table, 0), &what)
                    .map_err(refused)?;
                Ok(false)
            }
            Err(e) => Err(refused(e)),
        }
    }

    /// Whether a table of this kind could be loaded: all of it is made and taken away again in one step that nobody sees.
    pub fn try_load(&self, table: &Table) -> std::result::Result<(), NftError> {
        let mut requests = encode::load(table, 0);
        requests.push(encode::delete(&table.name));
        self.transact(requests, "try an nf_tables table")
            .map_err(refused)
    }

    /// Deletes the table `name`. It is no error when there is none.
    pub fn delete(&self, name: &str) -> std::result::Result<(), NftError> {
        let what = format!("delete nf_tables table {name}");
        match self.transact(vec![encode::delete(name)], &what) {
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(()),
            other => other.map_err(refused),
        }
    }

    /// What is there of the table `name`; `None`: none of our chains.
    pub fn find(&self, name: &str) -> std::result::Result<Option<Found>, NftError> {
        let mut chains = Vec::new();
        for hook in Hook::ALL {
            let mut request = message(libc::NFT_MSG_GETCHAIN, 0)
                .name(chain::TABLE, name)
                .name(chain::NAME, hook.chain());
            let each = &mut |m: Message<'_>| chains.extend(read(&m).map(|chain| (hook, chain)));
            match self.netlink.ask(&mut request, "look at nf_tables", each) {
                Err(e) if e.errno() == Some(libc::ENOENT) => {}
                other => drop(other.map_err(refused)?),
            }
        }
        Ok((!chains.is_empty()).then_some(Found { chains }))
    }

    /// Chains of anybody that drop what is forwarded, unless a rule of theirs accepts it: table (with its family) and name.
    pub fn forward_droppers(&self) -> Result<Vec<(String, String)>> {
        let kind = ((libc::NFNL_SUBSYS_NFTABLES as u16) << 8) | libc::NFT_MSG_GETCHAIN as u16;
        let every = [libc::AF_UNSPEC as u8, 0, 0, 0];
        let request = Request::new(kind, libc::NLM_F_DUMP, &every);
        let mut found = Vec::new();
        let what = "list chains of nf_tables";
        self.netlink.dump(request, what, &mut |m| match m {
            None => found.clear(),
            Some(m) => found.extend(read_forward_dropper(&m)),
        })?;
        Ok(found)
    }

    /// Sends requests that are carried out together or not at all.
    fn transact(&self, requests: Vec<Request>, what: &str) -> Result<()> {
        let begin = batch_mark(libc::NFNL_MSG_BATCH_BEGIN);
        let end = batch_mark(libc::NFNL_MSG_BATCH_END);
        let all = std::iter::once(begin).chain(requests).chain([end]);
        let mut bytes = Vec::new();
        for mut request in all {
            bytes.extend_from_slice(request.finish(self.netlink.next_sequence()));
        }
        let first = crate::netlink::wire::messages(&bytes)
            .next()
            .map_or(0, |m| m.sequence);
        let fail = |cause| Error::new(what, cause);
        let sent = sys::write(self.netlink.fd().as_fd(), &bytes).map_err(fail)?;
        if sent != bytes.len() {
            return Err(fail(io::Error::from(io::ErrorKind::WriteZero)));
        }
        self.outcome(first, what)
    }

    /// The outcome of a transaction. Every answer is queued when the write returns; which requests are acknowledged
    /// depends on the kernel, and the first error is the cause of the others.
    fn outcome(&self, first: u32, what: &str) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut answered = false;
        let mut error = None;
        while waiting(&self.netlink) {
            let n = receive(self.netlink.fd(), &mut buffer).map_err(|e| Error::new(what, e))?;
            let ours = |m: &Message<'_>| {
                m.sequence.wrapping_sub(first) < u32::MAX / 2
                    && i32::from(m.kind) == libc::NLMSG_ERROR
            };
            for answer in wire::messages(&buffer[..n]).filter(ours) {
                answered = true;
                if let (None, Some((errno, reason))) = (&error, answer.error()) {
                    error = Some(failure(what, errno, reason));
                }
            }
        }
        match error {
            Some(error) => Err(error),
            None if answered => Ok(()),
            None => Err(Error::malformed(what)),
        }
    }
}

/// Attributes of a chain (NFTA_CHAIN_…).
mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const USE: u16 = 6;
    /// NFTA_HOOK_HOOKNUM, inside `HOOK`.
    pub const HOOK_NUMBER: u16 = 1;
}

fn be32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// What a chain's description says.
pub(crate) fn read(message: &Message<'_>) -> Option<FoundChain> {
    let (_, attrs) = message.split(NFGENMSG)?;
    Some(FoundChain {
        rules: be32(attrs.get(chain::USE)?)?,
        drops: be32(attrs.get(chain::POLICY)?)? == 0,
    })
}

/// Table and name of a chain that drops what is forwarded.
pub(crate) fn read_forward_dropper(message: &Message<'_>) -> Option<(String, String)> {
    /// NF_INET_FORWARD.
    const FORWARD: u32 = 2;
    let (fixed, attrs) = message.split(NFGENMSG)?;
    let family = match libc::c_int::from(*fixed.first()?) {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        _ => return None,
    };
    let hook = attrs.nested(chain::HOOK)?.get(chain::HOOK_NUMBER)?;
    if be32(hook)? != FORWARD || be32(attrs.get(chain::POLICY)?)? != 0 {
        return None;
    }
    let table = format!("{family} {}", attrs.name(chain::TABLE)?);
    Some((table, attrs.name(chain::NAME)?.to_owned()))
}

fn waiting(netlink: &Netlink) -> bool {
    crate::events::wait_readable([netlink.fd().as_fd()], Some(std::time::Duration::ZERO))
        .is_ok_and(|[ready]| ready)
}

/// What the kernel's refusal means: EPERM is said both of a missing capability and of somebody else's table.
fn refused(error: Error) -> NftError {
    match error.errno() {
        // A part of nf_tables that isn't there: the family, the chain type, an expression.
        Some(libc::ENOENT) => NftError::Missing,
        Some(libc::EPERM) if may_change() => NftError::Owned,
        Some(libc::EPERM) => NftError::Forbidden,
        _ => error.into(),
    }
}

/// Whether this thread has CAP_NET_ADMIN: an empty transaction is allowed then.
fn may_change() -> bool {
    Nft::open().is_ok_and(|nft| {
        let nothing = nft.transact(Vec::new(), "");
        nothing.map_or_else(|e| e.errno() != Some(libc::EPERM), |()| true)
    })
}

/// A request to nf_tables about family `inet`.
fn message(kind: libc::c_int, flags: i32) -> Request {
    let kind = ((libc::NFNL_SUBSYS_NFTABLES as u16) << 8) | kind as u16;
    Request::new(kind, flags, &[libc::NFPROTO_INET as u8, 0, 0, 0])
}

/// The begin or end of a transaction; its resource is the subsystem, in network byte order.
fn batch_mark(kind: libc::c_int) -> Request {
    let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    Request::new(kind as u16, 0, &[libc::AF_UNSPEC as u8, 0, high, low])
}
