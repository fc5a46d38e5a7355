//! The timer rules of paper section 6 and kernel timers.c, one by one: what is sent when nothing, or something, comes.

use super::*;
use crate::messages::*;

/// When messages of a kind were sent by a node, in whole seconds since `start`.
pub(super) fn times(world: &World, kind: u8, node: usize, start: Time) -> Vec<u64> {
    let from = world.nodes[node].address;
    let chosen = world
        .seen
        .iter()
        .filter(|wire| wire.kind() == kind && wire.from == from && wire.at >= start);
    chosen.map(|wire| wire.at.since(start).as_secs()).collect()
}

/// A pair with a session that both have confirmed, and its time.
pub(super) fn connected(seed: u64) -> (World, Time) {
    let mut world = World::pair(seed);
    let start = world.now;
    world.talk(ALICE, BOB, 0);
    world.pass(seconds(1));
    world.talk(BOB, ALICE, 0);
    world.pass(seconds(1));
    (world, start)
}

#[test]
fn the_first_reply_goes_out_under_the_session_it_answers() {
    let (mut world, _) = connected(21);
    world.pass(seconds(6));
    let bob = world.nodes[BOB].key;
    control!(world, ALICE, |device, _ctx| device.remove_peer(&bob));
    world.introduce(ALICE, BOB);
    world.talk(ALICE, BOB, 1);
    world.pass(2 * world.weather.latency);
    let first = world.seen.last().cloned().unwrap();
    assert_eq!(first.kind(), 4, "alice has the response and sends");
    // Bob's packet threads are faster than his control thread, which hears of this only after the reply is sent.
    world.nodes[BOB].attends = false;
    world.arrive(first);
    assert_eq!(world.nodes[BOB].numbers(), [0, 1]);
    world.talk(BOB, ALICE, 2);
    world.nodes[BOB].attends = true;
    world.pass(seconds(1));
    assert_eq!(world.nodes[ALICE].numbers(), [0, 2]);
}

#[test]
fn a_session_that_was_used_is_not_dropped_for_the_next_one_before_control_has_heard_of_it() {
    let mut world = World::new(3, 22);
    world.introduce(ALICE, BOB);
    world.introduce(BOB, ALICE);
    world.talk(ALICE, BOB, 1);
    world.pass(2 * world.weather.latency);
    let first = world.seen.last().cloned().unwrap();
    world.nodes[BOB].attends = false;
    world.arrive(first);
    assert_eq!(world.nodes[BOB].numbers(), [1]);
    world.talk(ALICE, BOB, 2);
    let second = world.seen.last().cloned().unwrap();
    // Alice begins another handshake at once, from wherever she is now.
    let (bob, private) = (world.nodes[BOB].key, world.nodes[ALICE].private.clone());
    world.nodes[2].device.set_private_key(Some(private));
    world.introduce(2, BOB);
    world.now = world.now.after(Duration::from_millis(50));
    control!(world, 2, |device, ctx| device.shake_hands(ctx, &bob)).unwrap();
    let initiation = world.seen.last().cloned().unwrap();
    assert_eq!(initiation.kind(), 1);
    world.arrive(initiation);
    assert_eq!(world.seen.last().map(Wire::kind), Some(2), "it is answered");
    world.arrive(second);
    assert_eq!(world.nodes[BOB].numbers(), [1, 2]);
}

#[test]
fn data_without_an_answer_brings_a_handshake_after_fifteen_seconds() {
    let (mut world, _) = connected(4);
    world.nodes[BOB].online = false;
    let start = world.now;
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(14));
    assert_eq!(times(&world, 1, ALICE, start), [0u64; 0]);
    world.pass(seconds(2));
    assert_eq!(times(&world, 1, ALICE, start), [15]);
}

#[test]
fn an_unanswered_handshake_is_tried_every_five_seconds_and_given_up() {
    let mut world = World::pair(5);
    world.nodes[BOB].online = false;
    let start = world.now;
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(400));
    let times = times(&world, 1, ALICE, start);
    assert_eq!(
        times.len() as u32,
        MAX_HANDSHAKE_RETRIES + 2,
        "the kernel counts like this"
    );
    assert!(
        times
            .windows(2)
            .all(|pair| (5..=6).contains(&(pair[1] - pair[0]))),
        "{times:?}"
    );
    let status = world.status(ALICE, BOB);
    assert_eq!(
        (status.attempts, status.trouble),
        (0, Some(Trouble::Unanswered(20)))
    );
    assert_eq!(
        world.nodes[ALICE].events.last(),
        Some(&Event::GivenUp(world.nodes[BOB].key))
    );
    world.nodes[BOB].online = true;
    world.talk(ALICE, BOB, 2);
    world.pass(seconds(1));
    assert_eq!(
        world.nodes[BOB].numbers(),
        [2],
        "what waited was dropped, what is new is tried at once"
    );
}

