//! Known answers for the handshake: cacophony's vector for the pattern, noiseprotocol's for WireGuard as a whole.

use super::*;
use crate::cookie::Maker;
use crate::messages::Handshake;
use crate::session::Session;
use crate::time::Time;
use crate::vectors::Vectors;

fn key(vectors: &Vectors, name: &str) -> PrivateKey {
    PrivateKey::new(vectors.array(name))
}

fn identity(vectors: &Vectors, name: &str) -> Identity {
    Identity::new(key(vectors, name))
}

#[test]
fn the_first_hashes_are_the_papers() {
    let vectors = Vectors::wireguard();
    let chain = crypto::hash(&[CONSTRUCTION]);
    assert_eq!(chain, vectors.array("chain"));
    assert_eq!(crypto::hash(&[&chain, IDENTIFIER]), vectors.array("hash"));
}

#[test]
fn the_pattern_is_cacophonys() {
    let vectors = Vectors::cacophony();
    let (initiator, responder) = (
        identity(&vectors, "init_static"),
        identity(&vectors, "resp_static"),
    );
    let psk = PresharedKey::new(vectors.array("psk"));
    let ephemerals = (
        key(&vectors, "init_ephemeral"),
        key(&vectors, "resp_ephemeral"),
    );
    let prologue = vectors.bytes("init_prologue");
    assert_eq!(responder.public.0, vectors.array("init_remote_static"));
    let static_static = crypto::dh(&initiator.private, &responder.public).unwrap();

    let mut ours = Transcript::new(prologue, &responder.public);
    let mut sealed_static = [0; 48];
    let payload = vectors.bytes("payload_0");
    let mut sealed_payload = vec![0; payload.len() + crypto::TAG];
    let ephemeral = ours
        .write_first(
            (&initiator, &ephemerals.0),
            (&responder.public, &static_static),
            payload,
            (&mut sealed_static, &mut sealed_payload),
        )
        .unwrap();
    assert_eq!(
        [&ephemeral.0[..], &sealed_static, &sealed_payload].concat(),
        vectors.bytes("ciphertext_0")
    );

    let mut theirs = Transcript::new(prologue, &responder.public);
    let introduced = theirs
        .read_first_static(&responder, &ephemeral, &sealed_static)
        .unwrap();
    assert_eq!(introduced, initiator.public);
    let mut read = vec![0; payload.len()];
    theirs
        .read_first_payload(&static_static, &sealed_payload, &mut read)
        .unwrap();
    assert_eq!(read, payload);

    let payload = vectors.bytes("payload_1");
    let mut sealed_payload = vec![0; payload.len() + crypto::TAG];
    let peer = (&initiator.public, &ephemeral);
    let answer = theirs
        .write_second(&ephemerals.1, peer, &psk, payload, &mut sealed_payload)
        .unwrap();
    assert_eq!(
        [&answer.0[..], &sealed_payload].concat(),
        vectors.bytes("ciphertext_1")
    );
    let mut read = vec![0; payload.len()];
    ours.read_second_keys((&initiator, &ephemerals.0), &answer)
        .unwrap();
    ours.read_second_payload(&psk, &sealed_payload, &mut read)
        .unwrap();
    assert_eq!(read, payload);
    assert_eq!(
        (ours.hash, theirs.hash),
        (
            vectors.array("handshake_hash"),
            vectors.array("handshake_hash")
        )
    );

    let (to_responder, to_initiator) = ours.split();
    for message in 2..6 {
        let direction = if message % 2 == 0 {
            &to_responder
        } else {
            &to_initiator
        };
        let mut text = vectors.bytes(&format!("payload_{message}")).to_vec();
        text.extend([0; crypto::TAG]);
        meshd_aead::Key::new(direction).seal_in_place(message as u64 / 2 - 1, &mut text);
        assert_eq!(
            text,
            vectors.bytes(&format!("ciphertext_{message}")),
            "message {message}"
        );
    }
}

