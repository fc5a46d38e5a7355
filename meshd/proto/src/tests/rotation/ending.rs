//! What becomes of a session when a key that it was made with is removed, at a peer that moves and at one that doesn't.

use super::*;

/// The grace of `device/ending.rs`.
const GRACE: u64 = 15;

/// Each of the three things that a session is made with, alone.
const EACH: [Plan; 3] = [
    Plan {
        alices: true,
        bobs: false,
        preshared: false,
    },
    Plan {
        alices: false,
        bobs: true,
        preshared: false,
    },
    Plan {
        alices: false,
        bobs: false,
        preshared: true,
    },
];

/// Takes what came out of both ends' tunnels: at alice's, at bob's.
fn delivered(world: &mut World) -> [Vec<u32>; 2] {
    [ALICE, BOB].map(|node| {
        let numbers = world.nodes[node].numbers();
        world.nodes[node].delivered.clear();
        numbers
    })
}

/// One packet each way; what arrives.
fn exchange(world: &mut World, number: u32) -> [Vec<u32>; 2] {
    world.talk(ALICE, BOB, number);
    world.talk(BOB, ALICE, number);
    world.pass(Duration::from_millis(50));
    delivered(world)
}

/// Alice has removed the old keys, bob has none but them and a session in use.
fn left_behind(seed: u64, plan: Plan) -> (World, Keys) {
    let (mut world, keys) = pair(seed, plan);
    let mut number = 0;
    chat(&mut world, &mut number, 50);
    keys.set(&mut world, ALICE, Both);
    chat(&mut world, &mut number, 100);
    keys.set(&mut world, ALICE, New);
    delivered(&mut world);
    (world, keys)
}

#[test]
fn whoever_has_only_a_removed_key_is_cut_off() {
    for plan in EACH.into_iter().chain([ALL]) {
        let (mut world, keys) = left_behind(20, plan);
        let removed = world.now;
        while world.now.after(Duration::from_millis(100)) < removed.after(seconds(GRACE)) {
            assert_eq!(exchange(&mut world, 1), [[1], [1]], "{plan:?}");
            world.pass(Duration::from_millis(450));
        }
        world.now = world.now.max(removed.after(seconds(GRACE)));
        let (seen, alice) = (world.seen.len(), world.nodes[ALICE].address);
        for number in 0..400 {
            assert_eq!(exchange(&mut world, number), [[], []], "{plan:?}");
            // Bob's administrator tries everything.
            let name = status(&world, BOB).public_key;
            let _ = control!(world, BOB, |device, ctx| device.shake_hands(ctx, &name));
            if number % 50 == 0 {
                keys.set(&mut world, ALICE, New);
                for up in [false, true] {
                    control!(world, BOB, |device, ctx| device.set_link(ctx, up));
                }
            }
            world.pass(Duration::from_millis(950));
        }
        let from_alice = world.seen[seen..].iter().filter(|wire| wire.from == alice);
        let data = from_alice.filter(|wire| wire.kind() == 4).count();
        assert_eq!(data, 0, "not one packet is sealed for the old keys");
        assert!(!world.nodes[ALICE].verdicts.is_empty());
    }
}

#[test]
fn looking_again_does_not_put_the_end_off() {
    let (mut world, keys) = left_behind(21, ALL);
    for _ in 0..4 {
        world.pass(seconds(GRACE / 5));
        keys.set(&mut world, ALICE, New);
        assert_eq!(exchange(&mut world, 1), [[1], [1]]);
    }
    world.pass(seconds(GRACE / 5));
    keys.set(&mut world, ALICE, New);
    assert_eq!(exchange(&mut world, 2), [[], []]);
}

