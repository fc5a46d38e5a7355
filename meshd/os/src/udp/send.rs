//! Sending a run of equal-sized datagrams to one endpoint in one system call.
//!
//! Strategy: UDP_SEGMENT lets the kernel cut one buffer into datagrams of `stride` bytes. Where it refuses (EIO: the device
//! can't sum; EINVAL, EMSGSIZE: a segment is larger than the path's MTU, which segmentation never fragments) the same bytes
//! go out one datagram each by sendmmsg, and the answer says so, for the caller to remember per endpoint. A source address
//! that is no longer ours is left out, and the answer says that too.
//!
//! Source: udp(7) UDP_SEGMENT, net/ipv4/udp.c udp_send_skb, net/ipv4/route.c ip_route_output_key_hash.
use super::address::Address;
use super::{Source, UdpSocket};
use crate::sys::{self, Zeroed};
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

/// Most datagrams the kernel cuts from one buffer (UDP_MAX_SEGMENTS of kernels before 6.5; later ones take 128).
pub const MAX_SEGMENTS: usize = 64;
/// Most bytes in one buffer: the largest UDP payload over IPv4.
pub const MAX_SEND: usize = 65507;

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Bytes that left, whole datagrams from the start of the run. Less than asked when the socket's buffer filled up.
    pub bytes: usize,
    /// The kernel would not segment towards this endpoint: don't ask again soon.
    pub segmenting_refused: bool,
    /// The source address was refused: forget it.
    pub source_refused: bool,
}

impl UdpSocket {
    /// Sends `buf` as datagrams of `stride` bytes, the last one possibly shorter, to `to`, from `source` when given, with the
    /// two ECN bits `ecn`. `segment` permits the kernel to cut. At most [`MAX_SEGMENTS`] datagrams and [`MAX_SEND`] bytes of
    /// the run are sent. `WouldBlock` when not even the first had room.
    pub fn send(
        &self,
        buf: &[u8],
        stride: usize,
        to: &SocketAddr,
        source: Option<&Source>,
        ecn: u8,
        segment: bool,
    ) -> io::Result<Sent> {
        if buf.is_empty() || stride == 0 {
            return Ok(Sent {
                bytes: 0,
                segmenting_refused: false,
                source_refused: false,
            });
        }
        let room = (MAX_SEND / stride).clamp(1, MAX_SEGMENTS) * stride;
        let run = &buf[..buf.len().min(room)];
        let several = run.len() > stride;
        let to = Address::from(to);
        let mut way = Way {
            source: source.is_some(),
            segment: segment && several && self.gso,
        };
        let first = way;
        loop {
            let mut control = Control::new();
            if let Some(source) = source.filter(|_| way.source) {
                control.push_source(source);
            }
            if ecn & 3 != 0 {
                control.push_ecn(ecn & 3, self.is_ipv4());
            }
            let result = if several && !way.segment {
                self.send_each(run, stride, &to, &control)
            } else {
                if way.segment {
                    control.push_segment(stride);
                }
                self.send_one(run, &to, &control)
            };
            match result {
                Ok(bytes) => {
                    return Ok(Sent {
                        bytes,
                        segmenting_refused: first.segment && !way.segment,
                        source_refused: first.source && !way.source,
                    });
                }
                Err(e) => way = way.next(first, &e).ok_or(e)?,
            }
        }
    }

    fn send_one(&self, run: &[u8], to: &Address, control: &Control) -> io::Result<usize> {
        let mut iov = libc::iovec {
            iov_base: run.as_ptr().cast_mut().cast(),
            iov_len: run.len(),
        };
        let msg = message(&mut iov, to, control);
        sys::retry(|| {
            // SAFETY: `msg` points at `iov`, `to`, `control` and through `iov` at `run`, all live; the kernel only reads.
            sys::check_len(unsafe { libc::sendmsg(self.fd.as_raw_fd(), &msg, libc::MSG_NOSIGNAL) })
        })
    }

    fn send_each(
        &self,
        run: &[u8],
        stride: usize,
        to: &Address,
        control: &Control,
    ) -> io::Result<usize> {
        let empty = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut iovs = [empty; MAX_SEGMENTS];
        let mut msgs = [libc::mmsghdr::zeroed(); MAX_SEGMENTS];
        let mut count = 0;
        for ((chunk, iov), msg) in run.chunks(stride).zip(&mut iovs).zip(&mut msgs) {
            *iov = libc::iovec {
                iov_base: chunk.as_ptr().cast_mut().cast(),
                iov_len: chunk.len(),
            };
            msg.msg_hdr = message(iov, to, control);
            count += 1;
        }
        let sent = sys::retry(|| {
            // SAFETY: the first `count` entries of `msgs` point at `iovs`, `to`, `control` and `run`, all live; the kernel
            // reads them and writes only `msg_len`.
            // Not by libc's function: musl's is a loop of sendmsg. The padding between fields is zero, as the kernel wants.
            sys::check_len(unsafe {
                libc::syscall(
                    libc::SYS_sendmmsg,
                    self.fd.as_raw_fd(),
                    msgs.as_mut_ptr(),
                    count,
                    libc::MSG_NOSIGNAL,
                ) as isize
            })
        })?;
        Ok((sent * stride).min(run.len()))
    }
}

