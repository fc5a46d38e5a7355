//! rtnetlink: links, addresses, routes, and what happens to links.
//!
//! Strategy: one request, its answers, its acknowledgement, on one blocking socket; no cache, no threads, no shelling out.
//! `wire` builds and reads messages in safe code; the files beside it hold one noun each. Requests carry the kernel's own
//! explanation in their error where it gives one (NETLINK_EXT_ACK). Whether an object that is already there, or already
//! gone, is an error is the caller's business: the errno is in the error.
//!
//! Source: rtnetlink(7), include/uapi/linux/{netlink,rtnetlink,if_link,if_addr}.h.
mod address;
mod events;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod link;
mod route;
mod rule;
pub(crate) mod wire;

pub use address::IfAddress;
pub use events::{LinkEvent, LinkEvents};
pub use link::Link;
pub use route::{Route, RouteKind, RouteTo, PROTO_BOOT, PROTO_KERNEL, PROTO_STATIC, TABLE_MAIN};
pub use rule::{Family, Rule, RuleAction, TABLE_LOCAL};

use crate::error::{Context, Error, Result};
use crate::sys::{self, Zeroed};
use std::cell::Cell;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use wire::{Message, Request};

/// Room for the largest message the kernel sends in a dump (it fills at most 32 KiB at a time).
const BUFFER: usize = 32 << 10;
/// How often a list that changes while it is told is asked for.
const DUMPS: usize = 10;

/// A conversation with the kernel of this thread's network namespace, at the time of opening.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    sequence: Cell<u32>,
}

impl Netlink {
    /// Opens the conversation. It stays with its namespace when the process moves on.
    pub fn open() -> Result<Self> {
        Self::with(libc::NETLINK_ROUTE)
    }

    /// Goes on with a conversation that somebody else opened, in another namespace maybe. Whoever had it before may have died
    /// between a question and its answer, which is thrown away: its number could be that of a question of ours, and while a
    /// dump waits to be read the kernel begins no other (EBUSY, net/netlink/af_netlink.c `__netlink_dump_start`).
    pub fn adopt(fd: OwnedFd) -> Result<Self> {
        drain(&fd).context(|| "go on with a netlink socket")?;
        Ok(Self {
            fd,
            sequence: Cell::new(0),
        })
    }

    /// Opens a conversation with another part of the kernel (NETLINK_…).
    pub(crate) fn with(protocol: libc::c_int) -> Result<Self> {
        let what = || "open a netlink socket";
        let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol).context(what)?;
        // Both are refinements older kernels may lack: explanations in errors, and dumps filtered by the kernel.
        for option in [
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_GET_STRICT_CHK,
            libc::NETLINK_CAP_ACK,
        ] {
            let _ = sys::setsockopt(fd.as_fd(), libc::SOL_NETLINK, option, 1i32);
        }
        bind(&fd, 0).context(what)?;
        Ok(Self {
            fd,
            sequence: Cell::new(0),
        })
    }

    /// The number of the next request.
    pub(crate) fn next_sequence(&self) -> u32 {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        sequence
    }

    /// The socket, to be handed on.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The socket itself.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Asks for a list and hands its messages to `each`, where `None` begins it anew: what changes while it is told is asked for
    /// again, since parts of it may be missing, or be there twice.
    pub(crate) fn dump(
        &self,
        mut request: Request,
        what: &str,
        each: &mut dyn FnMut(Option<Message<'_>>),
    ) -> Result<()> {
        for _ in 0..DUMPS {
            if self.ask(&mut request, what, &mut |m| each(Some(m)))? {
                return Ok(());
            }
            each(None);
        }
        Err(failure(what, libc::EAGAIN, Some("it keeps changing")))
    }

    /// Sends a request and hands every answer to `each`, until the kernel's acknowledgement or end of the dump. False: the dump
    /// isn't whole.
    #[inline(never)] // it is long, and `dump` would hold another one
    pub(crate) fn ask(
        &self,
        request: &mut Request,
        what: &str,
        each: &mut dyn FnMut(Message<'_>),
    ) -> Result<bool> {
        let mut whole = true;
        let sequence = self.next_sequence();
        let bytes = request.finish(sequence);
        sys::write(self.fd.as_fd(), bytes).context(|| what)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = receive(&self.fd, &mut buffer).context(|| what)?;
            for message in wire::messages(&buffer[..n]) {
                // Answers to an earlier request that failed half-way.
                if message.sequence != sequence {
                    continue;
                }
                whole &= i32::from(message.flags) & libc::NLM_F_DUMP_INTR == 0;
                match message.kind as libc::c_int {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        return match message.error() {
                            None => Ok(whole),
                            Some((errno, reason)) => Err(failure(what, errno, reason)),
                        };
                    }
                    _ => each(message),
                }
            }
        }
    }

    /// A change that the kernel only acknowledges.
    fn change(&self, mut request: Request, what: &str) -> Result<()> {
        self.ask(&mut request, what, &mut |_| {}).map(drop)
    }
}

