//! Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, both roles (paper sections 5.4.1 to 5.4.5; Noise revision 34).
//!
//! Strategy: a [`Transcript`] is Noise's symmetric state (chaining key and hash). Each message is one straight line
//! of tokens, written once for the writer and once for the reader, in the order of the paper. A transcript is moved
//! from step to step, so no step can be done twice; every key is erased when its owner is dropped.
//!
//! What it does not do: choose indices, look up peers, judge timestamps, compute MACs or keep sessions.

use crate::crypto::{self, NotAuthentic, Secret};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::messages::{self, Initiation, Response, INITIATION_LEN, RESPONSE_LEN};
use crate::time::Tai64n;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// Our own static key pair.
#[derive(Debug)]
pub(crate) struct Identity {
    pub private: PrivateKey,
    pub public: PublicKey,
}

impl Identity {
    pub fn new(private: PrivateKey) -> Self {
        let public = private.public();
        Self { private, public }
    }
}

/// What both ends hold after message 2: one key a direction.
pub(crate) struct SessionKeys {
    pub send: Secret,
    pub receive: Secret,
}

/// Noise's symmetric state: chaining key C and hash H.
#[derive(Clone)]
pub(crate) struct Transcript {
    chain: Secret,
    hash: [u8; 32],
}

impl Transcript {
    /// The state before message 1: construction, prologue, and the responder's static key, known beforehand.
    fn new(prologue: &[u8], responder: &PublicKey) -> Self {
        let chain = crypto::hash(&[CONSTRUCTION]);
        let mut transcript = Self {
            hash: crypto::hash(&[&chain, prologue]),
            chain: Secret::new(chain),
        };
        transcript.mix_hash(&responder.0);
        transcript
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.hash = crypto::hash(&[&self.hash, bytes]);
    }

    /// Token `e` in a PSK handshake: the key goes into hash and chain (Noise section 9.2).
    fn mix_ephemeral(&mut self, public: &PublicKey) {
        self.mix_hash(&public.0);
        self.chain = crypto::kdf1(&self.chain, &public.0);
    }

    /// A DH token whose key is not used to seal anything.
    fn mix_dh(&mut self, shared: &Secret) {
        self.chain = crypto::kdf1(&self.chain, &**shared);
    }

    /// A DH token followed by sealing.
    fn mix_dh_for_key(&mut self, shared: &Secret) -> Secret {
        let (chain, key) = crypto::kdf2(&self.chain, &**shared);
        self.chain = chain;
        key
    }

    /// Token `psk`.
    fn mix_psk(&mut self, psk: &PresharedKey) -> Secret {
        let (chain, hashed, key) = crypto::kdf3(&self.chain, psk.expose());
        self.chain = chain;
        self.mix_hash(&*hashed);
        key
    }

    fn seal(&mut self, key: &Secret, plain: &[u8], out: &mut [u8]) {
        crypto::seal(key, plain, &self.hash, out);
        self.mix_hash(out);
    }

    fn open(&mut self, key: &Secret, sealed: &[u8], out: &mut [u8]) -> Result<(), NotAuthentic> {
        crypto::open(key, sealed, &self.hash, out)?;
        self.mix_hash(sealed);
        Ok(())
    }

    /// The two transport keys: initiator's sending key first.
    fn split(self) -> (Secret, Secret) {
        crypto::kdf2(&self.chain, &[])
    }

    /// Message 1, written: e, es, s, ss, payload.
    fn write_first(
        &mut self,
        (own, ephemeral): (&Identity, &PrivateKey),
        (peer, static_static): (&PublicKey, &Secret),
        payload: &[u8],
        (sealed_static, sealed_payload): (&mut [u8; 48], &mut [u8]),
    ) -> Result<PublicKey, NotAuthentic> {
        let public = ephemeral.public();
        self.mix_ephemeral(&public);
        let key = self.mix_dh_for_key(&crypto::dh(ephemeral, peer).ok_or(NotAuthentic)?);
        self.seal(&key, &own.public.0, sealed_static);
        let key = self.mix_dh_for_key(static_static);
        self.seal(&key, payload, sealed_payload);
        Ok(public)
    }

    /// Message 1, read up to the initiator's static key: e, es, s.
    fn read_first_static(
        &mut self,
        own: &Identity,
        ephemeral: &PublicKey,
        sealed_static: &[u8; 48],
    ) -> Result<PublicKey, NotAuthentic> {
        self.mix_ephemeral(ephemeral);
        let key = self.mix_dh_for_key(&crypto::dh(&own.private, ephemeral).ok_or(NotAuthentic)?);
        let mut peer = PublicKey([0; 32]);
        self.open(&key, sealed_static, &mut peer.0)?;
        Ok(peer)
    }

    /// Message 1, read to its end: ss, payload.
    fn read_first_payload(
        &mut self,
        static_static: &Secret,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        let key = self.mix_dh_for_key(static_static);
        self.open(&key, sealed, out)
    }

    /// Message 2, written: e, ee, se, psk, payload.
    fn write_second(
        &mut self,
        ephemeral: &PrivateKey,
        (peer, peer_ephemeral): (&PublicKey, &PublicKey),
        psk: &PresharedKey,
        payload: &[u8],
        sealed_payload: &mut [u8],
    ) -> Result<PublicKey, NotAuthentic> {
        let public = ephemeral.public();
        self.mix_ephemeral(&public);
        self.mix_dh(&crypto::dh(ephemeral, peer_ephemeral).ok_or(NotAuthentic)?);
        self.mix_dh(&crypto::dh(ephemeral, peer).ok_or(NotAuthentic)?);
        let key = self.mix_psk(psk);
        self.seal(&key, payload, sealed_payload);
        Ok(public)
    }

