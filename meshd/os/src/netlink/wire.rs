//! Netlink messages as bytes: built and read, in safe code.
//!
//! Everything is in host byte order and aligned to 4, as the kernel wants it. The reader takes what it can understand and
//! stops at what it cannot: it never reads past a length.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of nlmsghdr.
const HEADER: usize = 16;
/// Bytes of rtattr.
const ATTR: usize = 4;
/// Flags of an error (include/uapi/linux/netlink.h): attributes follow, the failed request is cut to its header; and the
/// attribute NLMSGERR_ATTR_MSG.
const ACK_TLVS: u16 = 0x200;
const CAPPED: u16 = 0x100;
const MSG: u16 = 1;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER are flags in an attribute's kind.
const ATTR_KIND: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// A request being built.
pub(crate) struct Request(Vec<u8>);

impl Request {
    /// A request of `kind` (RTM_…) with `flags` beside NLM_F_REQUEST, which begins with `body` (ifinfomsg, …).
    pub(crate) fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        let mut request = Self(bytes);
        request.align();
        request
    }

    fn align(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }

    /// Appends an attribute.
    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.0
            .extend_from_slice(&((ATTR + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.align();
        self
    }

    /// Appends a number.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends an address.
    pub(crate) fn ip(self, kind: u16, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.attr(kind, &ip.octets()),
            IpAddr::V6(ip) => self.attr(kind, &ip.octets()),
        }
    }

    /// Appends a name with its final zero.
    pub(crate) fn name(self, kind: u16, name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends an attribute that holds those which `fill` appends.
    pub(crate) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut request = fill(self);
        let len = (request.0.len() - at) as u16;
        request.0[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        request
    }

    /// Fills in length and sequence number; an acknowledgement is asked for unless it is a dump.
    pub(crate) fn finish(&mut self, sequence: u32) -> &[u8] {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]);
        if flags & libc::NLM_F_DUMP as u16 != libc::NLM_F_DUMP as u16 {
            self.0[6..8].copy_from_slice(&(flags | libc::NLM_F_ACK as u16).to_ne_bytes());
        }
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.0
    }
}

/// A received message.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    /// RTM_… or NLMSG_…
    pub(crate) kind: u16,
    /// NLM_F_…
    pub(crate) flags: u16,
    /// The request it answers.
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The fixed part of `len` bytes, and the attributes behind it.
    pub(crate) fn split(&self, len: usize) -> Option<(&'a [u8], Attrs<'a>)> {
        let fixed = self.body.get(..len)?;
        Some((
            fixed,
            Attrs(self.body.get(len.next_multiple_of(4)..).unwrap_or_default()),
        ))
    }

    /// Of NLMSG_ERROR and NLMSG_DONE: the errno and the kernel's explanation; `None` when it is a success.
    pub(crate) fn error(&self) -> Option<(i32, Option<&'a str>)> {
        let errno = i32_at(self.body, 0).map_or(0, i32::wrapping_neg);
        if errno == 0 {
            return None;
        }
        let mut reason = None;
        if self.flags & ACK_TLVS != 0 {
            // The failed request follows the errno: its header alone, or all of it.
            let request = if self.flags & CAPPED != 0 {
                HEADER
            } else {
                u32_at(self.body, 4).unwrap_or(0) as usize
            };
            let at = (4 + request).next_multiple_of(4);
            reason = Attrs(self.body.get(at..).unwrap_or_default())
                .get(MSG)
                .and_then(text);
        }
        Some((errno, reason))
    }
}

/// The messages of one datagram.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let body = bytes.get(HEADER..len)?;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body,
        };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// A run of attributes.
#[derive(Clone, Copy)]
pub(crate) struct Attrs<'a>(pub(super) &'a [u8]);

impl<'a> Attrs<'a> {
    /// Kind and value of each.
    pub(crate) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let len = u16_at(rest, 0)? as usize;
            let kind = u16_at(rest, 2)? & ATTR_KIND;
            let value = rest.get(ATTR..len)?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// The value of the first attribute of `kind`.
    #[inline(never)] // in forty places
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter()
            .find(|(k, _)| *k == kind)
            .map(|(_, value)| value)
    }

    /// The attributes inside that of `kind`.
    pub(crate) fn nested(self, kind: u16) -> Option<Attrs<'a>> {
        self.get(kind).map(Attrs)
    }

    /// A number.
    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        u32_at(self.get(kind)?, 0)
    }

    /// A name, without its final zero.
    pub(crate) fn name(self, kind: u16) -> Option<&'a str> {
        text(self.get(kind)?)
    }

    /// An address of either family, told apart by its length.
    pub(crate) fn ip(self, kind: u16) -> Option<IpAddr> {
        let value = self.get(kind)?;
        if let Ok(octets) = <[u8; 4]>::try_from(value) {
            return Some(Ipv4Addr::from(octets).into());
        }
        <[u8; 16]>::try_from(value)
            .ok()
            .map(|octets| Ipv6Addr::from(octets).into())
    }
}

fn text(value: &[u8]) -> Option<&str> {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()
}

/// The number at byte `at`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

/// The number at byte `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_reads_back() {
        let mut request = Request::new(16, libc::NLM_F_DUMP, &[7; 16])
            .name(3, "mesh0")
            .nest(26, |r| r.nest(2, |r| r.u32(1, 1)))
            .ip(5, "2001:db8::1".parse().unwrap());
        let bytes = request.finish(9).to_vec();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].sequence), (16, 9));
        let (fixed, attrs) = all[0].split(16).unwrap();
        assert_eq!(fixed, [7; 16]);
        assert_eq!(attrs.name(3), Some("mesh0"));
        assert_eq!(
            attrs
                .nested(26)
                .and_then(|a| a.nested(2))
                .and_then(|a| a.u32(1)),
            Some(1)
        );
        assert_eq!(attrs.ip(5), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(attrs.get(99), None);
    }

    #[test]
    fn the_least_number_is_an_error_too() {
        let message = Message {
            kind: libc::NLMSG_ERROR as u16,
            flags: 0,
            sequence: 1,
            body: &i32::MIN.to_ne_bytes(),
        };
        assert!(message.error().is_some());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            for message in messages(&bytes) {
                let _ = message.error();
                if let Some((_, attrs)) = message.split(16) {
                    for (_, value) in attrs.iter() {
                        let _ = Attrs(value).iter().count();
                    }
                }
            }
        }
    }
}