#[test]
fn new_packets_keep_the_handshake_going() {
    let mut world = World::pair(6);
    world.nodes[BOB].online = false;
    for number in 0..30 {
        world.talk(ALICE, BOB, number);
        world.pass(seconds(10));
    }
    assert!(!world.nodes[ALICE]
        .events
        .contains(&Event::GivenUp(world.nodes[BOB].key)));
    assert!(world.count(1) >= 50);
}

#[test]
fn handshake_tries_are_jittered() {
    let mut gaps = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let mut world = World::pair(seed);
        world.nodes[BOB].online = false;
        world.talk(ALICE, BOB, 1);
        world.pass(seconds(6));
        let gap = world.seen[1].at.since(world.seen[0].at);
        assert!((REKEY_TIMEOUT..REKEY_TIMEOUT + REKEY_TIMEOUT_JITTER).contains(&gap));
        gaps.insert(gap);
    }
    assert!(gaps.len() > 10);
}

#[test]
fn the_initiator_alone_rekeys_after_two_minutes() {
    let (mut world, start) = connected(7);
    for _ in 0..115 {
        world.talk(ALICE, BOB, 1);
        world.talk(BOB, ALICE, 1);
        world.pass(seconds(1));
    }
    assert_eq!(world.count(1), 1);
    for _ in 0..9 {
        world.talk(BOB, ALICE, 1);
        world.pass(seconds(1));
    }
    assert!(world.now.since(start) > REKEY_AFTER_TIME);
    assert_eq!(
        world.count(1),
        1,
        "alice has not sent anything meanwhile, bob is not the initiator"
    );
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    assert_eq!(times(&world, 1, ALICE, start).len(), 2);
    assert_eq!(times(&world, 1, BOB, start).len(), 0);
    assert!(world.nodes[BOB]
        .verdicts
        .iter()
        .chain(&world.nodes[ALICE].verdicts)
        .all(|v| *v != Verdict::Forged));
}

#[test]
fn one_who_only_receives_rekeys_in_the_last_minute() {
    let (mut world, start) = connected(8);
    world.pass(Duration::from_millis(162_500));
    // Nothing was said for long. Now bob talks; alice, the initiator, has nothing to send.
    for _ in 0..2 {
        world.talk(BOB, ALICE, 1);
        world.pass(Duration::from_millis(300));
    }
    assert_eq!(times(&world, 1, ALICE, start), [0]);
    for _ in 0..5 {
        world.talk(BOB, ALICE, 1);
        world.pass(Duration::from_millis(300));
    }
    assert_eq!(
        times(&world, 1, ALICE, start),
        [0, 165],
        "165 s after the session began, before a keepalive is owed"
    );
}

#[test]
fn a_session_rekeys_after_two_to_the_sixty_messages() {
    let (mut world, _) = connected(9);
    let session = |world: &mut World| {
        let route = world.nodes[ALICE]
            .reader
            .table()
            .route(inner(BOB))
            .cloned()
            .unwrap();
        route.session.unwrap()
    };
    world.pass(seconds(6));
    session(&mut world).set_counter(REKEY_AFTER_MESSAGES - 1);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    assert_eq!(world.count(1), 1, "these were 2^60 messages");
    world.talk(ALICE, BOB, 2);
    world.pass(seconds(1));
    assert_eq!(world.count(1), 2, "this was one more");
    assert_eq!(
        session(&mut world).counter(),
        1,
        "the keepalive that confirms the new session"
    );
}

#[test]
fn a_session_ends_before_its_counters_do() {
    let (mut world, _) = connected(10);
    let before = world.seen.len();
    let route = world.nodes[ALICE]
        .reader
        .table()
        .route(inner(BOB))
        .cloned()
        .unwrap();
    let session = route.session.clone().unwrap();
    session.set_counter(REJECT_AFTER_MESSAGES - 1);
    let mut run = vec![0; 2 * 64];
    assert_eq!(
        route.seal(world.now, &mut run, 64),
        Err(NoSession),
        "a run that would pass the limit"
    );
    assert_eq!(run, vec![0; 128], "nothing was written");
    session.set_counter(REJECT_AFTER_MESSAGES - 1);
    let wake = route
        .seal(world.now, &mut run[..64], 64)
        .expect("the last message of all");
    world.wake(ALICE, wake);
    assert_eq!(route.seal(world.now, &mut run[..64], 64), Err(NoSession));
    world.pass(seconds(4));
    world.talk(ALICE, BOB, 5);
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), [0, 5]);
    assert!(world.kinds_since(before).contains(&(1, ALICE)));
}