fn message(iov: &mut libc::iovec, to: &Address, control: &Control) -> libc::msghdr {
    let mut msg = libc::msghdr::zeroed();
    msg.msg_name = to.as_ptr().cast_mut().cast();
    msg.msg_namelen = to.len();
    msg.msg_iov = iov;
    msg.msg_iovlen = 1;
    if control.len > 0 {
        msg.msg_control = control.buf.as_ptr().cast_mut().cast();
        msg.msg_controllen = control.len as _;
    }
    msg
}

/// One way of sending a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    source: bool,
    segment: bool,
}

impl Way {
    /// The next way to try after `error`, or `None` when no other way can help.
    fn next(self, first: Self, error: &io::Error) -> Option<Self> {
        let without_source = self.source.then_some(Self {
            source: false,
            ..self
        });
        let unsegmented = self.segment.then_some(Self {
            source: first.source,
            segment: false,
        });
        match error.raw_os_error() {
            // Either can be the reason: the source first, since old segments above the MTU are rarer than moved addresses.
            Some(libc::EINVAL) => without_source.or(unsegmented),
            Some(libc::EIO | libc::EMSGSIZE) => unsegmented,
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL | libc::ENODEV) => {
                without_source
            }
            _ => None,
        }
    }
}

/// Control messages of one send: at most source, ECN and segment size.
#[repr(C, align(8))]
struct Control {
    buf: [u8; 96],
    len: usize,
}

impl Control {
    fn new() -> Self {
        Self {
            buf: [0; 96],
            len: 0,
        }
    }

    /// Appends one control message holding `value`.
    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = mem::size_of::<T>() as libc::c_uint;
        // SAFETY: both macros only compute on integers.
        let (space, len, data) = unsafe {
            (
                libc::CMSG_SPACE(size) as usize,
                libc::CMSG_LEN(size) as usize,
                libc::CMSG_LEN(0) as usize,
            )
        };
        let end = self.len + space;
        debug_assert!(
            end <= self.buf.len(),
            "room for the three messages there are"
        );
        if end > self.buf.len() {
            return;
        }
        let at = self.buf[self.len..end].as_mut_ptr();
        // SAFETY: `at` has `space` = CMSG_SPACE(size) bytes of room (checked above), is aligned to 8 because the buffer is
        // and every CMSG_SPACE is a multiple of 8, and the header (16 bytes) and then the value fit in it.
        unsafe {
            let header = at.cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = len as _;
            at.add(data).cast::<T>().write_unaligned(value);
        }
        self.len = end;
    }

    /// The address alone, not the link: the link would overrule routing when the way out has changed since.
    fn push_source(&mut self, source: &Source) {
        match source.ip {
            IpAddr::V4(ip) => {
                let local = libc::in_addr {
                    s_addr: u32::from_ne_bytes(ip.octets()),
                };
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: local,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            IpAddr::V6(ip) => {
                // A link-local address means nothing without its link.
                let scoped = ip.segments()[0] & 0xffc0 == 0xfe80;
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: ip.octets(),
                    },
                    ipi6_ifindex: if scoped { source.ifindex } else { 0 },
                };
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }

    fn push_ecn(&mut self, ecn: u8, ipv4: bool) {
        let (level, kind) = if ipv4 {
            (libc::IPPROTO_IP, libc::IP_TOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        };
        self.push(level, kind, libc::c_int::from(ecn));
    }

    fn push_segment(&mut self, stride: usize) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, stride as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(source: bool, segment: bool, errno: i32) -> Vec<(bool, bool)> {
        let first = Way { source, segment };
        let error = io::Error::from_raw_os_error(errno);
        let next = |way: &Way| way.next(first, &error);
        std::iter::successors(Some(first), next)
            .map(|w| (w.source, w.segment))
            .collect()
    }

    #[test]
    fn each_error_has_its_ways_out_and_they_end() {
        assert_eq!(
            ways(true, true, libc::EINVAL),
            [(true, true), (false, true), (true, false), (false, false)]
        );
        assert_eq!(ways(true, true, libc::EIO), [(true, true), (true, false)]);
        assert_eq!(
            ways(false, true, libc::EMSGSIZE),
            [(false, true), (false, false)]
        );
        assert_eq!(
            ways(true, true, libc::ENETUNREACH),
            [(true, true), (false, true)]
        );
        assert_eq!(ways(true, true, libc::EAGAIN), [(true, true)]);
        assert_eq!(ways(false, false, libc::EINVAL), [(false, false)]);
    }

    #[test]
    fn control_messages_fill_their_room_exactly() {
        let mut control = Control::new();
        control.push_source(&Source {
            ip: IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1]),
            ifindex: 1,
        });
        control.push_ecn(1, false);
        control.push_segment(1452);
        assert_eq!(control.len, 40 + 24 + 24);
    }
}
