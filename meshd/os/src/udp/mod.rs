//! The outer UDP sockets: one for IPv4 and one for IPv6 on the same port.
//!
//! Strategy: as kernel WireGuard does, two sockets without SO_REUSEADDR, so that a port in use is an error and never shared;
//! the outer packet may be fragmented (no DF), since the tunnel's own MTU is what keeps it small. Sending hands a run of
//! equal-sized datagrams to the kernel in one call (`send`), receiving takes several merged runs in one call (`recv`); both
//! work packet by packet where the kernel, the device or the path can't, without the caller noticing more than the time.
//!
//! Source: udp(7), ip(7), ipv6(7), include/uapi/linux/udp.h; WireGuard's drivers/net/wireguard/socket.c.
mod address;
mod recv;
mod send;

pub use recv::{Datagram, RecvBatch};
pub use send::{Sent, MAX_SEGMENTS, MAX_SEND};

use crate::error::{Context, Error, Result};
use crate::sys;
use address::Address;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The local address a datagram arrived at, and through which link. Replies leave from the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The datagram's destination address.
    pub ip: IpAddr,
    /// The link it arrived on.
    pub ifindex: u32,
}

/// What to ask of a pair of sockets.
#[derive(Clone, Copy, Debug)]
pub struct UdpOptions {
    /// UDP port; 0 lets the kernel choose one that is free for both families.
    pub port: u16,
    /// SO_MARK; 0 is none.
    pub mark: u32,
    /// Receive buffer in bytes; the kernel's limit (net.core.rmem_max) is overridden when permitted.
    pub receive_buffer: usize,
    /// Send buffer in bytes: what may queue below this process, about a millisecond of a fast link by default. A sender that
    /// waits for room then leaves the rest where it can still be dropped.
    pub send_buffer: usize,
    /// Let the kernel merge what arrives (UDP_GRO).
    pub gro: bool,
    /// Let the kernel segment what leaves (UDP_SEGMENT).
    pub gso: bool,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self {
            port: 0,
            mark: 0,
            receive_buffer: 4 << 20,
            send_buffer: 256 << 10,
            gro: true,
            gso: true,
        }
    }
}

/// One bound, non-blocking UDP socket of one address family.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    local: SocketAddr,
    gro: bool,
    gso: bool,
}

/// The sockets of both families on one port. A kernel without one of the families leaves that one out.
#[derive(Debug)]
pub struct UdpPair {
    /// IPv4.
    pub v4: Option<UdpSocket>,
    /// IPv6, and only IPv6 (IPV6_V6ONLY).
    pub v6: Option<UdpSocket>,
    /// The port of both.
    pub port: u16,
}

/// How often a port chosen for IPv4 is tried for IPv6 before giving up, as the kernel's WireGuard does.
const PORT_TRIES: usize = 100;

impl UdpPair {
    /// Binds both families to the port of `options`. `AddrInUse` when another program has it.
    pub fn bind(options: &UdpOptions) -> Result<Self> {
        let mut tries = 0;
        loop {
            let v4 = supported(UdpSocket::bind(Ipv4Addr::UNSPECIFIED.into(), options))?;
            let port = v4.as_ref().map_or(options.port, UdpSocket::port);
            match supported(UdpSocket::bind(
                Ipv6Addr::UNSPECIFIED.into(),
                &UdpOptions { port, ..*options },
            )) {
                // The port that was free for IPv4 was not for IPv6: ask for another.
                Err(e)
                    if e.kind() == io::ErrorKind::AddrInUse
                        && options.port == 0
                        && tries < PORT_TRIES =>
                {
                    tries += 1
                }
                Err(e) => return Err(e),
                Ok(None) if v4.is_none() => {
                    return Err(Error::new(
                        "bind UDP sockets",
                        io::Error::from_raw_os_error(libc::EAFNOSUPPORT),
                    ));
                }
                Ok(v6) => {
                    let port = v6.as_ref().map_or(port, UdpSocket::port);
                    return Ok(Self { v4, v6, port });
                }
            }
        }
    }

    /// Takes over the sockets of a predecessor, one or two of different families on one port.
    pub fn adopt(fds: impl IntoIterator<Item = OwnedFd>, options: &UdpOptions) -> Result<Self> {
        let mut pair = Self {
            v4: None,
            v6: None,
            port: 0,
        };
        for fd in fds {
            let socket = UdpSocket::adopt(fd, options)?;
            let place = if socket.is_ipv4() {
                &mut pair.v4
            } else {
                &mut pair.v6
            };
            let known = pair.port;
            if place.is_some() || known != 0 && known != socket.port() {
                return Err(not_a_pair());
            }
            pair.port = socket.port();
            *place = Some(socket);
        }
        if pair.port == 0 {
            return Err(not_a_pair());
        }
        Ok(pair)
    }

