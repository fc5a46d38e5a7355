//! Alice dies, or makes way, and another alice goes on from her memory; bob notices nothing.

mod ending;

use core::mem;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::*;
use crate::tests::{control, seconds, World, ALICE, BOB};
use crate::{Context, Device, Endpoint, Kind, Outputs, PresharedKey, PrivateKey, Tai64n, Verdict};

const QUICK: Duration = Duration::from_secs(10);

/// Memory as the kernel gives it: zeros.
fn blank(peers: usize) -> Words {
    let words: Vec<AtomicU64> = (0..Memory::words_for(peers))
        .map(|_| AtomicU64::new(0))
        .collect();
    words.leak()
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    /// As by `kill -9`: nothing is done any more.
    Crash,
    /// As for an upgrade.
    Orderly,
}

/// Alice and bob, and alice's memory.
fn pair(seed: u64) -> (World, Words) {
    let mut world = World::pair(seed);
    let words = blank(4);
    begin(&mut world, words);
    (world, words)
}

/// A new alice on these words, who knows bob; how many sessions she has taken up.
fn begin(world: &mut World, words: Words) -> usize {
    let private = world.nodes[ALICE].private.clone();
    begin_as(world, words, private, true)
}

fn begin_as(world: &mut World, words: Words, private: PrivateKey, knows_bob: bool) -> usize {
    new_device(world, words, private);
    if knows_bob {
        world.introduce(ALICE, BOB);
    }
    take_up(world)
}

fn new_device(world: &mut World, words: Words, private: PrivateKey) {
    let memory = Memory::open(words, world.now, QUICK).unwrap();
    let mut device = Device::new(Tai64n::ZERO);
    device.keep_in(memory);
    device.set_private_key(Some(private));
    let reader = device.reader();
    // Whatever the former one holds is never let go of: that would be an end in good order.
    mem::forget(mem::replace(&mut world.nodes[ALICE].device, device));
    mem::forget(mem::replace(&mut world.nodes[ALICE].reader, reader));
}

fn take_up(world: &mut World) -> usize {
    let taken = control!(world, ALICE, |device, ctx| device.restore(ctx));
    control!(world, ALICE, |device, ctx| device.set_link(ctx, true));
    taken
}

fn restart(world: &mut World, words: Words, end: End) -> usize {
    if end == End::Orderly {
        world.nodes[ALICE].device.leave();
    }
    world.now = world.now.after(QUICK);
    begin(world, words)
}

/// Everything that alice has sent: receiver index and counter of each data message.
fn nonces(world: &World) -> Vec<(u32, u64)> {
    let alice = world.nodes[ALICE].address;
    let sent = world.seen.iter().filter(|wire| wire.from == alice);
    sent.filter_map(|wire| match crate::classify(&wire.bytes) {
        Kind::Data { receiver, counter } => Some((receiver, counter)),
        _ => None,
    })
    .collect()
}

#[test]
fn sessions_go_on_and_no_nonce_is_used_twice() {
    for end in [End::Crash, End::Orderly] {
        let (mut world, words) = pair(1);
        for number in 0..20 {
            world.talk(ALICE, BOB, number);
            world.talk(BOB, ALICE, number);
            world.pass(Duration::from_millis(50));
        }
        let handshake = world.status(ALICE, BOB).last_handshake;
        let seen_by_bob = world.status(BOB, ALICE).last_handshake;
        let initiations = world.count(1);
        assert!(handshake.is_some());
        for round in 0..5 {
            assert!(restart(&mut world, words, end) >= 1, "round {round}");
            world.nodes[ALICE].delivered.clear();
            world.talk(ALICE, BOB, 100 + round);
            world.talk(BOB, ALICE, 200 + round);
            world.pass(Duration::from_millis(50));
            assert_eq!(world.nodes[ALICE].numbers(), [200 + round]);
            assert_eq!(world.nodes[BOB].numbers().last(), Some(&(100 + round)));
        }
        assert_eq!(world.count(1), initiations, "nobody shakes hands anew");
        assert_eq!(world.status(ALICE, BOB).last_handshake, handshake);
        assert_eq!(world.status(BOB, ALICE).last_handshake, seen_by_bob);
        let mut nonces = nonces(&world);
        let sent = nonces.len();
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), sent);
    }
}

#[test]
fn what_was_received_before_a_crash_is_not_received_again() {
    let (mut world, words) = pair(2);
    world.talk(BOB, ALICE, 1);
    world.pass(seconds(1));
    world.talk(BOB, ALICE, 2);
    world.pass(seconds(1));
    let old: Vec<_> = world
        .seen
        .iter()
        .filter(|w| w.kind() == 4)
        .cloned()
        .collect();
    restart(&mut world, words, End::Crash);
    world.nodes[ALICE].verdicts.clear();
    let alice = world.nodes[ALICE].address;
    for wire in old.iter().filter(|wire| wire.to == alice) {
        world.arrive(wire.clone());
    }
    let verdicts = &world.nodes[ALICE].verdicts;
    assert!(!verdicts.is_empty());
    assert!(
        verdicts.iter().all(|v| *v == Verdict::Replayed),
        "{verdicts:?}"
    );
}

