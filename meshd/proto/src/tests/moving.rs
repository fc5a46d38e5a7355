//! Things that move: peers to other addresses, clocks to other times.

use super::attacks::{connected, eve};
use super::*;
use crate::messages::MAX_QUEUED_HANDSHAKES;

#[test]
fn roaming_follows_authentic_packets_only() {
    let mut world = connected(11);
    let home = world.nodes[ALICE].address;
    let roamed = SocketAddr::from(([198, 51, 100, 7], 4321));
    world.nodes[ALICE].address = roamed;
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    assert_eq!(
        world.status(BOB, ALICE).endpoint,
        Some(Endpoint::new(roamed))
    );
    assert_eq!(world.status(BOB, ALICE).configured_endpoint, Some(home));
    world.talk(BOB, ALICE, 2);
    world.pass(seconds(1));
    assert_eq!(
        world.nodes[ALICE].numbers(),
        [0, 2],
        "the answer goes to the new place"
    );
    let mut forged = world
        .seen
        .iter()
        .rfind(|wire| wire.from == roamed)
        .cloned()
        .unwrap();
    forged.from = eve();
    *forged.bytes.last_mut().unwrap() ^= 1;
    world.arrive(forged);
    assert_eq!(
        world.status(BOB, ALICE).endpoint,
        Some(Endpoint::new(roamed))
    );
}

#[test]
fn roaming_follows_responses_and_initiations_too() {
    let mut world = connected(12);
    world.pass(seconds(6));
    let roamed = SocketAddr::from(([198, 51, 100, 8], 99));
    world.nodes[BOB].address = roamed;
    let alice = world.nodes[ALICE].key;
    control!(world, BOB, |device, ctx| device.shake_hands(ctx, &alice)).unwrap();
    world.pass(Duration::from_millis(15));
    assert_eq!(
        world.status(ALICE, BOB).endpoint,
        Some(Endpoint::new(roamed))
    );
}

#[test]
fn a_cookie_reply_moves_no_endpoint_and_draws_no_answer() {
    let mut world = World::pair(13);
    world.nodes[BOB].handshakes_waiting = MAX_QUEUED_HANDSHAKES;
    world.talk(ALICE, BOB, 0);
    world.pass(Duration::from_millis(15));
    assert_eq!(world.kinds_since(0), [(1, ALICE), (3, BOB)]);
    let mut reply = world.seen[1].clone();
    reply.from = eve();
    reply.to = world.nodes[ALICE].address;
    world.arrive(reply);
    assert_eq!(world.seen.len(), 2);
    assert_eq!(
        world.status(ALICE, BOB).endpoint.unwrap().remote,
        world.nodes[BOB].address
    );
    assert_eq!(
        world.status(ALICE, BOB).trouble,
        Some(Trouble::CookieDemanded)
    );
    assert_eq!(world.status(ALICE, BOB).last_received, None);
}

#[test]
fn clocks_that_jump_are_survived() {
    let mut world = connected(16);
    // The timers' clock goes back by a second and then forward by a day.
    world.now = Time(world.now.0 - 1_000_000_000);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    world.now = world.now.after(seconds(86_400));
    world.talk(BOB, ALICE, 2);
    world.pass(seconds(10));
    assert_eq!(world.nodes[BOB].numbers(), [0, 1]);
    assert_eq!(world.nodes[ALICE].numbers(), [0, 2]);
}

#[test]
fn a_wall_clock_set_back_locks_nobody_out() {
    let mut world = connected(17);
    let bob = world.nodes[BOB].key;
    for offset in [-100_000_000, 0, 100_000_000, -1] {
        world.nodes[ALICE].wall_offset = offset;
        world.pass(seconds(6));
        let before = world.count(2);
        control!(world, ALICE, |device, ctx| device.shake_hands(ctx, &bob)).unwrap();
        world.pass(seconds(1));
        assert_eq!(world.count(2), before + 1, "offset {offset}");
    }
}

#[test]
fn a_restart_with_an_early_clock_needs_the_high_water_mark() {
    for (keep, answered) in [(true, true), (false, false)] {
        let mut world = connected(18);
        let high = world.nodes[ALICE].device.timestamp_high_water();
        let private = world.nodes[ALICE].private.clone();
        let mut device = Device::new(if keep { high } else { Tai64n::ZERO });
        device.set_private_key(Some(private));
        world.nodes[ALICE].reader = device.reader();
        world.nodes[ALICE].device = device;
        world.nodes[ALICE].wall_offset = -1_000_000;
        control!(world, ALICE, |device, ctx| device.set_link(ctx, true));
        world.introduce(ALICE, BOB);
        world.pass(seconds(6));
        world.talk(ALICE, BOB, 7);
        world.pass(seconds(1));
        assert_eq!(world.nodes[BOB].numbers().contains(&7), answered);
    }
}
