//! Keepalives, passive and persistent, and the quiet between them (paper sections 6.5 and 6.6, kernel timers.c).

use super::rules::{connected, times};
use super::*;

/// When keepalives were sent by a node, in whole seconds since `start`.
fn keepalives(world: &World, node: usize, start: Time) -> Vec<u64> {
    let from = world.nodes[node].address;
    let chosen = world
        .seen
        .iter()
        .filter(|wire| wire.is_keepalive() && wire.from == from && wire.at >= start);
    chosen.map(|wire| wire.at.since(start).as_secs()).collect()
}

#[test]
fn a_passive_keepalive_answers_data_after_ten_seconds_and_stops() {
    let mut world = World::pair(1);
    let start = world.now;
    world.talk(ALICE, BOB, 0);
    world.pass(seconds(100));
    assert_eq!(keepalives(&world, BOB, start), [10]);
    assert_eq!(
        keepalives(&world, ALICE, start),
        [0u64; 0],
        "a keepalive is not answered"
    );
    assert_eq!(world.count(1), 1);
}

#[test]
fn data_while_a_keepalive_is_owed_brings_a_second_one() {
    let (mut world, _) = connected(2);
    let start = world.now;
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    world.talk(ALICE, BOB, 2);
    world.pass(seconds(60));
    assert_eq!(
        keepalives(&world, BOB, start),
        [10, 20],
        "kernel timer_need_another_keepalive"
    );
}

#[test]
fn answering_with_data_needs_no_keepalive() {
    let (mut world, _) = connected(3);
    let start = world.now;
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(5));
    world.talk(BOB, ALICE, 2);
    world.pass(seconds(60));
    assert_eq!(keepalives(&world, BOB, start), [0u64; 0]);
    assert_eq!(
        keepalives(&world, ALICE, start),
        [15],
        "the last word is alice's"
    );
}

#[test]
fn a_persistent_keepalive_starts_by_itself_and_keeps_its_interval() {
    let mut world = World::pair(14);
    let (bob, start) = (world.nodes[BOB].key, world.now);
    control!(world, ALICE, |device, ctx| device
        .set_keepalive(ctx, &bob, 25))
    .unwrap();
    world.pass(seconds(110));
    assert_eq!(
        times(&world, 1, ALICE, start),
        [0],
        "it shakes hands at once"
    );
    assert_eq!(keepalives(&world, ALICE, start), [0, 25, 50, 75, 100]);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(24));
    assert_eq!(
        keepalives(&world, ALICE, start).len(),
        5,
        "any packet puts it off"
    );
    control!(world, ALICE, |device, ctx| device
        .set_keepalive(ctx, &bob, 0))
    .unwrap();
    world.pass(seconds(100));
    assert_eq!(keepalives(&world, ALICE, start).len(), 5);
}

#[test]
fn a_persistent_keepalive_survives_an_outage() {
    let mut world = World::pair(15);
    let bob = world.nodes[BOB].key;
    control!(world, ALICE, |device, ctx| device
        .set_keepalive(ctx, &bob, 25))
    .unwrap();
    world.pass(seconds(10));
    world.nodes[BOB].online = false;
    world.pass(seconds(1000));
    assert!(!world.status(ALICE, BOB).connected);
    world.nodes[BOB].online = true;
    world.pass(seconds(40));
    assert!(world.status(ALICE, BOB).connected);
}

#[test]
fn a_persistent_keepalive_waits_for_an_endpoint() {
    let mut world = World::new(2, 16);
    world.introduce(BOB, ALICE);
    let (bob, address) = (world.nodes[BOB].key, world.nodes[BOB].address);
    control!(world, ALICE, |device, ctx| {
        device.upsert_peer(&bob);
        device.set_keepalive(ctx, &bob, 25).unwrap();
    });
    assert_eq!(world.nodes[ALICE].device.next_timeout(), None);
    assert_eq!(world.status(ALICE, BOB).trouble, None);
    control!(world, ALICE, |device, ctx| device.set_endpoint(
        ctx,
        &bob,
        Some(Endpoint::new(address))
    ))
    .unwrap();
    world.pass(seconds(1));
    assert!(world.status(ALICE, BOB).connected);
}

#[test]
fn an_idle_pair_sleeps() {
    let (mut world, _) = connected(17);
    world.pass(seconds(30));
    let wakes = world.nodes[ALICE].wakes + world.nodes[BOB].wakes;
    let next = world.nodes[ALICE].device.next_timeout().unwrap();
    assert!(
        next.since(world.now) > seconds(400),
        "only the erasing of keys is due"
    );
    world.pass(seconds(300));
    assert_eq!(world.nodes[ALICE].wakes + world.nodes[BOB].wakes, wakes);
}

#[test]
fn a_busy_pair_hardly_wakes_the_control_thread() {
    let (mut world, _) = connected(18);
    let wakes = world.nodes[ALICE].wakes;
    for number in 0..10_000 {
        world.talk(ALICE, BOB, number);
        world.talk(BOB, ALICE, number);
        world.pass(Duration::from_millis(10));
    }
    // 100 s: the marks are looked at every 10 and 15 s by timer, without anybody being woken.
    assert!(
        world.nodes[ALICE].wakes - wakes <= 2,
        "{}",
        world.nodes[ALICE].wakes - wakes
    );
    assert_eq!(world.nodes[BOB].numbers().len(), 10_001);
}

#[test]
fn a_link_that_is_down_keeps_nothing_alive() {
    let mut world = World::pair(8);
    let bob = world.nodes[BOB].key;
    control!(world, ALICE, |device, ctx| {
        device.set_keepalive(ctx, &bob, 25).unwrap();
        device.set_link(ctx, false);
        device.set_keepalive(ctx, &bob, 10).unwrap();
    });
    assert_eq!(world.nodes[ALICE].device.next_timeout(), None);
    control!(world, ALICE, |device, ctx| device.set_link(ctx, true));
    world.pass(seconds(1));
    let sent = world.seen.len();
    world.pass(seconds(10));
    assert!(world.seen.len() > sent, "every 10 s now");
}

#[test]
fn a_packet_thread_that_has_not_heard_of_the_link_going_down_starts_no_timer() {
    let mut world = super::attacks::connected(9);
    let route = world.nodes[ALICE].reader.table().route(inner(BOB)).cloned();
    control!(world, ALICE, |device, ctx| device.set_link(ctx, false));
    let mut run = vec![0; 64];
    let wake = route.unwrap().seal(world.now, &mut run, 64).unwrap();
    assert!(wake.needed());
    control!(world, ALICE, |device, ctx| device.attend(ctx));
    assert_eq!(world.nodes[ALICE].device.next_timeout(), None);
    // The timer that it would have been is there when it is needed again.
    control!(world, ALICE, |device, ctx| device.set_link(ctx, true));
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    world.nodes[BOB].online = false;
    let sent = world.count(1);
    world.talk(ALICE, BOB, 2);
    world.pass(seconds(16));
    assert!(world.count(1) > sent, "data without an answer");
}