    /// Message 2, read up to the preshared key: e, ee, se.
    fn read_second_keys(
        &mut self,
        (own, ephemeral): (&Identity, &PrivateKey),
        peer_ephemeral: &PublicKey,
    ) -> Result<(), NotAuthentic> {
        self.mix_ephemeral(peer_ephemeral);
        self.mix_dh(&crypto::dh(ephemeral, peer_ephemeral).ok_or(NotAuthentic)?);
        self.mix_dh(&crypto::dh(&own.private, peer_ephemeral).ok_or(NotAuthentic)?);
        Ok(())
    }

    /// Message 2, read to its end: psk, payload.
    fn read_second_payload(
        &mut self,
        psk: &PresharedKey,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        let key = self.mix_psk(psk);
        self.open(&key, sealed, out)
    }
}

/// An initiation of ours that waits for its response.
pub(crate) struct Pending {
    transcript: Transcript,
    ephemeral: PrivateKey,
    /// The index we gave ourselves in it.
    pub local_index: u32,
}

impl Pending {
    /// Writes message 1. Fails only if the peer's key is of small order.
    pub fn initiate(
        own: &Identity,
        (peer, static_static): (&PublicKey, &Secret),
        ephemeral: PrivateKey,
        local_index: u32,
        timestamp: Tai64n,
    ) -> Result<(Self, [u8; INITIATION_LEN]), NotAuthentic> {
        let mut transcript = Transcript::new(IDENTIFIER, peer);
        let (mut sealed_static, mut sealed_timestamp) = ([0; 48], [0; 28]);
        let public = transcript.write_first(
            (own, &ephemeral),
            (peer, static_static),
            &timestamp.0,
            (&mut sealed_static, &mut sealed_timestamp),
        )?;
        let message = messages::write_initiation(Initiation {
            sender: local_index,
            ephemeral: &public.0,
            sealed_static: &sealed_static,
            sealed_timestamp: &sealed_timestamp,
        });
        let pending = Self {
            transcript,
            ephemeral,
            local_index,
        };
        Ok((pending, message))
    }

    /// Reads message 2 and gives the session's keys. The responder chooses the preshared key and can't know which of two
    /// we have (rotation), so each of `psks` is tried; the one that it was comes back too. A response that is not
    /// authentic leaves this pending: it may be forged, and the true one still on its way.
    pub fn finish<'p>(
        &self,
        own: &Identity,
        psks: impl IntoIterator<Item = &'p PresharedKey>,
        response: &Response<'_>,
    ) -> Result<(SessionKeys, &'p PresharedKey), NotAuthentic> {
        let mut before_psk = self.transcript.clone();
        let peer_ephemeral = PublicKey(*response.ephemeral);
        before_psk.read_second_keys((own, &self.ephemeral), &peer_ephemeral)?;
        for psk in psks {
            let mut transcript = before_psk.clone();
            let read = transcript.read_second_payload(psk, response.sealed_nothing, &mut []);
            if read.is_ok() {
                let (send, receive) = transcript.split();
                return Ok((SessionKeys { send, receive }, psk));
            }
        }
        Err(NotAuthentic)
    }
}

/// A message 1 read as far as the initiator's key.
pub(crate) struct Introduced {
    transcript: Transcript,
    peer_ephemeral: PublicKey,
    /// Who says to have written it. Not proven before [`Introduced::prove`].
    pub peer: PublicKey,
}

/// A message 1 that is authentic; its timestamp is still to be judged.
pub(crate) struct Proven {
    transcript: Transcript,
    peer_ephemeral: PublicKey,
    peer: PublicKey,
    pub timestamp: Tai64n,
}

impl Introduced {
    /// Reads message 1 up to the initiator's static key.
    pub fn read(own: &Identity, message: &Initiation<'_>) -> Result<Self, NotAuthentic> {
        let mut transcript = Transcript::new(IDENTIFIER, &own.public);
        let peer_ephemeral = PublicKey(*message.ephemeral);
        let peer = transcript.read_first_static(own, &peer_ephemeral, message.sealed_static)?;
        Ok(Self {
            transcript,
            peer_ephemeral,
            peer,
        })
    }

    /// Reads the rest, which only the holder of the initiator's private key can have written.
    pub fn prove(
        mut self,
        static_static: &Secret,
        message: &Initiation<'_>,
    ) -> Result<Proven, NotAuthentic> {
        let mut timestamp = Tai64n::ZERO;
        self.transcript.read_first_payload(
            static_static,
            message.sealed_timestamp,
            &mut timestamp.0,
        )?;
        Ok(Proven {
            transcript: self.transcript,
            peer_ephemeral: self.peer_ephemeral,
            peer: self.peer,
            timestamp,
        })
    }
}

impl Proven {
    /// Writes message 2 and gives the session's keys.
    pub fn respond(
        mut self,
        psk: &PresharedKey,
        ephemeral: &PrivateKey,
        (local_index, remote_index): (u32, u32),
    ) -> Result<(SessionKeys, [u8; RESPONSE_LEN]), NotAuthentic> {
        let mut sealed_nothing = [0; 16];
        let public = self.transcript.write_second(
            ephemeral,
            (&self.peer, &self.peer_ephemeral),
            psk,
            &[],
            &mut sealed_nothing,
        )?;
        let message = messages::write_response(Response {
            sender: local_index,
            receiver: remote_index,
            ephemeral: &public.0,
            sealed_nothing: &sealed_nothing,
        });
        let (receive, send) = self.transcript.split();
        Ok((SessionKeys { send, receive }, message))
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