/// The last step without the one before having had its effect: everything moves within the grace.
#[test]
fn who_has_the_new_keys_moves_over_and_loses_nothing() {
    for plan in EACH.into_iter().chain([ALL]) {
        for first in [ALICE, BOB] {
            for (seed, lag) in [(22, 0), (23, 30), (24, 100)] {
                let (mut world, keys) = pair(seed, plan);
                let mut number = 0;
                chat(&mut world, &mut number, 10);
                // In one moment, a second after a handshake, which bars the next one for four more.
                for node in [first, 1 - first] {
                    keys.set(&mut world, node, Both);
                }
                keys.set(&mut world, first, New);
                chat(&mut world, &mut number, lag);
                keys.set(&mut world, 1 - first, New);
                chat(&mut world, &mut number, 600);
                whole(&world, number);
            }
        }
    }
}

/// The first try is lost, with everything else for as long; the second one comes in time. Also if nobody but the end that has
/// removed the keys begins, late: after a handshake, and after it has left the other end its time.
#[test]
fn a_try_that_the_network_loses_is_made_again_within_the_grace() {
    for (first, alone) in [(ALICE, false), (BOB, false), (ALICE, true), (BOB, true)] {
        let (mut world, keys) = pair(25, ALL);
        let mut number = 0;
        chat(&mut world, &mut number, 10);
        if alone {
            keys.set(&mut world, 1 - first, Both);
            chat(&mut world, &mut number, 900);
            let name = status(&world, first).public_key;
            control!(world, first, |device, ctx| device.shake_hands(ctx, &name)).unwrap();
            let answered = |world: &World| status(world, first).last_handshake_at.unwrap();
            let before = answered(&world);
            while answered(&world) == before {
                chat(&mut world, &mut number, 1);
            }
        }
        world.weather.loss = 100;
        let tries = world.count(1);
        for stage in [Both, New] {
            keys.set(&mut world, first, stage);
            if !alone {
                keys.set(&mut world, 1 - first, stage);
            }
        }
        while world.count(1) == tries {
            world.pass(Duration::from_millis(100));
        }
        world.weather.loss = 0;
        chat(&mut world, &mut number, 300);
        whole(&world, number);
    }
}

#[test]
fn each_session_is_judged_by_its_own_keys() {
    let (mut world, keys) = pair(26, ALL);
    let mut number = 0;
    chat(&mut world, &mut number, 60);
    // Packets of bob's under the old session that are late, one by less than the grace, one by more.
    let before = world.seen.len();
    world.nodes[BOB].online = false;
    world.talk(BOB, ALICE, 1001);
    world.talk(BOB, ALICE, 1002);
    world.nodes[BOB].online = true;
    let [early, late] = [before, before + 1].map(|at| world.seen[at].clone());
    for node in [ALICE, BOB] {
        keys.set(&mut world, node, Both);
    }
    chat(&mut world, &mut number, 100);
    assert_eq!(status(&world, ALICE).rotation, Some(Rotation::Moved));
    for node in [ALICE, BOB] {
        keys.set(&mut world, node, New);
    }
    delivered(&mut world);
    let handshakes = world.count(1);
    world.pass(seconds(GRACE - 1));
    world.arrive(early);
    assert_eq!(delivered(&mut world)[ALICE], [1001]);
    world.pass(seconds(1));
    world.arrive(late);
    assert_eq!(delivered(&mut world)[ALICE], []);
    assert_eq!(world.nodes[ALICE].verdicts.last(), Some(&Verdict::Forged));
    assert_eq!(exchange(&mut world, 1003), [[1003], [1003]]);
    assert_eq!(
        world.count(1),
        handshakes,
        "the session that has moved is what it was"
    );
}

/// The initiator has moved, and the responder hasn't heard of it when the old keys go.
#[test]
fn a_responder_that_was_not_heard_is_told_at_once() {
    let (mut world, keys) = pair(27, ALL);
    let mut number = 0;
    chat(&mut world, &mut number, 100);
    let before = world.seen.len();
    for node in [ALICE, BOB] {
        keys.set(&mut world, node, Both);
    }
    while !world.seen[before..].iter().any(|wire| wire.kind() == 2) {
        world.pass(Duration::from_millis(5));
    }
    let responder = world.kinds_since(before).last().unwrap().1;
    // The answer is under way; what it is answered with is lost.
    world.weather.loss = 100;
    world.pass(Duration::from_millis(20));
    world.weather.loss = 0;
    let initiator = 1 - responder;
    let moved = [initiator, responder].map(|node| status(&world, node).rotation);
    assert_eq!(moved, [Some(Rotation::Moved), Some(Rotation::Waiting)]);
    keys.set(&mut world, initiator, New);
    world.pass(Duration::from_millis(50));
    assert_eq!(status(&world, responder).rotation, Some(Rotation::Moved));
}

