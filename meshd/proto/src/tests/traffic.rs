//! Alice talks to bob: handshakes, sessions, packets both ways.

use super::*;

#[test]
fn a_first_packet_makes_a_session_and_arrives() {
    let mut world = World::pair(1);
    world.talk(ALICE, BOB, 7);
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), [7]);
    assert_eq!(world.kinds_since(0), [(1, ALICE), (2, BOB), (4, ALICE)]);
    assert!(world.status(ALICE, BOB).connected && world.status(BOB, ALICE).connected);
    world.talk(BOB, ALICE, 8);
    world.pass(seconds(1));
    assert_eq!(world.nodes[ALICE].numbers(), [8]);
    assert_eq!(world.nodes[ALICE].delivered[0].0, world.nodes[BOB].key);
}

#[test]
fn an_initiator_without_packets_confirms_by_a_keepalive() {
    let mut world = World::pair(1);
    let bob = world.nodes[BOB].key;
    control!(world, ALICE, |device, ctx| device.shake_hands(ctx, &bob)).unwrap();
    world.pass(seconds(1));
    assert_eq!(world.kinds_since(0), [(1, ALICE), (2, BOB), (4, ALICE)]);
    assert!(world.seen[2].is_keepalive());
    assert!(world.status(BOB, ALICE).connected);
}

#[test]
fn staged_packets_come_out_in_order() {
    let mut world = World::pair(1);
    for number in 0..200 {
        world.talk(ALICE, BOB, number);
    }
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), (72..200).collect::<Vec<_>>());
    assert_eq!(world.nodes[ALICE].wakes, 1, "one wake-up for all of them");
}

#[test]
fn both_initiating_at_once_ends_in_working_sessions() {
    let mut world = World::pair(3);
    world.talk(ALICE, BOB, 1);
    world.talk(BOB, ALICE, 2);
    world.pass(seconds(1));
    for number in 3..10 {
        world.talk(ALICE, BOB, number);
        world.talk(BOB, ALICE, number);
        world.pass(seconds(1));
    }
    assert_eq!(world.nodes[BOB].numbers(), [1, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(world.nodes[ALICE].numbers(), [2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(world.count(1), 2, "no retry was needed");
}

#[test]
fn a_preshared_key_must_be_the_same() {
    let mut world = World::pair(4);
    let (alice, bob) = (world.nodes[ALICE].key, world.nodes[BOB].key);
    world.nodes[ALICE]
        .device
        .set_preshared_key(&bob, PresharedKey::new([1; 32]))
        .unwrap();
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(12));
    assert!(world.nodes[BOB].numbers().is_empty());
    assert_eq!(
        world.status(ALICE, BOB).trouble,
        Some(Trouble::PresharedKeyMismatch)
    );
    assert!(matches!(
        world.status(BOB, ALICE).trouble,
        Some(Trouble::AnswerUnused(2))
    ));
    world.nodes[BOB]
        .device
        .set_preshared_key(&alice, PresharedKey::new([1; 32]))
        .unwrap();
    world.pass(seconds(10));
    assert_eq!(
        world.nodes[BOB].numbers(),
        [1],
        "a changed preshared key is used by the next try"
    );
    assert_eq!(world.status(ALICE, BOB).trouble, None);
}

#[test]
fn a_changed_preshared_key_is_used_from_the_next_handshake_on() {
    let mut world = World::pair(5);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(6));
    let (alice, bob) = (world.nodes[ALICE].key, world.nodes[BOB].key);
    for (node, peer) in [(ALICE, bob), (BOB, alice)] {
        world.nodes[node]
            .device
            .set_preshared_key(&peer, PresharedKey::new([9; 32]))
            .unwrap();
    }
    world.talk(ALICE, BOB, 2);
    control!(world, ALICE, |device, ctx| device.shake_hands(ctx, &bob)).unwrap();
    world.pass(seconds(1));
    world.talk(ALICE, BOB, 3);
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), [1, 2, 3]);
    assert_eq!((world.count(1), world.count(2)), (2, 2));
}

#[test]
fn a_changed_private_key_shakes_hands_anew() {
    let mut world = World::pair(6);
    world.talk(ALICE, BOB, 1);
    // Right after a handshake too: with this key there was none.
    world.pass(seconds(1));
    let new = crypto::generate(&mut Dice(99));
    let (old_key, new_key) = (world.nodes[ALICE].key, new.public());
    world.nodes[ALICE].device.set_private_key(Some(new));
    control!(world, BOB, |device, ctx| {
        device.upsert_peer(&new_key);
        device
            .set_allowed_ips(&new_key, &[Cidr::host(inner(ALICE))])
            .unwrap();
        assert!(device.remove_peer(&old_key));
        let _ = ctx;
    });
    world.talk(ALICE, BOB, 2);
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), [1, 2]);
    assert_eq!(world.nodes[BOB].delivered[1].0, new_key);
}

#[test]
fn setting_our_own_key_removes_the_peer_that_has_it() {
    let mut world = World::pair(7);
    let bob = world.nodes[BOB].private.clone();
    world.nodes[ALICE].device.set_private_key(Some(bob.clone()));
    assert_eq!(world.nodes[ALICE].device.peer_count(), 0);
    assert_eq!(
        world.nodes[ALICE].device.upsert_peer(&bob.public()),
        Upsert::OwnKey
    );
}