    /// Binds `count` pairs, at least one, to the same port. The kernel shares out what arrives among them by sender, so that
    /// what comes from one endpoint comes to one pair, in order.
    ///
    /// The first pair is bound without SO_REUSEPORT: a port in use is an error here too. Once there are several, a program of
    /// the same user could join them by asking for SO_REUSEPORT; of other users none can.
    pub fn bind_several(options: &UdpOptions, count: usize) -> Result<Vec<Self>> {
        let first = Self::bind(options)?;
        let port = first.port;
        let mut pairs = vec![first];
        if count > 1 {
            pairs[0].iter().try_for_each(UdpSocket::share_port)?;
        }
        let more = UdpOptions { port, ..*options };
        for _ in 1..count {
            let another = |ip: IpAddr| UdpSocket::bind_as(ip, &more, true);
            let [v4, v6] = [&pairs[0].v4, &pairs[0].v6].map(Option::is_some);
            let pair = Self {
                v4: v4
                    .then(|| another(Ipv4Addr::UNSPECIFIED.into()))
                    .transpose()?,
                v6: v6
                    .then(|| another(Ipv6Addr::UNSPECIFIED.into()))
                    .transpose()?,
                port,
            };
            pairs.push(pair);
        }
        Ok(pairs)
    }

    /// The socket that reaches `to`.
    pub fn towards(&self, to: &SocketAddr) -> Option<&UdpSocket> {
        if to.is_ipv4() {
            self.v4.as_ref()
        } else {
            self.v6.as_ref()
        }
    }

    /// Both sockets, as far as they exist.
    pub fn iter(&self) -> impl Iterator<Item = &UdpSocket> {
        self.v4.iter().chain(self.v6.iter())
    }

    /// Marks what both sockets send from now on.
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        self.iter().try_for_each(|socket| socket.set_mark(mark))
    }
}

fn not_a_pair() -> Error {
    Error::new(
        "adopt UDP sockets",
        io::Error::from(io::ErrorKind::InvalidInput),
    )
}

