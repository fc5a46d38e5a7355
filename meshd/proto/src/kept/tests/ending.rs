//! The end of a session whose keys are gone outlives the process as the session does.

use super::*;

/// The grace of `device/ending.rs`.
const GRACE: Duration = Duration::from_secs(15);
/// Words of a cell that daemons left 0 which didn't judge sessions: what they were made with, and the end.
const LATER: core::ops::Range<usize> = 12..16;

fn psk(number: u8) -> PresharedKey {
    PresharedKey::new([number; 32])
}

/// Takes a preshared key, and a next one, live at a node.
fn set(world: &mut World, node: usize, current: u8, next: Option<u8>) {
    let key = world.nodes[1 - node].key;
    control!(world, node, |device, ctx| {
        device
            .set_preshared_keys(&key, psk(current), next.map(psk))
            .unwrap();
        device.move_sessions(ctx);
    });
}

/// Alice starts anew with this preshared key; how many sessions she has taken up. Packets flow before anything is judged by
/// [`Device::move_sessions`].
fn restart_with(world: &mut World, words: Words, end: End, current: u8, next: Option<u8>) -> usize {
    if end == End::Orderly {
        world.nodes[ALICE].device.leave();
    }
    let private = world.nodes[ALICE].private.clone();
    new_device(world, words, private);
    world.introduce(ALICE, BOB);
    let key = world.nodes[BOB].key;
    control!(world, ALICE, |device, _ctx| device
        .set_preshared_keys(&key, psk(current), next.map(psk))
        .unwrap());
    take_up(world)
}

fn move_sessions(world: &mut World) {
    control!(world, ALICE, |device, ctx| device.move_sessions(ctx));
}

/// A packet each way; what arrives at alice's and at bob's.
fn exchange(world: &mut World, number: u32) -> [Vec<u32>; 2] {
    world.talk(ALICE, BOB, number);
    world.talk(BOB, ALICE, number);
    world.pass(Duration::from_millis(50));
    [ALICE, BOB].map(|node| {
        let numbers = world.nodes[node].numbers();
        world.nodes[node].delivered.clear();
        numbers
    })
}

/// Both have preshared key 1 and a session.
fn with_psk(seed: u64) -> (World, Words) {
    let (mut world, words) = pair(seed);
    for node in [ALICE, BOB] {
        set(&mut world, node, 1, None);
    }
    assert_eq!(exchange(&mut world, 0), [[0], [0]]);
    world.pass(QUICK);
    (world, words)
}

#[test]
fn no_restart_puts_the_end_off() {
    for ends in [
        [End::Crash, End::Orderly, End::Crash],
        [End::Orderly; 3],
        [End::Orderly, End::Crash, End::Orderly],
    ] {
        let (mut world, words) = with_psk(20);
        set(&mut world, ALICE, 2, None);
        let cut = world.now.after(GRACE);
        for end in ends {
            world.pass(seconds(4));
            assert!(restart_with(&mut world, words, end, 2, None) >= 1);
            move_sessions(&mut world);
            assert_eq!(exchange(&mut world, 1), [[1], [1]]);
        }
        world.pass(cut.since(world.now).saturating_sub(seconds(1)));
        assert_eq!(exchange(&mut world, 2), [[2], [2]]);
        world.pass(seconds(1));
        assert_eq!(exchange(&mut world, 3), [[], []]);
        // Nor is it taken up again when it is over.
        world.pass(QUICK);
        restart_with(&mut world, words, End::Crash, 2, None);
        assert_eq!(exchange(&mut world, 4), [[], []]);
    }
}

#[test]
fn keys_that_went_while_nobody_was_there_count_too() {
    let (mut world, words) = with_psk(21);
    assert!(restart_with(&mut world, words, End::Orderly, 2, None) >= 1);
    let cut = world.now.after(GRACE);
    // Even if it dies before it looks again.
    world.pass(seconds(4));
    restart_with(&mut world, words, End::Crash, 2, None);
    assert_eq!(exchange(&mut world, 1), [[1], [1]]);
    world.pass(cut.since(world.now));
    assert_eq!(exchange(&mut world, 2), [[], []]);
}

#[test]
fn a_restart_with_keys_that_are_accepted_again_gives_the_session_back() {
    for (after, end) in [(5, End::Crash), (20, End::Crash), (20, End::Orderly)] {
        let (mut world, words) = with_psk(22);
        set(&mut world, ALICE, 2, None);
        world.pass(seconds(after));
        // Dead between switch and confirm: it starts from what was confirmed.
        assert!(restart_with(&mut world, words, end, 1, Some(2)) >= 1);
        let answers = world.count(2);
        assert_eq!(exchange(&mut world, 1), [[1], [1]], "before it looks again");
        assert_eq!(world.count(2), answers, "under the session there was");
        move_sessions(&mut world);
        world.pass(GRACE);
        assert_eq!(exchange(&mut world, 2), [[2], [2]]);
    }
}

/// A daemon that didn't write down what a session was made with: it is taken up, and moved by one handshake.
#[test]
fn sessions_of_an_older_daemon_are_moved_and_lose_nothing() {
    for end in [End::Crash, End::Orderly] {
        let (mut world, words) = with_psk(23);
        if end == End::Orderly {
            world.nodes[ALICE].device.leave();
        }
        let cells = HEADER + 4 * PLACE;
        for cell in words[cells..].chunks(CELL) {
            for word in &cell[LATER] {
                word.store(0, Ordering::SeqCst);
            }
        }
        assert!(restart_with(&mut world, words, End::Crash, 1, None) >= 1);
        let answers = world.count(2);
        move_sessions(&mut world);
        for number in 1..400 {
            let expected = [[number], [number]];
            assert_eq!(exchange(&mut world, number), expected);
            world.pass(Duration::from_millis(50));
        }
        assert_eq!(world.count(2), answers + 1, "one handshake");
        // What it was moved to is remembered.
        world.pass(QUICK);
        assert!(restart_with(&mut world, words, End::Crash, 1, None) >= 1);
        move_sessions(&mut world);
        world.pass(GRACE);
        assert_eq!(exchange(&mut world, 1000), [[1000], [1000]]);
        assert_eq!(world.count(2), answers + 1);
    }
}