#[test]
fn a_hub_passes_packets_on() {
    const CAROL: usize = 2;
    let mut world = World::new(3, 8);
    for (node, other) in [(ALICE, BOB), (BOB, ALICE), (CAROL, BOB), (BOB, CAROL)] {
        world.introduce(node, other);
    }
    let bob = world.nodes[BOB].key;
    for node in [ALICE, CAROL] {
        world.nodes[node]
            .device
            .add_allowed_ip(&bob, Cidr::new(inner(0), 24).unwrap())
            .unwrap();
    }
    world.transmit(ALICE, &packet(inner(ALICE), inner(CAROL), 5));
    world.pass(seconds(1));
    let (from, forwarded) = world.nodes[BOB].delivered.pop().unwrap();
    assert_eq!(from, world.nodes[ALICE].key);
    world.transmit(BOB, &forwarded);
    world.pass(seconds(1));
    assert_eq!(world.nodes[CAROL].numbers(), [5]);
}

#[test]
fn an_injected_packet_goes_to_the_named_peer() {
    let mut world = World::pair(9);
    let bob = world.nodes[BOB].key;
    let probe = packet(inner(ALICE), IpAddr::from([203, 0, 113, 1]), 6);
    control!(world, ALICE, |device, ctx| device.send(ctx, &bob, &probe)).unwrap();
    world.pass(seconds(1));
    control!(world, ALICE, |device, ctx| device.send(ctx, &bob, &probe)).unwrap();
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), [6, 6]);
}

#[test]
fn runs_are_padded_and_opened_in_one_batch() {
    let mut world = World::pair(10);
    world.talk(ALICE, BOB, 0);
    world.pass(seconds(1));
    let stride = data_len(24, MTU);
    assert_eq!(stride, 32 + 32);
    let mut run = vec![0; 3 * stride - 16];
    for (number, message) in run.chunks_mut(stride).enumerate() {
        message[DATA_HEADER..][..24].copy_from_slice(&packet(
            inner(ALICE),
            inner(BOB),
            number as u32,
        ));
        if message.len() < stride {
            message[DATA_HEADER + 3] = 16 + 8; // as long as there is room: still a whole packet
        }
    }
    let last = run.len() - (2 * stride);
    assert!(last >= DATA_OVERHEAD);
    let (now, from) = (world.now, Endpoint::new(world.nodes[ALICE].address));
    let mut alice = world.nodes[ALICE].reader.clone();
    assert!(alice
        .table()
        .route(inner(BOB))
        .unwrap()
        .seal(now, &mut run, stride)
        .is_ok());
    let mut batch = Batch::with_capacity(3);
    let mut index = 0;
    for (number, message) in run.chunks(stride).enumerate() {
        let Kind::Data { receiver, counter } = classify(message) else {
            panic!("not a data message");
        };
        index = receiver;
        batch.push(number * stride, message.len(), counter);
    }
    run[stride + 20] ^= 1; // eve
    let mut bob = world.nodes[BOB].reader.clone();
    let table = bob.table();
    let wake = table
        .receiver(index)
        .unwrap()
        .open(table, now, &from, &mut run, &mut batch);
    let verdicts: Vec<_> = batch
        .opened()
        .iter()
        .map(|opened| (opened.len, opened.verdict))
        .collect();
    assert_eq!(
        verdicts,
        [
            (24, Verdict::Packet),
            (0, Verdict::Forged),
            (0, Verdict::Malformed)
        ]
    );
    assert_eq!(
        wake,
        Wake::No,
        "the keepalive that is owed is watched already"
    );
}

#[test]
fn misshapen_runs_are_refused() {
    let mut world = World::pair(11);
    world.talk(ALICE, BOB, 0);
    world.pass(seconds(1));
    let now = world.now;
    let route = world.nodes[ALICE].reader.table().route(inner(BOB)).unwrap();
    for (len, stride) in [(0, 64), (64, 0), (64, 31), (64 + 31, 64), (31, 64)] {
        assert_eq!(
            route.seal(now, &mut vec![0; len], stride),
            Err(NoSession),
            "{len} by {stride}"
        );
    }
}

#[test]
fn link_down_forgets_everything_and_link_up_starts_again() {
    let mut world = World::pair(12);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    control!(world, ALICE, |device, ctx| device.set_link(ctx, false));
    assert!(!world.status(ALICE, BOB).connected);
    assert_eq!(world.nodes[ALICE].device.next_timeout(), None);
    world.talk(ALICE, BOB, 2);
    world.pass(seconds(10));
    assert_eq!(world.nodes[BOB].numbers(), [1]);
    control!(world, ALICE, |device, ctx| device.set_link(ctx, true));
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), [1, 2]);
}

#[test]
fn removing_a_peer_removes_all_of_it() {
    let mut world = World::pair(13);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    let bob = world.nodes[BOB].key;
    assert!(world.nodes[ALICE].device.remove_peer(&bob));
    assert!(!world.nodes[ALICE].device.remove_peer(&bob));
    assert!(world.nodes[ALICE]
        .reader
        .table()
        .route(inner(BOB))
        .is_none());
    assert_eq!(world.nodes[ALICE].device.next_timeout(), None);
    let verdicts = world.nodes[ALICE].verdicts.len();
    world.talk(BOB, ALICE, 2);
    world.pass(seconds(1));
    assert_eq!(
        world.nodes[ALICE].verdicts.len(),
        verdicts,
        "its index means nothing any more"
    );
}