pub(crate) fn failure(what: &str, errno: i32, reason: Option<&str>) -> Error {
    let what = match reason {
        Some(reason) => format!("{what} ({reason})"),
        None => what.to_owned(),
    };
    Error::new(what, io::Error::from_raw_os_error(errno))
}

pub(crate) fn bind(fd: &OwnedFd, groups: u32) -> io::Result<()> {
    let mut address = libc::sockaddr_nl::zeroed();
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    let len = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: `address` is live and of the length passed.
    sys::check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// Reads what waits, until nothing does.
fn drain(fd: &OwnedFd) -> io::Result<()> {
    let mut byte = [0];
    loop {
        let read = sys::retry(|| {
            // SAFETY: the pointer and length describe `byte`; the kernel drops what doesn't fit.
            sys::check_len(unsafe {
                libc::recv(
                    fd.as_raw_fd(),
                    byte.as_mut_ptr().cast(),
                    byte.len(),
                    libc::MSG_DONTWAIT,
                )
            })
        });
        match read {
            // 0 is no end here: nobody sends an empty datagram, and none is waited for.
            Ok(_) => {}
            // More came than there was room for, which is told once; the rest still waits.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// One datagram of messages. MSG_TRUNC tells a cut one apart, which must not be taken for the whole.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let n = sys::retry(|| {
        // SAFETY: the pointer and length describe `buffer`, which is exclusively borrowed.
        sys::check_len(unsafe {
            libc::recv(
                fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC,
            )
        })
    })?;
    if n > buffer.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok(n)
}

/// A test in a namespace of its own, in a thread that ends with it.
#[cfg(test)]
fn alone(test: impl FnOnce(Netlink) + Send + 'static) {
    let run = || match crate::namespace::unshare() {
        Ok(()) => test(Netlink::open().unwrap()),
        Err(error) => eprintln!("skipped: no network namespace of its own: {error}"),
    };
    std::thread::spawn(run).join().unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no right: every process may ask for links.
    #[test]
    fn answers_to_who_had_the_conversation_before_are_not_taken_for_ours() {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().expect("every namespace has it");
        // A predecessor dies with a change and a dump of everything on their way, numbered as ours will be.
        let fd = netlink.into_fd();
        let mut change = Request::new(libc::RTM_DELLINK, 0, &[0; 16]);
        let mut dump = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; 8]);
        for (request, sequence) in [(&mut change, 1), (&mut dump, 2)] {
            sys::write(fd.as_fd(), request.finish(sequence)).unwrap();
        }
        let netlink = Netlink::adopt(fd).unwrap();
        assert_eq!(netlink.link("lo").unwrap(), Some(lo.clone()));
        netlink.addresses(lo.index).unwrap();
    }

    /// A kernel that changes its list of addresses under the first dumps of it, and then tells it whole.
    fn changing(dumps: usize) -> Result<Vec<IfAddress>> {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let wait = Some(std::time::Duration::from_secs(5));
        theirs.set_read_timeout(wait).unwrap();
        let kernel = std::thread::spawn(move || {
            let mut request = [0; 256];
            for number in 0..DUMPS.min(dumps + 1) {
                theirs.recv(&mut request).unwrap();
                let sequence = u32::from_ne_bytes(request[8..12].try_into().unwrap());
                let interrupted = if number < dumps {
                    libc::NLM_F_DUMP_INTR
                } else {
                    0
                };
                let body = [2, 24, 0, 0, 7, 0, 0, 0];
                let address = Request::new(libc::RTM_NEWADDR, 0, &body)
                    .ip(libc::IFA_LOCAL, [10, 0, 0, number as u8].into());
                let done = Request::new(libc::NLMSG_DONE as u16, interrupted, &[0; 4]);
                for mut message in [address, done] {
                    theirs.send(message.finish(sequence)).unwrap();
                }
            }
        });
        let netlink = Netlink::adopt(ours.into()).unwrap();
        let addresses = netlink.addresses(7);
        kernel.join().expect("it is asked as often as it changes");
        addresses
    }

    #[test]
    fn a_list_that_changed_while_it_was_told_is_asked_for_again() {
        for dumps in [0, 3] {
            let addresses = changing(dumps).unwrap();
            let ip = [10, 0, 0, dumps as u8].into();
            assert_eq!(addresses, [IfAddress { ip, prefix: 24 }]);
        }
        let error = changing(DUMPS).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EAGAIN), "{error}");
    }
}
