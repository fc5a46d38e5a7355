//! Rounds of probes against a virtual clock.

use super::*;

const A: PublicKey = PublicKey([1; 32]);
const B: PublicKey = PublicKey([2; 32]);
const WAIT: Duration = Duration::from_secs(10);

fn ms(n: u64) -> Time {
    Time(1_000_000_000 + n * 1_000_000)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn begun() -> Links {
    let mut links = Links::default();
    links.begin(ms(0), WAIT, [(A, Some(ip("10.0.0.1"))), (B, None)]);
    links
}

#[test]
fn an_answered_echo_is_a_round_trip() {
    let mut links = begun();
    let asks = links.due(ms(0));
    assert_eq!(
        asks,
        [
            Ask::Echo {
                key: A,
                to: ip("10.0.0.1"),
                sequence: 1
            },
            Ask::Shake(B)
        ]
    );
    links.answered(ms(7), ip("10.0.0.1"), 1);
    links.established(ms(8), &B);
    assert!(links.settled([&A, &B]));
    assert_eq!(links.due(ms(8)), []);
    assert_eq!(links.next_timeout(), None, "the round is over");
    let a = links.vitals(&A).unwrap();
    assert_eq!(
        (a.alive, a.rtt, a.loss),
        (true, Some(Duration::from_millis(7)), Some(0.0))
    );
    let b = links.vitals(&B).unwrap();
    assert_eq!((b.alive, b.rtt, b.loss), (true, None, None));
}

#[test]
fn silence_is_death_at_the_deadline_and_not_before() {
    let mut links = begun();
    let mut now = ms(0);
    let mut asks = Vec::new();
    while let Some(next) = links.next_timeout() {
        now = next;
        asks.extend(links.due(now));
        assert!(links.vitals(&A).is_none_or(|v| !v.alive));
    }
    assert_eq!(now, ms(10_000));
    assert_eq!(
        asks.iter()
            .filter(|ask| matches!(ask, Ask::Shake(k) if *k == A))
            .count(),
        1
    );
    let vitals = links.vitals(&A).unwrap();
    assert_eq!(
        (vitals.alive, vitals.rtt, vitals.loss),
        (false, None, Some(1.0))
    );
}

#[test]
fn a_peer_that_answers_no_ping_is_alive_by_its_handshake() {
    let mut links = begun();
    links.due(ms(0));
    links.heard(&A, Time(5));
    assert!(!links.settled([&A]), "that was before the round");
    links.heard(&A, ms(3));
    while let Some(next) = links.next_timeout() {
        links.due(next);
    }
    let vitals = links.vitals(&A).unwrap();
    assert_eq!((vitals.alive, vitals.rtt), (true, None));
}

#[test]
fn what_comes_under_a_session_that_is_about_to_end_does_not_count() {
    for moves in [false, true] {
        let mut links = begun();
        links.is_ending(&A, true);
        links.due(ms(0));
        links.answered(ms(1), ip("10.0.0.1"), 1);
        links.heard(&A, ms(2));
        assert!(!links.settled([&A]), "it may still move");
        if moves {
            links.established(ms(700), &A);
        }
        while let Some(next) = links.next_timeout() {
            links.due(next);
        }
        assert_eq!(links.vitals(&A).unwrap().alive, moves);
    }
    // Its keys are back.
    let mut links = begun();
    links.is_ending(&A, true);
    links.due(ms(0));
    links.is_ending(&A, false);
    links.answered(ms(1), ip("10.0.0.1"), 1);
    assert!(links.settled([&A]));
}

#[test]
fn echoes_that_waited_for_a_session_tell_no_round_trip() {
    let mut links = begun();
    links.due(ms(0));
    links.established(ms(90), &A);
    let asks = links.due(ms(90));
    assert!(matches!(asks[0], Ask::Echo { sequence: 2, .. }), "{asks:?}");
    links.answered(ms(91), ip("10.0.0.1"), 1);
    links.answered(ms(95), ip("10.0.0.1"), 2);
    links.finish(ms(96));
    let vitals = links.vitals(&A).unwrap();
    assert_eq!(
        (vitals.rtt, vitals.loss),
        (Some(Duration::from_millis(5)), Some(0.0))
    );
}

#[test]
fn gone_peers_are_forgotten() {
    let mut links = begun();
    links.finish(ms(1));
    links.retain(|key| *key == A);
    assert!(links.vitals(&A).is_some() && links.vitals(&B).is_none());
}