#[test]
fn a_whole_exchange_is_noiseprotocols() {
    let vectors = Vectors::wireguard();
    let (alice, bob) = (
        identity(&vectors, "alice_private"),
        identity(&vectors, "bob_private"),
    );
    let psk = PresharedKey::new(vectors.array("preshared"));
    let static_static = crypto::dh(&alice.private, &bob.public).unwrap();
    let (mut to_bob, mut to_alice) = (Maker::new(&bob.public), Maker::new(&alice.public));

    let (pending, mut initiation) = Pending::initiate(
        &alice,
        (&bob.public, &static_static),
        key(&vectors, "alice_ephemeral"),
        0x0102_0304,
        Tai64n(vectors.array("timestamp")),
    )
    .unwrap();
    to_bob.stamp(&mut initiation, Time(1));
    assert_eq!(initiation, vectors.array("initiation"));
    let Some(Handshake::CookieReply(reply)) =
        messages::parse_handshake(vectors.bytes("cookie_reply"))
    else {
        panic!("not a cookie reply");
    };
    assert!(to_bob.consume(&reply, Time(1)));
    to_bob.stamp(&mut initiation, Time(1));
    assert_eq!(initiation, vectors.array("initiation_with_cookie"));

    let Some(Handshake::Initiation(message)) = messages::parse_handshake(&initiation) else {
        panic!("not an initiation");
    };
    let introduced = Introduced::read(&bob, &message).unwrap();
    assert_eq!(introduced.peer, alice.public);
    let proven = introduced.prove(&static_static, &message).unwrap();
    assert_eq!(proven.timestamp.0, vectors.array("timestamp"));
    let indices = (0x0506_0708, message.sender);
    let (bobs, mut response) = proven
        .respond(&psk, &key(&vectors, "bob_ephemeral"), indices)
        .unwrap();
    to_alice.stamp(&mut response, Time(1));
    assert_eq!(response, vectors.array("response"));

    let Some(Handshake::Response(message)) = messages::parse_handshake(&response) else {
        panic!("not a response");
    };
    let (alices, used) = pending.finish(&alice, [&psk], &message).unwrap();
    assert!(*used == psk);
    let alices = Session::new(
        &alices,
        (message.receiver, message.sender),
        true,
        Time(1),
        [0; 3],
    );
    let bobs = Session::new(&bobs, indices, false, Time(1), [0; 3]);
    for (session, name, text) in [
        (&alices, "alice_data_0", &b""[..]),
        (&alices, "alice_data_1", b"from alice to bob"),
        (&bobs, "bob_data_0", b"from bob to alice"),
    ] {
        let mut sealed = vec![0; messages::data_len(text.len(), 1420)];
        sealed[messages::DATA_HEADER..][..text.len()].copy_from_slice(text);
        let stride = sealed.len();
        assert!(session.seal(Time(2), &mut sealed, stride));
        assert_eq!(sealed, vectors.bytes(name), "{name}");
    }
}

#[test]
fn a_changed_message_is_refused() {
    let vectors = Vectors::wireguard();
    let bob = identity(&vectors, "bob_private");
    let alice = identity(&vectors, "alice_private");
    let static_static = crypto::dh(&bob.private, &alice.public).unwrap();
    // Every byte of ephemeral, sealed static and sealed timestamp.
    for place in 8..116 {
        let mut initiation = vectors.bytes("initiation").to_vec();
        initiation[place] ^= 0x10;
        let Some(Handshake::Initiation(message)) = messages::parse_handshake(&initiation) else {
            panic!("not an initiation");
        };
        let read = Introduced::read(&bob, &message)
            .and_then(|introduced| introduced.prove(&static_static, &message));
        assert!(read.is_err(), "byte {place}");
    }
}

#[test]
fn keys_of_small_order_are_refused() {
    let vectors = Vectors::wireguard();
    let (alice, weak) = (identity(&vectors, "alice_private"), PublicKey([0; 32]));
    assert!(crypto::dh(&alice.private, &weak).is_none());
    let mut initiation = vectors.bytes("initiation").to_vec();
    initiation[8..40].fill(0);
    let Some(Handshake::Initiation(message)) = messages::parse_handshake(&initiation) else {
        panic!("not an initiation");
    };
    assert!(Introduced::read(&identity(&vectors, "bob_private"), &message).is_err());
}
