//! The four messages on the wire (paper section 5.4, kernel messages.h): their lengths, layouts and numbers.
//!
//! Strategy: a datagram is classified by type and length alone ([`classify`]); the three handshake messages are
//! then taken apart into borrowed fields of fixed size. Nothing here authenticates anything. All integers are
//! little endian. The three bytes after the type are zero and are checked.

use core::time::Duration;

/// Bytes in front of a data message's sealed packet: type, receiver index, counter.
pub const DATA_HEADER: usize = 16;
/// Bytes a data message adds to the packet: header and authentication tag.
pub const DATA_OVERHEAD: usize = DATA_HEADER + meshd_aead::TAG_LEN;
/// Length of message 1.
pub const INITIATION_LEN: usize = 148;
/// Length of message 2.
pub const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;

/// How many counters of a session the receiver remembers. Linux says 8192 bits and uses all but one word; the paper
/// reserves 2^13.
pub const WINDOW: u64 = 8192;
/// A session asks for its successor after this many messages (paper section 6.1).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// A session is dead after this many messages: 2^64 minus the replay window, minus one (kernel messages.h).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - WINDOW;
/// The initiator asks for a new session after this time.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A session is dead after this time.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// An unanswered handshake is tried again for this long.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Between two tries of a handshake, and the least time between two initiations.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// What was received is acknowledged by a keepalive after this time, if nothing else was sent.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries are spread by up to this much, so that two ends do not stay in step.
pub const REKEY_TIMEOUT_JITTER: Duration = Duration::from_millis(333);
/// Retries before a handshake is given up: 90 s / 5 s.
pub const MAX_HANDSHAKE_RETRIES: u32 = 18;
/// Initiations a second that one peer may have answered (kernel messages.h).
pub const INITIATIONS_PER_SECOND: u32 = 50;
/// Handshake messages the daemon should keep waiting at most; above an eighth of it the device is under load.
pub const MAX_QUEUED_HANDSHAKES: usize = 4096;
/// Packets kept per peer while there is no session.
pub const MAX_STAGED_PACKETS: usize = 128;
/// The greatest number of peers of one device.
pub const MAX_PEERS: usize = 1 << 20;
/// Packets are padded to a multiple of this before sealing.
pub const PADDING: usize = 16;

const TYPE_INITIATION: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
const TYPE_COOKIE: u8 = 3;
const TYPE_DATA: u8 = 4;

/// What a datagram claims to be, judged by its first bytes and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A data message for the session with this receiver index; the packet plane opens it.
    Data {
        /// Receiver index: which session of ours.
        receiver: u32,
        /// Counter: the AEAD's nonce and the replay window's number.
        counter: u64,
    },
    /// Message 1, message 2 or a cookie reply; the control plane's [`crate::Device::receive`] takes it.
    Handshake,
    /// None of WireGuard's messages. Dropped in silence.
    Unknown,
}

/// Tells a datagram's kind. Any bytes are allowed.
pub fn classify(datagram: &[u8]) -> Kind {
    let Some((&[kind, 0, 0, 0], rest)) = datagram.split_first_chunk() else {
        return Kind::Unknown;
    };
    match (kind, datagram.len()) {
        (TYPE_DATA, DATA_OVERHEAD..) => match rest.split_first_chunk() {
            Some((receiver, rest)) => match rest.first_chunk() {
                Some(counter) => Kind::Data {
                    receiver: u32::from_le_bytes(*receiver),
                    counter: u64::from_le_bytes(*counter),
                },
                None => Kind::Unknown,
            },
            None => Kind::Unknown,
        },
        (TYPE_INITIATION, INITIATION_LEN)
        | (TYPE_RESPONSE, RESPONSE_LEN)
        | (TYPE_COOKIE, COOKIE_REPLY_LEN) => Kind::Handshake,
        _ => Kind::Unknown,
    }
}

/// Writes a data message's header into the first [`DATA_HEADER`] bytes of `out`; `out` must have them.
#[inline]
pub(crate) fn write_data_header(out: &mut [u8], receiver: u32, counter: u64) {
    if let Some(header) = out.first_chunk_mut::<DATA_HEADER>() {
        header[..4].copy_from_slice(&[TYPE_DATA, 0, 0, 0]);
        header[4..8].copy_from_slice(&receiver.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
    }
}

/// Length to pad a packet of `len` bytes to: a multiple of 16, but no more than `mtu` (paper section 5.4.6; kernel
/// `calculate_skb_padding`). A packet above the MTU is padded as its last fragment-sized part would be.
#[inline]
pub const fn padded_len(len: usize, mtu: usize) -> usize {
    let unit = if mtu > 0 && len > mtu { len % mtu } else { len };
    let aligned = unit.next_multiple_of(PADDING);
    let padded = if mtu > 0 && aligned > mtu {
        mtu
    } else {
        aligned
    };
    len - unit + padded
}

/// Length of the datagram that carries a packet of `len` bytes.
#[inline]
pub const fn data_len(len: usize, mtu: usize) -> usize {
    padded_len(len, mtu) + DATA_OVERHEAD
}

/// A handshake datagram taken apart; fields borrow from it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handshake<'a> {
    Initiation(Initiation<'a>),
    Response(Response<'a>),
    CookieReply(CookieReply<'a>),
}

/// Message 1 (section 5.4.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Initiation<'a> {
    pub sender: u32,
    pub ephemeral: &'a [u8; 32],
    pub sealed_static: &'a [u8; 48],
    pub sealed_timestamp: &'a [u8; 28],
}

/// Message 2 (section 5.4.3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Response<'a> {
    pub sender: u32,
    pub receiver: u32,
    pub ephemeral: &'a [u8; 32],
    pub sealed_nothing: &'a [u8; 16],
}

/// A cookie reply (section 5.4.7).
#[derive(Clone, Copy, Debug)]
pub(crate) struct CookieReply<'a> {
    pub receiver: u32,
    pub nonce: &'a [u8; 24],
    pub sealed_cookie: &'a [u8; 32],
}

