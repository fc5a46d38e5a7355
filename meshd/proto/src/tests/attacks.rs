//! Eve: replays, forgeries, foreign addresses, floods. The list follows gotatun's changelog of what went wrong there, and
//! section 6 of the paper.

use super::*;
use crate::messages::*;

/// Where eve sends from.
pub(super) fn eve() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 66], 666))
}

pub(super) fn connected(seed: u64) -> World {
    let mut world = World::pair(seed);
    world.talk(ALICE, BOB, 0);
    world.pass(seconds(1));
    world.talk(BOB, ALICE, 0);
    world.pass(seconds(1));
    world
}

/// Everything seen so far is sent again to where it went, by eve.
fn replay_all(world: &mut World) {
    for mut wire in world.seen.clone() {
        wire.from = eve();
        world.arrive(wire);
    }
}

#[test]
fn replayed_messages_do_nothing() {
    let mut world = connected(1);
    let (sent, wakes) = (world.seen.len(), world.nodes[BOB].wakes);
    replay_all(&mut world);
    world.pass(Duration::from_millis(100));
    assert_eq!(world.seen.len(), sent, "silence");
    assert_eq!(
        (world.nodes[BOB].numbers(), world.nodes[ALICE].numbers()),
        (vec![0], vec![0])
    );
    assert_eq!(world.nodes[BOB].wakes, wakes);
    for (node, other) in [(ALICE, BOB), (BOB, ALICE)] {
        let endpoint = world.status(node, other).endpoint.unwrap();
        assert_eq!(
            endpoint.remote, world.nodes[other].address,
            "a replay moves no endpoint"
        );
    }
}

#[test]
fn a_replayed_initiation_is_refused_after_a_restart_of_the_initiator_too() {
    let mut world = connected(2);
    let first = world.seen[0].clone();
    world.pass(seconds(200));
    let sent = world.seen.len();
    world.arrive(first);
    assert_eq!(world.seen.len(), sent);
    assert_eq!(
        world.status(BOB, ALICE).trouble,
        Some(Trouble::StaleTimestamp)
    );
}

#[test]
fn every_changed_bit_is_noticed() {
    let mut world = World::pair(3);
    world.weather.loss = 100;
    world.talk(ALICE, BOB, 0);
    let initiation = world.seen[0].clone();
    for bit in 0..8 * INITIATION_LEN {
        let mut changed = initiation.clone();
        changed.bytes[bit / 8] ^= 1 << (bit % 8);
        world.arrive(changed);
    }
    // mac2 is not looked at while there is no load: those 128 are answered once, then they are replays.
    assert_eq!(world.kinds_since(0), [(1, ALICE), (2, BOB)]);
    let response = world.seen[1].clone();
    for bit in 0..8 * (RESPONSE_LEN - 16) {
        let mut changed = response.clone();
        changed.bytes[bit / 8] ^= 1 << (bit % 8);
        world.arrive(changed);
    }
    assert!(!world.status(ALICE, BOB).connected);
    world.arrive(response);
    assert!(
        world.status(ALICE, BOB).connected,
        "a forged response does not spoil the true one"
    );
    let data = world.seen[2].clone();
    for bit in 0..8 * data.bytes.len() {
        let mut changed = data.clone();
        changed.bytes[bit / 8] ^= 1 << (bit % 8);
        world.arrive(changed);
    }
    assert!(world.nodes[BOB].numbers().is_empty());
    world.arrive(data);
    assert_eq!(world.nodes[BOB].numbers(), [0]);
}

#[test]
fn a_forged_response_does_not_spoil_the_handshake() {
    let mut world = World::pair(20);
    world.weather.loss = 100;
    world.talk(ALICE, BOB, 0);
    world.arrive(world.seen[0].clone());
    let response = world.seen[1].clone();
    // Eve has seen the initiation's index and knows alice's public key, so she can make the right mac1.
    let mut forged = response.clone();
    forged.from = eve();
    forged.bytes[20] ^= 1;
    crate::cookie::Maker::new(&world.nodes[ALICE].key).stamp(&mut forged.bytes, world.now);
    world.arrive(forged);
    assert!(!world.status(ALICE, BOB).connected);
    assert_eq!(
        world.status(ALICE, BOB).trouble,
        Some(Trouble::PresharedKeyMismatch)
    );
    world.arrive(response);
    assert!(world.status(ALICE, BOB).connected);
    let endpoint = world.status(ALICE, BOB).endpoint.unwrap();
    assert_eq!(endpoint.remote, world.nodes[BOB].address);
}

