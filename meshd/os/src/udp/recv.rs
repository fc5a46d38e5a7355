//! Receiving a batch of datagrams, several of them possibly merged by the kernel, in one system call.
//!
//! Strategy: recvmmsg into fixed slots of one arena. With UDP_GRO one slot holds up to 64 KiB of equal-sized datagrams from
//! one sender, `stride` bytes each, the last one possibly shorter; without it, one. The slots are allocated once and only
//! the pages that packets touched take memory.
use super::address::Address;
use super::{Source, UdpSocket};
use crate::sys::{self, Zeroed};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Most slots of a batch.
pub const MAX_SLOTS: usize = 16;
/// A slot holds the largest UDP payload, merged or not.
pub const SLOT_LEN: usize = 65536;

/// One received run of datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    start: usize,
    len: usize,
    /// Size of each datagram but the last, in bytes.
    pub stride: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The local address it came to.
    pub source: Option<Source>,
    /// The outer header's ECN bits.
    pub ecn: u8,
}

impl Datagram {
    /// Where its bytes lie in the arena that [`RecvBatch::parts`] gives.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// Where each of its datagrams lies in the arena that [`RecvBatch::parts`] gives, in order of arrival.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (end, stride) = (self.start + self.len, self.stride.max(1));
        (self.start..end)
            .step_by(stride)
            .map(move |at| at..end.min(at + stride))
    }
}

/// Control data of one slot: packet info (up to 40 bytes), TOS (24) and segment size (24), with room to spare.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 128]);

/// Room for a batch: the slots, and what the last receive put into them.
#[derive(Debug)]
pub struct RecvBatch {
    arena: Vec<u8>,
    slots: usize,
    received: Vec<Datagram>,
}

impl RecvBatch {
    /// Room for `slots` (1 to [`MAX_SLOTS`]) runs.
    pub fn new(slots: usize) -> Self {
        let slots = slots.clamp(1, MAX_SLOTS);
        // Zeroed pages come from the kernel untouched: they cost memory when a packet lands there.
        Self {
            arena: vec![0; slots * SLOT_LEN],
            slots,
            received: Vec::with_capacity(slots),
        }
    }

    /// The bytes of all slots and what lies where: borrowed apart, so that packets can be opened in place.
    pub fn parts(&mut self) -> (&mut [u8], &[Datagram]) {
        (&mut self.arena, &self.received)
    }

    /// The last receive's runs.
    pub fn datagrams(&self) -> &[Datagram] {
        &self.received
    }
}

impl UdpSocket {
    /// Receives what is waiting, at most one run a slot, and returns how many runs came. `WouldBlock` when none waits. Runs of
    /// senders that can't be understood are left out.
    pub fn receive(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.received.clear();
        let mut names = [Address::EMPTY; MAX_SLOTS];
        let mut controls = [Control([0; 128]); MAX_SLOTS];
        let mut iovs = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; MAX_SLOTS];
        let mut msgs = [libc::mmsghdr::zeroed(); MAX_SLOTS];
        let slots = batch.arena.chunks_exact_mut(SLOT_LEN).take(batch.slots);
        for ((((slot, name), control), iov), msg) in slots
            .zip(&mut names)
            .zip(&mut controls)
            .zip(&mut iovs)
            .zip(&mut msgs)
        {
            *iov = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: SLOT_LEN,
            };
            let header = &mut msg.msg_hdr;
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_namelen = Address::MAX_LEN;
            header.msg_iov = iov;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len() as _;
        }
        let count = sys::retry(|| {
            // SAFETY: the first `slots` entries of `msgs` point at names, controls, iovs and through them at distinct slots of
            // the arena, all live and exclusively borrowed, with their true lengths.
            sys::check(unsafe {
                libc::recvmmsg(
                    self.fd.as_raw_fd(),
                    msgs.as_mut_ptr(),
                    batch.slots as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            })
        })? as usize;
        for (i, (msg, name)) in msgs.iter().zip(&names).take(count).enumerate() {
            let len = (msg.msg_len as usize).min(SLOT_LEN);
            let Some(from) = name.to_rust() else { continue };
            if msg.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                continue;
            }
            let info = read_control(&msg.msg_hdr);
            let stride = info.stride.filter(|&s| s > 0).unwrap_or(len);
            batch.received.push(Datagram {
                start: i * SLOT_LEN,
                len,
                stride,
                from,
                source: info.source,
                ecn: info.ecn,
            });
        }
        Ok(batch.received.len())
    }
}

#[derive(Default)]
struct Info {
    stride: Option<usize>,
    source: Option<Source>,
    ecn: u8,
}

/// Reads the control messages of one received message.
fn read_control(header: &libc::msghdr) -> Info {
    let mut info = Info::default();
    // SAFETY: the kernel has just filled in the control buffer that `header` points at, which is live, and set its length;
    // CMSG_FIRSTHDR and CMSG_NXTHDR stay within that length. Each value is read only when the message is long enough.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while !at.is_null() {
            let data = libc::CMSG_DATA(at);
            let len = ((*at).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            match ((*at).cmsg_level, (*at).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) if len >= 4 => {
                    info.stride = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if len >= size_of::<libc::in_pktinfo>() => {
                    let pktinfo = data.cast::<libc::in_pktinfo>().read_unaligned();
                    // ipi_spec_dst is the local address to answer from, also when the packet came to a broadcast address.
                    let ip = Ipv4Addr::from(pktinfo.ipi_spec_dst.s_addr.to_ne_bytes());
                    info.source = Some(Source {
                        ip: IpAddr::V4(ip),
                        ifindex: pktinfo.ipi_ifindex as u32,
                    });
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
                    if len >= size_of::<libc::in6_pktinfo>() =>
                {
                    let pktinfo = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    let ip = Ipv6Addr::from(pktinfo.ipi6_addr.s6_addr);
                    info.source = Some(Source {
                        ip: IpAddr::V6(ip),
                        ifindex: pktinfo.ipi6_ifindex,
                    });
                }
                // The kernel gives IP_TOS as one byte and IPV6_TCLASS as an int.
                (libc::IPPROTO_IP, libc::IP_TOS) if len >= 1 => info.ecn = data.read() & 3,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if len >= 4 => {
                    info.ecn = (data.cast::<libc::c_int>().read_unaligned() & 3) as u8;
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    info
}