#[test]
fn a_session_is_refused_after_three_minutes() {
    let (mut world, _) = connected(11);
    // Eve holds a packet back.
    world.weather.loss = 100;
    world.talk(ALICE, BOB, 1);
    let held = world.seen.last().cloned().unwrap();
    world.weather.loss = 0;
    let mut young = held.clone();
    young.from = world.nodes[ALICE].address;
    world.pass(seconds(200));
    let before = world.nodes[BOB].verdicts.len();
    world.arrive(held);
    assert_eq!(world.nodes[BOB].verdicts[before..], [Verdict::Forged]);
    assert!(!world.status(ALICE, BOB).connected && !world.status(BOB, ALICE).connected);
}

#[test]
fn keys_are_erased_after_nine_minutes_and_then_nothing_is_due() {
    let (mut world, _) = connected(12);
    let mut reader = world.nodes[ALICE].reader.clone();
    let session = reader
        .table()
        .route(inner(BOB))
        .unwrap()
        .session
        .clone()
        .unwrap();
    let index = session.local_index();
    let weak = std::sync::Arc::downgrade(&session);
    drop(session);
    drop(reader);
    world.pass(seconds(500));
    assert!(weak.upgrade().is_some());
    world.pass(seconds(100));
    for node in [ALICE, BOB] {
        world.nodes[node].reader.let_go_of_old();
    }
    assert!(weak.upgrade().is_none(), "nobody holds the keys any more");
    assert!(world.nodes[ALICE].reader.table().receiver(index).is_none());
    assert!(world.nodes[ALICE]
        .events
        .contains(&Event::Erased(world.nodes[BOB].key)));
    assert_eq!(world.nodes[ALICE].device.next_timeout(), None);
    assert_eq!(world.nodes[BOB].device.next_timeout(), None);
    world.talk(BOB, ALICE, 9);
    world.pass(seconds(1));
    assert_eq!(world.nodes[ALICE].numbers(), [0, 9]);
}

#[test]
fn a_half_made_handshake_is_erased_too() {
    let mut world = World::pair(13);
    world.nodes[BOB].online = false;
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(700));
    assert_eq!(world.nodes[ALICE].device.next_timeout(), None);
}

#[test]
fn a_handshake_asked_for_too_soon_is_put_off_not_forgotten() {
    let mut world = World::pair(19);
    let bob = world.nodes[BOB].key;
    let start = world.now;
    control!(world, ALICE, |device, ctx| device.shake_hands(ctx, &bob)).unwrap();
    world.pass(world.weather.latency);
    // Bob's answer is lost, so that he has no session to send with.
    world.nodes[ALICE].online = false;
    world.pass(seconds(1));
    world.nodes[ALICE].online = true;
    world.talk(BOB, ALICE, 1);
    world.pass(seconds(10));
    assert_eq!(times(&world, 1, BOB, start), [5]);
    assert_eq!(world.nodes[ALICE].numbers(), [1]);
}

#[test]
fn all_tries_forget_the_sticky_source() {
    let mut world = World::pair(20);
    world.nodes[BOB].online = false;
    let (bob, remote) = (world.nodes[BOB].key, world.nodes[BOB].address);
    let local = Some(Local {
        ip: IpAddr::from([192, 0, 2, 1]),
        ifindex: 2,
    });
    let shared = world.nodes[ALICE].device.shared_peer(&bob).unwrap();
    shared.endpoint.set(Some(Endpoint { remote, local }));
    world.talk(ALICE, BOB, 1);
    assert_eq!(shared.endpoint().unwrap().local, local);
    world.pass(seconds(6));
    assert_eq!(shared.endpoint(), Some(Endpoint::new(remote)));
}

#[test]
fn packets_of_a_replaced_session_ask_for_nothing() {
    let (mut world, start) = connected(21);
    world.pass(seconds(150));
    let bob = world.nodes[BOB].key;
    // Alice has a new session, but what would tell bob so is lost: he goes on with the old one.
    control!(world, ALICE, |device, ctx| device.shake_hands(ctx, &bob)).unwrap();
    world.pass(Duration::from_millis(15));
    world.weather.loss = 100;
    world.pass(Duration::from_millis(10));
    world.weather = Weather::FINE;
    assert!(world.status(ALICE, BOB).connected);
    world.pass(seconds(14));
    assert!(world.now.since(start) > seconds(165));
    let (delivered, sent) = (world.nodes[ALICE].delivered.len(), world.seen.len());
    world.talk(BOB, ALICE, 1);
    world.pass(seconds(1));
    assert_eq!(world.nodes[ALICE].delivered.len(), delivered + 1);
    assert_eq!(world.kinds_since(sent), [(4, BOB)]);
    let shared = world.nodes[ALICE].device.shared_peer(&bob).unwrap();
    assert!(!shared
        .rx
        .last_minute
        .load(core::sync::atomic::Ordering::Relaxed));
}