#[test]
fn datagrams_of_any_size_and_content_are_survived() {
    let mut world = connected(4);
    let sent = world.seen.len();
    let mut dice = Dice(4);
    for len in (0..300).chain([1500, 4096, 9000, 65_507, 65_535]) {
        for kind in 0..6 {
            let mut bytes = vec![0; len];
            dice.fill(&mut bytes);
            if len >= 4 {
                bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            }
            world.arrive(Wire {
                at: world.now,
                from: eve(),
                to: world.nodes[BOB].address,
                bytes,
            });
        }
    }
    // Long messages for a true receiver index.
    let index = world.seen[2].bytes[4..8].to_vec();
    for len in [32, 33, 4096, 65_535] {
        let mut bytes = vec![0; len];
        bytes[0] = 4;
        bytes[4..8].copy_from_slice(&index);
        world.arrive(Wire {
            at: world.now,
            from: eve(),
            to: world.nodes[BOB].address,
            bytes,
        });
    }
    assert_eq!(world.seen.len(), sent, "silence");
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), [0, 1]);
}

#[test]
fn a_peer_cannot_use_another_peers_addresses() {
    const CAROL: usize = 2;
    let mut world = World::new(3, 5);
    for (node, other) in [(ALICE, BOB), (BOB, ALICE), (CAROL, BOB), (BOB, CAROL)] {
        world.introduce(node, other);
    }
    world.transmit(CAROL, &packet(inner(ALICE), inner(BOB), 1));
    world.pass(seconds(1));
    world.transmit(CAROL, &packet(IpAddr::from([8, 8, 8, 8]), inner(BOB), 2));
    world.pass(seconds(1));
    assert!(world.nodes[BOB].numbers().is_empty());
    assert_eq!(world.nodes[BOB].verdicts, [Verdict::ForeignSource; 2]);
    world.transmit(CAROL, &packet(inner(CAROL), inner(BOB), 3));
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), [3]);
}

#[test]
fn every_packet_of_a_batch_is_judged_by_its_own_source() {
    let mut world = connected(15);
    let (own, foreign) = (inner(ALICE), IpAddr::from([10, 0, 0, 77]));
    let route = world.nodes[ALICE].reader.table().route(inner(BOB)).unwrap();
    let stride = data_len(24, MTU);
    let mut run = vec![0; 5 * stride];
    for (message, source) in run
        .chunks_mut(stride)
        .zip([own, own, foreign, foreign, own])
    {
        message[DATA_HEADER..][..24].copy_from_slice(&packet(source, inner(BOB), 1));
    }
    let _ = route.seal(world.now, &mut run, stride).unwrap();
    let mut batch = Batch::default();
    let mut index = 0;
    for (number, message) in run.chunks(stride).enumerate() {
        let Kind::Data { receiver, counter } = classify(message) else {
            panic!("not a data message");
        };
        index = receiver;
        batch.push(number * stride, stride, counter);
    }
    let from = Endpoint::new(world.nodes[ALICE].address);
    let table = world.nodes[BOB].reader.table();
    let receiver = table.receiver(index).unwrap();
    let _ = receiver.open(table, world.now, &from, &mut run, &mut batch);
    let verdicts: Vec<_> = batch.opened().iter().map(|opened| opened.verdict).collect();
    let (good, bad) = (Verdict::Packet, Verdict::ForeignSource);
    assert_eq!(verdicts, [good, good, bad, bad, good]);
}

#[test]
fn lying_inner_packets_are_dropped() {
    let mut world = connected(6);
    let before = world.nodes[BOB].verdicts.len();
    for change in [(0, 0x55), (2, 0xff), (3, 19), (0, 0x65)] {
        let mut lie = packet(inner(ALICE), inner(BOB), 1);
        let route = world.nodes[ALICE]
            .reader
            .table()
            .route(inner(BOB))
            .cloned()
            .unwrap();
        lie[change.0] = change.1;
        let mut run = vec![0; data_len(lie.len(), MTU)];
        run[DATA_HEADER..][..lie.len()].copy_from_slice(&lie);
        let stride = run.len();
        let _ = route.seal(world.now, &mut run, stride).unwrap();
        world.arrive(Wire {
            at: world.now,
            from: world.nodes[ALICE].address,
            to: world.nodes[BOB].address,
            bytes: run,
        });
    }
    assert_eq!(world.nodes[BOB].verdicts[before..], [Verdict::Malformed; 4]);
}