/// Takes a handshake datagram apart; `None` if it is not one.
pub(crate) fn parse_handshake(datagram: &[u8]) -> Option<Handshake<'_>> {
    if classify(datagram) != Kind::Handshake {
        return None;
    }
    let (kind, mut rest) = datagram.split_first()?;
    take::<3>(&mut rest)?;
    let first = u32::from_le_bytes(*take(&mut rest)?);
    Some(match *kind {
        TYPE_INITIATION => Handshake::Initiation(Initiation {
            sender: first,
            ephemeral: take(&mut rest)?,
            sealed_static: take(&mut rest)?,
            sealed_timestamp: take(&mut rest)?,
        }),
        TYPE_RESPONSE => Handshake::Response(Response {
            sender: first,
            receiver: u32::from_le_bytes(*take(&mut rest)?),
            ephemeral: take(&mut rest)?,
            sealed_nothing: take(&mut rest)?,
        }),
        _ => Handshake::CookieReply(CookieReply {
            receiver: first,
            nonce: take(&mut rest)?,
            sealed_cookie: take(&mut rest)?,
        }),
    })
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(taken)
}

/// Message 1 without its MACs, which [`crate::cookie`] fills in.
pub(crate) fn write_initiation(fields: Initiation<'_>) -> [u8; INITIATION_LEN] {
    let mut out = [0; INITIATION_LEN];
    out[0] = TYPE_INITIATION;
    out[4..8].copy_from_slice(&fields.sender.to_le_bytes());
    out[8..40].copy_from_slice(fields.ephemeral);
    out[40..88].copy_from_slice(fields.sealed_static);
    out[88..116].copy_from_slice(fields.sealed_timestamp);
    out
}

/// Message 2 without its MACs.
pub(crate) fn write_response(fields: Response<'_>) -> [u8; RESPONSE_LEN] {
    let mut out = [0; RESPONSE_LEN];
    out[0] = TYPE_RESPONSE;
    out[4..8].copy_from_slice(&fields.sender.to_le_bytes());
    out[8..12].copy_from_slice(&fields.receiver.to_le_bytes());
    out[12..44].copy_from_slice(fields.ephemeral);
    out[44..60].copy_from_slice(fields.sealed_nothing);
    out
}

/// A whole cookie reply.
pub(crate) fn write_cookie_reply(fields: CookieReply<'_>) -> [u8; COOKIE_REPLY_LEN] {
    let mut out = [0; COOKIE_REPLY_LEN];
    out[0] = TYPE_COOKIE;
    out[4..8].copy_from_slice(&fields.receiver.to_le_bytes());
    out[8..32].copy_from_slice(fields.nonce);
    out[32..64].copy_from_slice(fields.sealed_cookie);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_type_and_length() {
        let mut data = [0; 32];
        write_data_header(&mut data, 0x0102_0304, 5);
        assert_eq!(
            classify(&data),
            Kind::Data {
                receiver: 0x0102_0304,
                counter: 5
            }
        );
        assert_eq!(classify(&data[..31]), Kind::Unknown);
        data[2] = 1;
        assert_eq!(
            classify(&data),
            Kind::Unknown,
            "reserved bytes must be zero"
        );
        for (kind, len) in [(1, 148), (2, 92), (3, 64)] {
            let mut message = vec![0; len + 1];
            message[0] = kind;
            assert_eq!(classify(&message), Kind::Unknown);
            assert_eq!(classify(&message[..len]), Kind::Handshake);
            assert_eq!(classify(&message[..len - 1]), Kind::Unknown);
            assert!(parse_handshake(&message[..len]).is_some());
            assert!(parse_handshake(&message).is_none());
        }
        for len in 0..4 {
            assert_eq!(classify(&[4; 4][..len]), Kind::Unknown);
        }
    }

    #[test]
    fn fields_lie_where_the_paper_puts_them() {
        let written = write_response(Response {
            sender: 1,
            receiver: 2,
            ephemeral: &[3; 32],
            sealed_nothing: &[4; 16],
        });
        assert_eq!(written[..12], [2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        let Some(Handshake::Response(read)) = parse_handshake(&written) else {
            panic!("not a response");
        };
        assert_eq!(
            (
                read.sender,
                read.receiver,
                read.ephemeral,
                read.sealed_nothing
            ),
            (1, 2, &[3; 32], &[4; 16])
        );
    }

    #[test]
    fn padding_is_to_sixteen_but_never_above_the_mtu() {
        for (len, mtu, padded) in [
            (0, 1420, 0),
            (1, 1420, 16),
            (16, 1420, 16),
            (1419, 1420, 1420),
            (1420, 1420, 1420),
            (1400, 1400, 1400),
            (1401, 1420, 1408),
            (1409, 1420, 1420),
            (2000, 1420, 2012),
            (100, 0, 112),
        ] {
            assert_eq!(padded_len(len, mtu), padded, "{len} of {mtu}");
        }
        assert_eq!(data_len(0, 1420), 32);
    }

    #[test]
    fn limits_are_the_kernels() {
        assert_eq!(REJECT_AFTER_MESSAGES, u64::MAX - 8192);
        assert_eq!(
            REKEY_ATTEMPT_TIME.as_secs() / REKEY_TIMEOUT.as_secs(),
            u64::from(MAX_HANDSHAKE_RETRIES)
        );
    }
}