/// A session that we have answered for is first used when its keys are gone already.
#[test]
fn what_is_confirmed_after_its_keys_went_is_moved_too() {
    let (mut world, keys) = pair(28, ALL);
    for node in [ALICE, BOB] {
        keys.set(&mut world, node, Both);
    }
    // Nobody has a session: bob begins with the old keys, since packets wait.
    world.talk(BOB, ALICE, 0);
    let mut number = 1;
    world.talk(ALICE, BOB, 0);
    while world.count(2) == 0 {
        world.pass(Duration::from_millis(5));
    }
    let responder = world.kinds_since(0).last().unwrap().1;
    keys.set(&mut world, responder, New);
    chat(&mut world, &mut number, 400);
    whole(&world, number);
    let other = status(&world, 1 - responder);
    assert_eq!(other.rotation, Some(Rotation::Moved));
}

#[test]
fn a_step_that_is_taken_back_gives_the_session_back() {
    for plan in EACH.into_iter().chain([ALL]) {
        for (after, cut) in [(10, false), (GRACE + 10, true)] {
            let (mut world, keys) = left_behind(29, plan);
            world.pass(seconds(after));
            let expected = if cut {
                [vec![], vec![]]
            } else {
                [vec![1], vec![1]]
            };
            assert_eq!(exchange(&mut world, 1), expected, "{plan:?}");
            keys.set(&mut world, ALICE, Both);
            // At once: a handshake would take two more ways.
            world.talk(ALICE, BOB, 2);
            world.talk(BOB, ALICE, 2);
            world.pass(world.weather.latency);
            let [at_alice, at_bob] = delivered(&mut world);
            assert_eq!(at_alice, [2], "{plan:?}");
            let waited = if cut { vec![1, 2] } else { vec![2] };
            assert_eq!(at_bob, waited, "{plan:?}");
            for number in 3..40 {
                let expected = [[number], [number]];
                assert_eq!(exchange(&mut world, number), expected, "{plan:?}");
                world.pass(seconds(1));
            }
        }
    }
}

/// Our own key is replaced without an announcement, and put back.
#[test]
fn our_own_key_is_replaced_and_put_back() {
    let (mut world, keys) = pair(30, ALL);
    let mut number = 0;
    chat(&mut world, &mut number, 60);
    let answers = world.count(2);
    let set = |world: &mut World, key: &PrivateKey| {
        control!(world, ALICE, |device, ctx| {
            device.set_private_keys(Some(key.clone()), None);
            device.move_sessions(ctx);
        });
    };
    set(&mut world, &keys.new[ALICE]);
    set(&mut world, &keys.old[ALICE]);
    chat(&mut world, &mut number, 100);
    whole(&world, number);
    assert_eq!(world.count(2), answers, "the session is what it was");
    set(&mut world, &keys.new[ALICE]);
    delivered(&mut world);
    assert_eq!(exchange(&mut world, 1), [vec![1], vec![]]);
    world.pass(seconds(GRACE));
    assert_eq!(exchange(&mut world, 2), [[], []]);
}

#[test]
fn a_peer_that_is_removed_is_cut_off_at_once() {
    let (mut world, keys) = pair(31, ALL);
    let mut number = 0;
    chat(&mut world, &mut number, 10);
    delivered(&mut world);
    control!(world, ALICE, |device, _ctx| {
        device.remove_peer(&keys.old[BOB].public())
    });
    assert_eq!(exchange(&mut world, 1), [[], []]);
}