#[test]
fn strangers_are_answered_with_silence() {
    const CAROL: usize = 2;
    let mut world = World::new(3, 7);
    world.introduce(ALICE, BOB);
    world.introduce(BOB, ALICE);
    world.introduce(CAROL, BOB);
    world.talk(CAROL, BOB, 1);
    world.pass(seconds(4));
    assert_eq!(world.kinds_since(0), [(1, CAROL)]);
    assert_eq!(
        world.nodes[BOB].events,
        [Event::UnknownPeer(world.nodes[CAROL].key)]
    );
    assert!(matches!(world.status(CAROL, BOB).attempts, 1));
}

#[test]
fn one_who_has_the_wrong_key_of_bob_is_answered_with_silence() {
    let mut world = World::new(2, 8);
    let (address, wrong) = (
        world.nodes[BOB].address,
        crypto::generate(&mut Dice(1)).public(),
    );
    world.introduce(BOB, ALICE);
    control!(world, ALICE, |device, ctx| {
        device.upsert_peer(&wrong);
        device
            .set_endpoint(ctx, &wrong, Some(Endpoint::new(address)))
            .unwrap();
        device.shake_hands(ctx, &wrong).unwrap();
    });
    world.pass(seconds(4));
    assert_eq!(world.kinds_since(0), [(1, ALICE)]);
    assert_eq!(world.nodes[BOB].events, []);
}

#[test]
fn session_indices_are_random_and_not_reused_in_order() {
    let mut world = connected(9);
    let bob = world.nodes[BOB].key;
    let mut indices = Vec::new();
    for _ in 0..20 {
        world.pass(seconds(6));
        control!(world, ALICE, |device, ctx| device.shake_hands(ctx, &bob)).unwrap();
        let message = &world.seen.last().unwrap().bytes;
        indices.push(u32::from_le_bytes(message[4..8].try_into().unwrap()));
    }
    // No simple relation: neither steps nor shifts, as an LFSR or a counter would give.
    let steps: std::collections::BTreeSet<_> = indices
        .windows(2)
        .map(|pair| pair[1].wrapping_sub(pair[0]))
        .collect();
    let shifts = indices.windows(2).filter(|pair| {
        pair[1] & 0xff_ffff == pair[0] >> 8 || pair[1] >> 1 == pair[0] & 0x7fff_ffff
    });
    assert_eq!((steps.len(), shifts.count()), (19, 0));
    assert!(indices.iter().any(|index| index >> 24 != 0));
}

#[test]
fn no_nonce_is_used_twice() {
    let mut world = connected(10);
    let route = world.nodes[ALICE]
        .reader
        .table()
        .route(inner(BOB))
        .cloned()
        .unwrap();
    let now = world.now;
    let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for count in 1..200 {
                    let mut run = vec![0; 64 * (1 + count % 7)];
                    let _ = route.seal(now, &mut run, 64).unwrap();
                    for message in run.chunks(64) {
                        let Kind::Data { counter, .. } = classify(message) else {
                            panic!("not a data message");
                        };
                        assert!(
                            seen.lock().unwrap().insert(counter),
                            "counter {counter} twice"
                        );
                    }
                }
            });
        }
    });
    let above = u64::from(u32::MAX) + 5;
    route.session.as_ref().unwrap().set_counter(above);
    let mut run = vec![0; 64];
    let _ = route.seal(now, &mut run, 64).unwrap();
    assert_eq!(run[8..16], above.to_le_bytes(), "counters have 64 bits");
}

#[test]
fn two_idle_ends_do_not_play_ping_pong() {
    let mut world = connected(14);
    world.pass(seconds(60));
    let sent = world.seen.len();
    world.pass(seconds(1000));
    assert_eq!(world.seen.len(), sent);
}

#[test]
fn a_late_response_is_still_taken() {
    let mut world = World::pair(15);
    world.weather.latency = Duration::from_millis(2_400);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(10));
    assert_eq!(world.nodes[BOB].numbers(), [1]);
    assert_eq!(world.count(1), 1);
}

#[test]
fn an_initiation_flood_of_one_peer_is_slowed() {
    let mut world = World::pair(19);
    world.nodes[BOB].online = false;
    let bob = world.nodes[BOB].key;
    // Alice is a thousand times too fast: her daemon restarts again and again.
    let mut flood = Vec::new();
    for _ in 0..20 {
        control!(world, ALICE, |device, ctx| {
            device.set_link(ctx, false);
            device.set_link(ctx, true);
            device.shake_hands(ctx, &bob).unwrap();
        });
        flood.push(world.seen.last().cloned().unwrap());
    }
    world.nodes[BOB].online = true;
    let before = world.count(2);
    for wire in flood {
        world.arrive(wire);
        world.now = world.now.after(Duration::from_millis(1));
    }
    assert_eq!(world.count(2) - before, 1, "50 a second at most");
}
