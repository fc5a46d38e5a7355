//! Cookies: what is asked for, of whom, and for how long.

use super::*;
use crate::messages::Handshake;
use crate::tests::Dice;

const NOW: Time = Time(1_000_000_000);

fn from(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A responder's checker, an initiator's maker, and a message with mac1.
fn fixture() -> (Checker, Maker, Vec<u8>) {
    let key = PublicKey([7; 32]);
    let mut maker = Maker::new(&key);
    let mut message = vec![1; 148];
    message[116..].fill(0);
    maker.stamp(&mut message, NOW);
    (Checker::new(&key), maker, message)
}

fn consume(maker: &mut Maker, reply: &[u8], now: Time) -> bool {
    match crate::messages::parse_handshake(reply) {
        Some(Handshake::CookieReply(reply)) => maker.consume(&reply, now),
        _ => panic!("not a cookie reply"),
    }
}

#[test]
fn mac1_is_always_checked() {
    let (checker, _, message) = fixture();
    let alice = from("192.0.2.1:1");
    assert_eq!(checker.check(&message, alice, None, NOW), Verdict::Pass);
    for place in 0..132 {
        let mut changed = message.clone();
        changed[place] ^= 1;
        assert_eq!(checker.check(&changed, alice, None, NOW), Verdict::Foreign);
        assert_eq!(
            checker.check(&changed, alice, Some(&mut Limiter::default()), NOW),
            Verdict::Foreign
        );
    }
    assert_eq!(
        checker.check(&message[..31], alice, None, NOW),
        Verdict::Foreign
    );
    assert_eq!(
        Checker::new(&PublicKey([8; 32])).check(&message, alice, None, NOW),
        Verdict::Foreign
    );
}

#[test]
fn under_load_a_cookie_is_asked_for_and_then_honoured() {
    let (mut checker, mut maker, mut message) = fixture();
    let mut limiter = Limiter::default();
    let alice = from("192.0.2.1:1000");
    assert_eq!(
        checker.check(&message, alice, Some(&mut limiter), NOW),
        Verdict::NeedsCookie
    );
    let reply = checker
        .reply(&message, 5, alice, NOW, &mut Dice(1))
        .unwrap();
    assert!(consume(&mut maker, &reply, NOW));
    assert!(
        !consume(&mut maker, &reply, NOW),
        "one cookie for one message"
    );
    maker.stamp(&mut message, NOW);
    assert_eq!(
        checker.check(&message, alice, Some(&mut limiter), NOW),
        Verdict::Pass
    );
    for stranger in ["192.0.2.2:1000", "192.0.2.1:1001"] {
        let verdict = checker.check(&message, from(stranger), Some(&mut limiter), NOW);
        assert_eq!(
            verdict,
            Verdict::NeedsCookie,
            "the cookie is bound to address and port"
        );
    }
    let later = NOW.after(SECRET_AGE);
    assert_eq!(
        checker.check(&message, alice, Some(&mut limiter), later),
        Verdict::NeedsCookie
    );
}

#[test]
fn a_source_with_a_cookie_is_still_limited() {
    let (mut checker, mut maker, mut message) = fixture();
    let mut limiter = Limiter::default();
    let alice = from("192.0.2.1:1000");
    let reply = checker
        .reply(&message, 5, alice, NOW, &mut Dice(1))
        .unwrap();
    consume(&mut maker, &reply, NOW);
    maker.stamp(&mut message, NOW);
    let verdicts: Vec<_> = (0..6)
        .map(|_| checker.check(&message, alice, Some(&mut limiter), NOW))
        .collect();
    assert_eq!(verdicts[..5], [Verdict::Pass; 5]);
    assert_eq!(verdicts[5], Verdict::Drop);
}

#[test]
fn a_forged_cookie_is_not_taken() {
    let (mut checker, mut maker, message) = fixture();
    let alice = from("192.0.2.1:1000");
    let reply = checker
        .reply(&message, 5, alice, NOW, &mut Dice(1))
        .unwrap();
    for place in 8..64 {
        let mut changed = reply;
        changed[place] ^= 1;
        assert!(!consume(&mut maker, &changed, NOW));
    }
    let mut other = message.clone();
    other[120] ^= 1;
    let for_other = checker.reply(&other, 5, alice, NOW, &mut Dice(1)).unwrap();
    assert!(
        !consume(&mut maker, &for_other, NOW),
        "a cookie for another message"
    );
    assert!(consume(&mut maker, &reply, NOW));
    assert!(checker
        .reply(&message[..31], 5, alice, NOW, &mut Dice(1))
        .is_none());
}

#[test]
fn an_old_cookie_is_not_used() {
    let (mut checker, mut maker, mut message) = fixture();
    let reply = checker
        .reply(&message, 5, from("192.0.2.1:1"), NOW, &mut Dice(1))
        .unwrap();
    consume(&mut maker, &reply, NOW);
    message[132..].fill(0);
    maker.stamp(&mut message, NOW.after(COOKIE_AGE));
    assert_eq!(message[132..], [0; 16]);
}
