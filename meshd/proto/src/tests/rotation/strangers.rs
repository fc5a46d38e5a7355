//! Whose a key is: those of the past, those nobody announced, and those that two peers claim.

use super::*;

#[test]
fn removing_an_old_key_shuts_its_holder_out() {
    let (mut world, keys) = pair(12, ALL);
    let mut number = 0;
    chat(&mut world, &mut number, 30);
    let recorded: Vec<Wire> = world
        .seen
        .iter()
        .filter(|wire| wire.kind() == 1)
        .cloned()
        .collect();
    assert!(!recorded.is_empty());
    for stage in [Both, New] {
        for node in [ALICE, BOB] {
            keys.set(&mut world, node, stage);
        }
        chat(&mut world, &mut number, 100);
        // Eve plays everything again, also what is addressed to the old key.
        let answers = world.count(2);
        for wire in &recorded {
            world.throw(wire.clone());
        }
        world.pass(seconds(1));
        assert_eq!(world.count(2), answers, "{stage:?}");
    }
    whole(&world, number);
    // Eve has stolen alice's old key: bob doesn't know her any more, and not even his public key is of use.
    let mut thief = World::pair(12);
    std::mem::swap(&mut thief.nodes[BOB], &mut world.nodes[BOB]);
    thief.now = world.now;
    let answers = thief.count(2);
    thief.talk(ALICE, BOB, 99);
    thief.pass(seconds(30));
    assert!(thief.count(1) > 1);
    assert_eq!(thief.count(2), answers);
}

#[test]
fn an_unknown_next_key_is_nobodys() {
    let (mut world, keys) = pair(
        13,
        Plan {
            alices: true,
            bobs: false,
            preshared: false,
        },
    );
    // Alice has a new key of which bob has not been told.
    let (own, _) = keys.own(ALICE, New);
    control!(world, ALICE, |device, _ctx| device
        .set_private_keys(Some(own), None));
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(6));
    assert_eq!(world.count(2), 0);
    let unknown = Event::UnknownPeer(keys.new[ALICE].public());
    assert!(world.nodes[BOB].events.contains(&unknown));
}

#[test]
fn a_key_belongs_to_one_peer() {
    let (mut world, keys) = pair(14, ALL);
    let (alice, next) = (keys.old[ALICE].public(), keys.new[ALICE].public());
    keys.set(&mut world, BOB, Both);
    control!(world, BOB, |device, ctx| {
        // Somebody adds a peer with the key that alice was to change to: it is that peer's now.
        assert_eq!(device.upsert_peer(&next), Upsert::Added);
        assert_eq!(device.peer_count(), 2);
        assert_eq!(device.peer(&alice, ctx.now).unwrap().next_public_key, None);
        // The other way round: a peer that takes a key over as its next one takes it from the peer of that name.
        device.set_peer_keys(&alice, &alice, Some(&next)).unwrap();
        assert_eq!(device.peer_count(), 1);
        assert_eq!(
            device.peer(&alice, ctx.now).unwrap().next_public_key,
            Some(next)
        );
        assert_eq!(
            device.set_peer_keys(&next, &next, None),
            Err(NoSuchPeer),
            "that is no name"
        );
        assert!(device.remove_peer(&alice));
        assert_eq!(device.upsert_peer(&next), Upsert::Added);
        // Our own keys, current and next, are no peers.
        for own in &[&keys.old[BOB], &keys.new[BOB]] {
            assert_eq!(device.upsert_peer(&own.public()), Upsert::OwnKey);
            assert_eq!(
                device.set_peer_keys(&next, &own.public(), None),
                Err(NoSuchPeer)
            );
        }
    });
}

#[test]
fn a_peer_under_a_key_that_nobody_announced_is_a_stranger() {
    let (mut world, keys) = pair(17, ALL);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    assert!(world.status(ALICE, BOB).connected);
    let (bob, stranger) = (
        keys.old[BOB].public(),
        crypto::generate(&mut Dice(9)).public(),
    );
    control!(world, ALICE, |device, ctx| {
        device.set_peer_keys(&bob, &stranger, None).unwrap();
        device.move_sessions(ctx);
        assert!(!device.peer(&stranger, ctx.now).unwrap().connected);
    });
    world.talk(ALICE, BOB, 2);
    world.talk(BOB, ALICE, 3);
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), [1], "not under the old session");
    assert!(world.nodes[ALICE].numbers().is_empty());
}
