//! What the control plane asks of its caller: datagrams to send and things worth knowing.

use crate::crypto::Random;
use crate::endpoint::Endpoint;
use crate::keys::PublicKey;
use crate::time::{Time, WallTime};

/// The world, as one call into the [`crate::Device`] sees it.
pub struct Context<'a> {
    /// CLOCK_BOOTTIME.
    pub now: Time,
    /// CLOCK_REALTIME.
    pub wall: WallTime,
    /// Unpredictable bytes.
    pub random: &'a mut dyn Random,
    /// Where results go.
    pub out: &'a mut Outputs,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Where to, and from where. If the send fails because the source is gone, send once more without it.
    pub to: Endpoint,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// Something happened that the daemon may want to log, show, or act upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session with this peer is in use.
    Established(PublicKey),
    /// An initiation was not answered and is tried again; the number says how many were sent in this go. A good
    /// moment to resolve the endpoint's name again.
    Retrying(PublicKey, u32),
    /// No answer for 90 s: staged packets were dropped, it will be tried again when there are packets.
    GivenUp(PublicKey),
    /// Somebody who knows our public key tried to shake hands with a key that is no peer's.
    UnknownPeer(PublicKey),
    /// A large packet for this peer wants to know whether its path takes it ([`crate::Peer::big`]).
    PathAsked(PublicKey),
    /// The peer's keys were erased: no traffic for 540 s.
    Erased(PublicKey),
}

/// Collects what a call wants done. The caller empties it: first the datagrams, in order.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// To be sent.
    pub datagrams: Vec<Datagram>,
    /// To be known.
    pub events: Vec<Event>,
}