#[test]
fn a_late_packet_crosses_an_orderly_end_and_not_a_crash() {
    for (end, expected) in [(End::Orderly, vec![3]), (End::Crash, vec![])] {
        let (mut world, words) = pair(3);
        world.talk(BOB, ALICE, 1);
        world.pass(seconds(1));
        // Bob's third packet is overtaken by his fourth, and arrives at the next alice.
        let before = world.seen.len();
        world.nodes[BOB].online = false;
        world.talk(BOB, ALICE, 3);
        world.nodes[BOB].online = true;
        let late = world.seen[before].clone();
        world.talk(BOB, ALICE, 4);
        world.pass(seconds(1));
        restart(&mut world, words, end);
        world.nodes[ALICE].delivered.clear();
        world.arrive(late);
        assert_eq!(world.nodes[ALICE].numbers(), expected);
    }
}

#[test]
fn a_peer_that_has_moved_is_found_where_it_is() {
    let (mut world, words) = pair(4);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    let moved = "198.51.100.7:777".parse().unwrap();
    world.nodes[BOB].address = moved;
    world.talk(BOB, ALICE, 2);
    world.pass(seconds(1));
    world.nodes[BOB].address = "192.0.2.2:51820".parse().unwrap();
    for end in [End::Crash, End::Orderly] {
        restart(&mut world, words, end);
        assert_eq!(
            world.status(ALICE, BOB).endpoint,
            Some(Endpoint::new(moved))
        );
    }
    // An address that is configured anew wins.
    world.nodes[BOB].address = "192.0.2.99:51820".parse().unwrap();
    restart(&mut world, words, End::Crash);
    let endpoint = world.status(ALICE, BOB).endpoint.unwrap();
    assert_eq!(endpoint.remote, world.nodes[BOB].address);
}

#[test]
fn what_is_torn_is_not_used() {
    // Every word of the session's fixed part, one after the other; and every word of the peer's.
    let (mut world, words) = pair(5);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    let saved: Vec<u64> = words
        .iter()
        .map(|word| word.load(Ordering::SeqCst))
        .collect();
    let used: Vec<usize> = (HEADER..saved.len()).filter(|at| saved[*at] != 0).collect();
    let mut refused = 0;
    for at in used {
        for (word, value) in words.iter().zip(&saved) {
            word.store(*value, Ordering::SeqCst);
        }
        words[at].store(!saved[at], Ordering::SeqCst);
        refused += usize::from(restart(&mut world, words, End::Crash) == 0);
    }
    assert!(
        refused >= 12 + 5,
        "{refused}: fixed part of the session, key of the peer"
    );
}

#[test]
fn three_quick_deaths_and_the_sessions_are_forgotten() {
    let (mut world, words) = pair(6);
    world.talk(ALICE, BOB, 1);
    world.pass(QUICK);
    assert_eq!(begin(&mut world, words), 1, "a death after long");
    for death in 1..3 {
        world.pass(seconds(1));
        assert_eq!(begin(&mut world, words), 1, "quick death {death}");
    }
    world.pass(seconds(1));
    assert_eq!(begin(&mut world, words), 0);
    assert_eq!(
        Memory::open(words, world.now.after(QUICK), QUICK)
            .unwrap()
            .found(),
        Found::Sessions,
        "what is poisoned is told once"
    );
    world.pass(seconds(20));
    world.talk(ALICE, BOB, 2);
    world.pass(seconds(20));
    assert_eq!(
        restart(&mut world, words, End::Crash),
        1,
        "new sessions are kept"
    );
    // Ends in good order don't count, however quick.
    for _ in 0..5 {
        world.nodes[ALICE].device.leave();
        assert_eq!(begin(&mut world, words), 1);
    }
}

#[test]
fn another_key_of_ours_takes_no_session_up_and_a_peer_that_is_gone_leaves_nothing() {
    let (mut world, words) = pair(7);
    world.talk(ALICE, BOB, 1);
    world.pass(QUICK);
    let key_of_bob = super::words::key_words(&world.nodes[BOB].key.0);
    let holds = |words: Words, wanted: &[u64]| {
        let all: Vec<u64> = words
            .iter()
            .map(|word| word.load(Ordering::SeqCst))
            .collect();
        all.windows(4).any(|four| four == wanted)
    };
    assert!(holds(words, &key_of_bob));
    let private = world.nodes[ALICE].private.clone();
    assert_eq!(
        begin_as(&mut world, words, PrivateKey::new([7; 32]), true),
        0
    );
    world.pass(QUICK);
    assert_eq!(begin_as(&mut world, words, private, false), 0);
    assert!(!holds(words, &key_of_bob));
    assert!(
        words[HEADER..]
            .iter()
            .all(|word| word.load(Ordering::SeqCst) == 0),
        "no key is left"
    );
}