/// `None` for a family this kernel doesn't have or was told not to use.
fn supported(socket: Result<UdpSocket>) -> Result<Option<UdpSocket>> {
    match socket {
        Ok(socket) => Ok(Some(socket)),
        Err(e) if matches!(e.errno(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => Ok(None),
        Err(e) => Err(e),
    }
}

impl UdpSocket {
    /// Binds one family: `ip` is an unspecified (or, for tests, a local) address.
    pub fn bind(ip: IpAddr, options: &UdpOptions) -> Result<Self> {
        Self::bind_as(ip, options, false)
    }

    /// `shared`: on a port that a pair of ours has and shares.
    fn bind_as(ip: IpAddr, options: &UdpOptions, shared: bool) -> Result<Self> {
        let local = SocketAddr::new(ip, options.port);
        let what = || format!("bind UDP socket {local}");
        let family = if ip.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let fd = sys::socket(family, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0).context(what)?;
        let fd_ref = fd.as_fd();
        if ip.is_ipv6() {
            sys::setsockopt(fd_ref, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1i32).context(what)?;
        }
        // Before bind, so that no packet comes in unmerged or without its destination address.
        let gro =
            options.gro && sys::setsockopt(fd_ref, libc::SOL_UDP, libc::UDP_GRO, 1i32).is_ok();
        configure(fd_ref, ip.is_ipv4(), options).context(what)?;
        if options.mark != 0 {
            set_mark(fd_ref, options.mark)?;
        }
        if shared {
            reuse_port(fd_ref).context(what)?;
        }
        let address = Address::from(&local);
        // SAFETY: `address` is a live socket address of the length passed.
        sys::check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr(), address.len()) })
            .context(what)?;
        Self::with_fd(fd, gro, options.gso)
    }

    /// Takes over a bound socket of a predecessor. Whether it merges stays as it is: switching UDP_GRO while packets are
    /// queued would lose them. So does its mark.
    pub fn adopt(fd: OwnedFd, options: &UdpOptions) -> Result<Self> {
        let what = || "adopt a UDP socket";
        let kind =
            sys::getsockopt_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE).context(what)?;
        let protocol =
            sys::getsockopt_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_PROTOCOL).context(what)?;
        if kind != libc::SOCK_DGRAM || protocol != libc::IPPROTO_UDP {
            return Err(Error::new(
                what(),
                io::Error::from(io::ErrorKind::InvalidInput),
            ));
        }
        let gro =
            sys::getsockopt_int(fd.as_fd(), libc::SOL_UDP, libc::UDP_GRO).is_ok_and(|v| v != 0);
        let socket = Self::with_fd(fd, gro, options.gso)?;
        configure(socket.as_fd(), socket.local.is_ipv4(), options).context(what)?;
        Ok(socket)
    }

    fn with_fd(fd: OwnedFd, gro: bool, gso: bool) -> Result<Self> {
        let local = address::local(fd.as_fd()).context(|| "ask a UDP socket's address")?;
        let gso = gso && sys::getsockopt_int(fd.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
        Ok(Self {
            fd,
            local,
            gro,
            gso,
        })
    }

    /// Lets sockets that are bound from now on join this one on its port (net/ipv4/udp.c, udp_reuseport_add_sock).
    fn share_port(&self) -> Result<()> {
        reuse_port(self.as_fd()).context(|| "share a UDP port among threads")
    }

    /// The bound port.
    pub fn port(&self) -> u16 {
        self.local.port()
    }

    /// Whether this is the IPv4 socket.
    pub fn is_ipv4(&self) -> bool {
        self.local.is_ipv4()
    }

    /// Whether the kernel merges what arrives.
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Whether the kernel can segment what leaves (a path may still refuse).
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// Marks what this socket sends from now on (SO_MARK; CAP_NET_ADMIN). 0 takes the mark away.
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        set_mark(self.as_fd(), mark)
    }

    /// What its packets are marked with (SO_MARK); 0: they aren't.
    pub fn mark(&self) -> Result<u32> {
        sys::getsockopt_int(self.as_fd(), libc::SOL_SOCKET, libc::SO_MARK)
            .map(|mark| mark as u32)
            .context(|| "ask a UDP socket's mark")
    }

    /// Sets the receive buffer to `size` bytes, or to what the kernel's limit allows.
    pub fn set_receive_buffer(&self, size: usize) -> Result<()> {
        set_buffer(self.as_fd(), libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, size)
            .context(|| "set a UDP socket's buffer")
    }

    /// Sizes of the receive and the send buffer in bytes, as the kernel counts them (twice what was asked for).
    pub fn buffers(&self) -> io::Result<(usize, usize)> {
        let get =
            |name| sys::getsockopt_int(self.as_fd(), libc::SOL_SOCKET, name).map(|n| n as usize);
        Ok((get(libc::SO_RCVBUF)?, get(libc::SO_SNDBUF)?))
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn reuse_port(fd: BorrowedFd<'_>) -> io::Result<()> {
    sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1i32)
}

fn set_mark(fd: BorrowedFd<'_>, mark: u32) -> Result<()> {
    sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_MARK, mark)
        .context(|| format!("mark a UDP socket 0x{mark:x}"))
}

/// Everything but GRO and the mark: destination address and ECN with each packet, fragmenting allowed, buffer sizes.
fn configure(fd: BorrowedFd<'_>, ipv4: bool, options: &UdpOptions) -> io::Result<()> {
    if ipv4 {
        sys::setsockopt(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1i32)?;
        sys::setsockopt(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1i32)?;
        sys::setsockopt(
            fd,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        )?;
    } else {
        sys::setsockopt(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1i32)?;
        sys::setsockopt(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1i32)?;
        sys::setsockopt(
            fd,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        )?;
    }
    let buffers = [
        (
            libc::SO_RCVBUFFORCE,
            libc::SO_RCVBUF,
            options.receive_buffer,
        ),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer),
    ];
    for (force, plain, size) in buffers {
        set_buffer(fd, force, plain, size)?;
    }
    Ok(())
}

fn set_buffer(
    fd: BorrowedFd<'_>,
    force: libc::c_int,
    plain: libc::c_int,
    size: usize,
) -> io::Result<()> {
    let size = i32::try_from(size).unwrap_or(i32::MAX / 2);
    // Forcing needs CAP_NET_ADMIN in the first user namespace; a smaller buffer is only slower.
    sys::setsockopt(fd, libc::SOL_SOCKET, force, size)
        .or_else(|_| sys::setsockopt(fd, libc::SOL_SOCKET, plain, size))
}
