//! The two MACs at the end of handshake messages, and cookies (paper sections 5.3, 5.4.4 and 5.4.7; kernel cookie.c).
//!
//! mac1 shows that the sender knows our public key; without it we are silent. Under load a message must also carry
//! mac2, keyed with a cookie that we give to an address (and port), so that work is done only for addresses that
//! can receive. A [`Checker`] is ours, for what comes in; a [`Maker`] is one peer's, for what goes out to it.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use zeroize::Zeroizing;

use crate::crypto::{self, Random, Secret};
use crate::keys::PublicKey;
use crate::limiter::Limiter;
use crate::messages::{self, CookieReply, COOKIE_REPLY_LEN};
use crate::time::Time;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";
const MAC: usize = 16;

/// The secret behind our cookies is replaced at this age (COOKIE_SECRET_MAX_AGE).
const SECRET_AGE: Duration = Duration::from_secs(120);
/// A cookie we were given is used for this long: less, by the way it had to travel (COOKIE_SECRET_LATENCY).
const COOKIE_AGE: Duration = Duration::from_secs(120 - 5);

fn mac1_key(public: &PublicKey) -> [u8; 32] {
    crypto::hash(&[LABEL_MAC1, &public.0])
}

fn cookie_key(public: &PublicKey) -> [u8; 32] {
    crypto::hash(&[LABEL_COOKIE, &public.0])
}

/// What a handshake message's MACs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// mac1 is not made with this key: silence.
    Foreign,
    /// The source asks too often: silence.
    Drop,
    /// Do the work.
    Pass,
    /// mac1 is right, but we are under load and mac2 is not: answer with a cookie.
    NeedsCookie,
}

/// Checks incoming MACs and gives out cookies.
pub(crate) struct Checker {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    /// The secret our cookies are made with, and when it was drawn.
    secret: Option<(Secret, Time)>,
}

impl Checker {
    /// The checker of the owner of `own`.
    pub fn new(own: &PublicKey) -> Self {
        Self {
            mac1_key: mac1_key(own),
            cookie_key: cookie_key(own),
            secret: None,
        }
    }

    /// Judges a handshake message. `limit` holds the limiter only while we are under load.
    pub fn check(
        &self,
        message: &[u8],
        from: SocketAddr,
        limit: Option<&mut Limiter>,
        now: Time,
    ) -> Verdict {
        let Some((rest, mac2)) = message.split_last_chunk::<MAC>() else {
            return Verdict::Foreign;
        };
        let Some((body, mac1)) = rest.split_last_chunk::<MAC>() else {
            return Verdict::Foreign;
        };
        if !crypto::equal(&crypto::mac(&self.mac1_key, &[body]), mac1) {
            return Verdict::Foreign;
        }
        let Some(limiter) = limit else {
            return Verdict::Pass;
        };
        let has_cookie = self.fresh_secret(now).is_some_and(|secret| {
            let cookie = Zeroizing::new(cookie_for(secret, from));
            crypto::equal(&crypto::mac_cookie(&cookie, &[rest]), mac2)
        });
        match has_cookie {
            false => Verdict::NeedsCookie,
            true if limiter.allow(from.ip(), now) => Verdict::Pass,
            true => Verdict::Drop,
        }
    }

    /// A cookie reply to `message`, whose sender calls itself `sender`. `None` if it has no MACs.
    pub fn reply(
        &mut self,
        message: &[u8],
        sender: u32,
        from: SocketAddr,
        now: Time,
        random: &mut dyn Random,
    ) -> Option<[u8; COOKIE_REPLY_LEN]> {
        let (rest, _) = message.split_last_chunk::<MAC>()?;
        let (_, mac1) = rest.split_last_chunk::<MAC>()?;
        let mut nonce = [0; 24];
        random.fill(&mut nonce);
        if self.fresh_secret(now).is_none() {
            let mut secret = Secret::default();
            random.fill(&mut *secret);
            self.secret = Some((secret, now));
        }
        let cookie = Zeroizing::new(cookie_for(self.fresh_secret(now)?, from));
        let sealed_cookie = crypto::seal_cookie(&self.cookie_key, &nonce, &cookie, mac1);
        Some(messages::write_cookie_reply(CookieReply {
            receiver: sender,
            nonce: &nonce,
            sealed_cookie: &sealed_cookie,
        }))
    }

    fn fresh_secret(&self, now: Time) -> Option<&Secret> {
        self.secret
            .as_ref()
            .filter(|(_, born)| !born.expired(now, SECRET_AGE))
            .map(|(secret, _)| secret)
    }
}

/// The cookie of an address: MAC(secret, address and port). The port is in it, else everybody behind one NAT
/// would share a cookie.
fn cookie_for(secret: &Secret, from: SocketAddr) -> [u8; MAC] {
    let port = from.port().to_be_bytes();
    match from.ip().to_canonical() {
        IpAddr::V4(ip) => crypto::mac(secret, &[&ip.octets(), &port]),
        IpAddr::V6(ip) => crypto::mac(secret, &[&ip.octets(), &port]),
    }
}

/// Writes the MACs of messages to one peer, and keeps the cookie that it gave us.
pub(crate) struct Maker {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    cookie: Option<(Zeroizing<[u8; MAC]>, Time)>,
    /// mac1 of our last message: a cookie reply is sealed to it, so nobody who didn't see it can forge one.
    last_mac1: Option<[u8; MAC]>,
}

impl Maker {
    /// The maker for messages to `peer`.
    pub fn new(peer: &PublicKey) -> Self {
        Self {
            mac1_key: mac1_key(peer),
            cookie_key: cookie_key(peer),
            cookie: None,
            last_mac1: None,
        }
    }

    /// Fills in the last 32 bytes of `message`: mac1, and mac2 if we hold a fresh cookie.
    pub fn stamp(&mut self, message: &mut [u8], now: Time) {
        let Some((rest, mac2)) = message.split_last_chunk_mut::<MAC>() else {
            return;
        };
        let Some((body, mac1)) = rest.split_last_chunk_mut::<MAC>() else {
            return;
        };
        *mac1 = crypto::mac(&self.mac1_key, &[body]);
        self.last_mac1 = Some(*mac1);
        if let Some((cookie, _)) = self
            .cookie
            .as_ref()
            .filter(|(_, born)| !born.expired(now, COOKIE_AGE))
        {
            *mac2 = crypto::mac_cookie(cookie, &[rest]);
        }
    }

    /// Takes a cookie in; whether it was authentic and for our last message. Each message of ours gets one.
    pub fn consume(&mut self, reply: &CookieReply<'_>, now: Time) -> bool {
        let Some(mac1) = self.last_mac1 else {
            return false;
        };
        match crypto::open_cookie(&self.cookie_key, reply.nonce, reply.sealed_cookie, &mac1) {
            Ok(cookie) => {
                self.cookie = Some((Zeroizing::new(cookie), now));
                self.last_mac1 = None;
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
#[path = "cookie_tests.rs"]
mod tests;