#[test]
fn while_keys_rotate_a_session_that_has_moved_stays_where_it_is() {
    let (mut world, words) = pair(10);
    let psks = [[1; 32], [2; 32]].map(PresharedKey::new);
    let rotate = |world: &mut World, node: usize, other: usize| {
        let (key, [current, next]) = (world.nodes[other].key, psks.clone());
        control!(world, node, |device, ctx| {
            device
                .set_preshared_keys(&key, current, Some(next))
                .unwrap();
            device.move_sessions(ctx);
        });
    };
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    rotate(&mut world, ALICE, BOB);
    rotate(&mut world, BOB, ALICE);
    world.pass(seconds(30));
    let (moved, initiations) = (Some(crate::Rotation::Moved), world.count(1));
    assert_eq!(world.status(ALICE, BOB).rotation, moved);
    for end in [End::Crash, End::Orderly] {
        if end == End::Orderly {
            world.nodes[ALICE].device.leave();
        }
        world.now = world.now.after(QUICK);
        let private = world.nodes[ALICE].private.clone();
        new_device(&mut world, words, private);
        world.introduce(ALICE, BOB);
        // As a daemon does: keys and peers first, then what was kept.
        rotate(&mut world, ALICE, BOB);
        take_up(&mut world);
        control!(world, ALICE, |device, ctx| device.move_sessions(ctx));
        world.talk(ALICE, BOB, 2);
        world.pass(seconds(1));
        assert_eq!(world.status(ALICE, BOB).rotation, moved);
        assert_eq!(world.count(1), initiations, "nobody shakes hands anew");
    }
}

#[test]
fn sessions_that_fade_are_received_with_after_a_crash() {
    let (mut world, words) = pair(11);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    // A packet that is under way while the sessions are replaced twice.
    let before = world.seen.len();
    world.nodes[BOB].online = false;
    world.talk(BOB, ALICE, 7);
    world.nodes[BOB].online = true;
    let late = world.seen[before].clone();
    let key = world.nodes[BOB].key;
    for _ in 0..2 {
        world.pass(seconds(6));
        control!(world, ALICE, |device, ctx| device.shake_hands(ctx, &key)).unwrap();
        world.pass(seconds(1));
    }
    assert!(restart(&mut world, words, End::Crash) >= 3);
    world.nodes[ALICE].delivered.clear();
    world.arrive(late);
    assert_eq!(world.nodes[ALICE].numbers(), [7]);
}

#[test]
fn the_end_of_a_session_erases_it() {
    let (mut world, words) = pair(8);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    let key = world.nodes[BOB].key;
    control!(world, ALICE, |device, _ctx| device.remove_peer(&key));
    // The packet thread looks again, and lets go of what it held.
    let _ = world.nodes[ALICE].reader.table();
    assert!(words[HEADER..]
        .iter()
        .all(|word| word.load(Ordering::SeqCst) == 0));
}

#[test]
fn a_cell_is_not_used_again_while_a_packet_thread_holds_its_session() {
    let memory = Memory::open(blank(1), crate::Time(1), QUICK).unwrap();
    let cells: Vec<Cell> = (0..CELLS).map(|_| memory.cell().unwrap()).collect();
    assert!(memory.cell().is_none(), "all are held");
    assert!(memory.is_full());
    cells[2].counter().store(7, Ordering::SeqCst);
    let number = |cell: &Cell| std::ptr::from_ref(cell.counter()) as usize;
    let third = number(&cells[2]);
    drop(cells);
    let again: Vec<Cell> = (0..CELLS).map(|_| memory.cell().unwrap()).collect();
    assert!(again.iter().any(|cell| number(cell) == third));
    assert!(again
        .iter()
        .all(|cell| cell.counter().load(Ordering::SeqCst) == 0));
}

#[test]
fn more_peers_than_there_is_room_for_work_all_the_same() {
    let mut world = World::new(4, 9);
    let words = blank(1);
    let private = world.nodes[ALICE].private.clone();
    begin_as(&mut world, words, private, false);
    for other in 1..4 {
        world.introduce(ALICE, other);
        world.introduce(other, ALICE);
        world.talk(ALICE, other, 1);
    }
    world.pass(seconds(1));
    for other in 1..4 {
        assert_eq!(world.nodes[other].numbers(), [1]);
    }
}

#[test]
fn other_memory_is_refused() {
    let open = |words: Words| Memory::open(words, crate::Time(1), QUICK);
    assert!(open(blank(0)).is_none(), "too small");
    let words = blank(2);
    words[0].store(MAGIC + 1, Ordering::SeqCst);
    assert!(open(words).is_none(), "another layout");
    let words = blank(2);
    drop(open(words).unwrap());
    let words: Vec<AtomicU64> = words
        .iter()
        .map(|w| AtomicU64::new(w.load(Ordering::SeqCst)))
        .collect();
    let more: Vec<AtomicU64> = (0..Memory::words_for(1))
        .map(|_| AtomicU64::new(0))
        .collect();
    let larger: Vec<AtomicU64> = words.into_iter().chain(more).collect();
    assert!(open(larger.leak()).is_none(), "another size");
}
