//! Socket addresses between Rust's form and C's.
use crate::sys;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// A C socket address of either family, sized for the larger.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union Address {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Address {
    /// Room for an address the kernel fills in.
    pub(super) const EMPTY: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// The largest length of any address held.
    pub(super) const MAX_LEN: libc::socklen_t = mem::size_of::<Self>() as libc::socklen_t;

    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const *self).cast()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut *self).cast()
    }

    fn family(&self) -> libc::c_int {
        // SAFETY: both members start with the family, and all 28 bytes are always initialised.
        libc::c_int::from(unsafe { self.family })
    }

    /// The true length of the address held.
    pub(super) fn len(&self) -> libc::socklen_t {
        if self.family() == libc::AF_INET {
            mem::size_of::<libc::sockaddr_in>() as libc::socklen_t
        } else {
            mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }

    /// Rust's form; `None` when the kernel left something else than IPv4 or IPv6 here.
    pub(super) fn to_rust(self) -> Option<SocketAddr> {
        match self.family() {
            libc::AF_INET => {
                // SAFETY: the family says IPv4, and every bit pattern of the member is valid.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says IPv6, and every bit pattern of the member is valid.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

impl From<&SocketAddr> for Address {
    fn from(from: &SocketAddr) -> Self {
        let mut address = Self::EMPTY;
        match from {
            SocketAddr::V4(a) => {
                address.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: a.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(a.ip().octets()),
                    },
                    sin_zero: [0; 8],
                }
            }
            SocketAddr::V6(a) => {
                address.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: a.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: a.ip().octets(),
                    },
                    sin6_scope_id: a.scope_id(),
                }
            }
        }
        address
    }
}

/// The address a socket is bound to.
pub(super) fn local(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut address = Address::EMPTY;
    let mut len = Address::MAX_LEN;
    // SAFETY: `address` and `len` are live and `len` is the room in `address`.
    sys::check(unsafe { libc::getsockname(fd.as_raw_fd(), address.as_mut_ptr(), &mut len) })?;
    address
        .to_rust()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:7", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let c = Address::from(&address);
            assert_eq!(c.to_rust(), Some(address));
            assert_eq!(c.len(), if address.is_ipv4() { 16 } else { 28 });
        }
        assert_eq!(Address::EMPTY.to_rust(), None);
    }
}
