//! What a peer looks like from outside: for `status`, for `wg show`, for people.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use crate::allowed_ips::Cidr;
use crate::endpoint::Endpoint;
use crate::keys::{PresharedKey, PublicKey};
use crate::time::{Time, WallTime};

/// A peer at one moment.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its key.
    pub public_key: PublicKey,
    /// The key that it changes to.
    pub next_public_key: Option<PublicKey>,
    /// Its preshared key; all zeros means none.
    pub preshared_key: PresharedKey,
    /// The preshared key that it changes to.
    pub next_preshared_key: Option<PresharedKey>,
    /// How far the change to any next key, ours included, is; `None` when none is under way.
    pub rotation: Option<Rotation>,
    /// Where it is, as configured or learned since.
    pub endpoint: Option<Endpoint>,
    /// Where it was last said to be ([`crate::Device::set_endpoint`]), whatever was learned since.
    pub configured_endpoint: Option<SocketAddr>,
    /// Its networks, in the order they were given.
    pub allowed_ips: Vec<Cidr>,
    /// Persistent keepalive interval in seconds; 0 is off.
    pub keepalive: u16,
    /// Bytes of UDP payload received, handshakes and keepalives included, unauthentic ones not.
    pub rx_bytes: u64,
    /// Bytes of UDP payload sent.
    pub tx_bytes: u64,
    /// Wall time of the last completed handshake.
    pub last_handshake: Option<WallTime>,
    /// The same on the timers' clock.
    pub last_handshake_at: Option<Time>,
    /// When anything authentic last came from it.
    pub last_received: Option<Time>,
    /// When anything authentic was last sent to it.
    pub last_sent: Option<Time>,
    /// Whether a session can be used for sending now.
    pub connected: bool,
    /// When the session in use ends because a key that it was made with is gone; `None`: by its age.
    pub ends: Option<Time>,
    /// Initiations sent in the handshake that is under way; 0 when none is.
    pub attempts: u32,
    /// Why there is no session, as far as is known. Cleared when a handshake completes.
    pub trouble: Option<Trouble>,
}

/// How far a peer's change of keys is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The last session was made with a key that is to go, or there was none.
    Waiting,
    /// The last session was made with the newest keys.
    Moved,
}

/// What is known to be wrong between us and a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A session is wanted but nobody has said where the peer is.
    NoEndpoint,
    /// This many initiations were sent and none was answered.
    Unanswered(u32),
    /// Our initiation was answered by somebody who holds the peer's private key but whose answer doesn't decrypt:
    /// almost always another preshared key.
    PresharedKeyMismatch,
    /// It sends initiations again and again but never uses the session: our answers don't reach it, or its preshared
    /// key is another.
    AnswerUnused(u32),
    /// It sends initiations that are no newer than one we know: its clock was set back, or somebody replays them.
    StaleTimestamp,
    /// It is under load and wanted a cookie first.
    CookieDemanded,
    /// Its public key is a point of small order; no handshake is possible.
    WeakKey,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEndpoint => f.write_str("no endpoint known"),
            Self::Unanswered(count) => write!(f, "no answer to {count} initiations"),
            Self::PresharedKeyMismatch => f.write_str("the answer does not decrypt: their preshared key is probably not ours"),
            Self::AnswerUnused(count) => write!(
                f,
                "they sent {count} initiations and used no answer: our answers do not reach them, or their preshared key is not ours"
            ),
            Self::StaleTimestamp => f.write_str("their initiations are older than one we know: their clock was set back"),
            Self::CookieDemanded => f.write_str("they are under load and asked for a cookie"),
            Self::WeakKey => f.write_str("their public key is not usable"),
        }
    }
}

impl PeerStatus {
    /// How long ago the last handshake was.
    pub fn handshake_age(&self, now: Time) -> Option<Duration> {
        self.last_handshake_at.map(|at| now.since(at))
    }
}
