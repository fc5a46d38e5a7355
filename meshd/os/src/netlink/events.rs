//! What happens to links, and to the switches of forwarding: told by the kernel as it happens.
use super::link::{self, Link};
use super::{bind, receive, wire, BUFFER};
use crate::error::{Context, Error, Result};
use crate::sys;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Groups of rtnetlink(7): links; addresses, routes, policy rules and switches of both families.
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE
    | 1 << (libc::RTNLGRP_IPV4_RULE - 1)
    | 1 << (libc::RTNLGRP_IPV6_RULE - 1)
    | 1 << (libc::RTNLGRP_IPV4_NETCONF - 1)
    | 1 << (libc::RTNLGRP_IPV6_NETCONF - 1);

/// Something that happened in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A link is new or changed: compare name, MTU and state with what was known of that index.
    Changed(Link),
    /// A link was deleted.
    Deleted {
        /// Its number while it lived.
        index: u32,
    },
    /// A link left for another network namespace; it lives on there.
    Moved {
        /// Its number while it was here.
        index: u32,
    },
    /// Addresses, routes or policy rules changed somewhere: source addresses and path MTUs may have too.
    Routing,
    /// One of the `net.ipv4.conf` or `net.ipv6.conf` switches was turned by sysctl, forwarding maybe (devinet.c, addrconf.c:
    /// `RTM_NEWNETCONF`). Turning one by netlink isn't told.
    Switches,
    /// Events were lost: look at everything anew.
    Lost,
}

/// A subscription. Readable when an event waits.
#[derive(Debug)]
pub struct LinkEvents {
    fd: OwnedFd,
    buffer: Vec<u8>,
    waiting: VecDeque<LinkEvent>,
}

impl LinkEvents {
    /// Subscribes in the network namespace of the calling thread.
    pub fn subscribe() -> Result<Self> {
        let what = || "subscribe to link events";
        let fd = sys::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_NONBLOCK,
            libc::NETLINK_ROUTE,
        )
        .context(what)?;
        bind(&fd, GROUPS as u32).context(what)?;
        Ok(Self::adopt(fd))
    }

    /// Goes on with a subscription that somebody else made, in another namespace maybe.
    pub fn adopt(fd: OwnedFd) -> Self {
        Self {
            fd,
            buffer: vec![0; BUFFER],
            waiting: VecDeque::new(),
        }
    }

    /// The socket, to be handed on.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The next event, or `None` when none waits. Doesn't block. No iterator: there are more events later.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<LinkEvent>> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            match receive(&self.fd, &mut self.buffer) {
                Ok(n) => self
                    .waiting
                    .extend(wire::messages(&self.buffer[..n]).filter_map(event)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // Events were lost, or one was too large: a route with thousands of next hops, say.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(Some(LinkEvent::Lost))
                }
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    return Ok(Some(LinkEvent::Lost))
                }
                Err(e) => return Err(Error::new("read link events", e)),
            }
            // A storm of route changes is one event, and so is one of switches.
            for storm in [LinkEvent::Routing, LinkEvent::Switches] {
                if self.waiting.iter().all(|event| *event == storm) {
                    self.waiting.truncate(1);
                }
            }
        }
    }
}

impl AsFd for LinkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) fn event(message: wire::Message<'_>) -> Option<LinkEvent> {
    match message.kind {
        libc::RTM_NEWLINK => link::parse(message).map(LinkEvent::Changed),
        libc::RTM_DELLINK => {
            let (fixed, attrs) = message.split(link::IFINFO)?;
            // A bridge or IPv6 telling that it let go of a link sends the same message with its own family.
            if fixed[0] != libc::AF_UNSPEC as u8 {
                return None;
            }
            let index = wire::u32_at(fixed, 4)?;
            let moved = attrs.get(libc::IFLA_NEW_NETNSID).is_some();
            Some(if moved {
                LinkEvent::Moved { index }
            } else {
                LinkEvent::Deleted { index }
            })
        }
        libc::RTM_NEWADDR
        | libc::RTM_DELADDR
        | libc::RTM_NEWROUTE
        | libc::RTM_DELROUTE
        | libc::RTM_NEWRULE
        | libc::RTM_DELRULE => Some(LinkEvent::Routing),
        libc::RTM_NEWNETCONF => Some(LinkEvent::Switches),
        _ => None,
    }
}
