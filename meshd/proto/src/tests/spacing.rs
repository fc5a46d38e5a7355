//! Initiations to one responder keep the distance that it demands, whatever is set in between: one that it dropped in silence would
//! cost 5 s.

use super::*;

/// Milliseconds at which alice has sent initiations since `start`.
fn initiations(world: &World, start: Time) -> Vec<u64> {
    let from = world.nodes[ALICE].address;
    let sent = world.seen.iter();
    let sent = sent.filter(|wire| wire.kind() == 1 && wire.from == from && wire.at >= start);
    sent.map(|wire| wire.at.since(start).as_millis() as u64)
        .collect()
}

/// What a user does to the peer `key` at `address`, so that a session must be made anew.
type Change = fn(&mut World, PublicKey, SocketAddr);

fn replaced(world: &mut World, key: PublicKey, _: SocketAddr) {
    control!(world, ALICE, |device, _ctx| {
        device.remove_all_peers();
        assert!(device.peer(&key, Time(0)).is_none());
    });
    world.introduce(ALICE, BOB);
}

fn replaced_under_its_next_key(world: &mut World, key: PublicKey, address: SocketAddr) {
    let other = PrivateKey::new([9; 32]).public();
    control!(world, ALICE, |device, ctx| {
        device.remove_peer(&key);
        device.upsert_peer(&other);
        device.set_peer_keys(&other, &key, Some(&other)).unwrap();
        let networks = [Cidr::host(inner(BOB))];
        device.set_allowed_ips(&key, &networks).unwrap();
        let endpoint = Some(Endpoint::new(address));
        device.set_endpoint(ctx, &key, endpoint).unwrap();
    });
}

fn down_and_up(world: &mut World, _: PublicKey, _: SocketAddr) {
    for up in [false, true] {
        control!(world, ALICE, |device, ctx| device.set_link(ctx, up));
    }
}

#[test]
fn a_peer_that_is_set_anew_is_reached_at_once() {
    let changes: [(&str, Change); 3] = [
        ("replaced", replaced),
        ("under its next key", replaced_under_its_next_key),
        ("down and up", down_and_up),
    ];
    for (what, change) in changes {
        for after_ms in [0, 5, 19, 21, 49, 100] {
            let mut world = World::pair(31);
            let (key, address) = (world.nodes[BOB].key, world.nodes[BOB].address);
            let start = world.now;
            world.talk(ALICE, BOB, 1);
            world.pass(Duration::from_millis(after_ms));
            change(&mut world, key, address);
            world.talk(ALICE, BOB, 2);
            world.pass(Duration::from_millis(200));
            let got = world.nodes[BOB].numbers();
            assert_eq!(got.last(), Some(&2), "{what} after {after_ms} ms: {got:?}");
            let sent = initiations(&world, start);
            assert_eq!(sent, [0, after_ms.max(50)], "{what} after {after_ms} ms");
        }
    }
}

#[test]
fn again_and_again_is_one_initiation_a_while() {
    let mut world = World::pair(32);
    let (key, address) = (world.nodes[BOB].key, world.nodes[BOB].address);
    let start = world.now;
    for number in 0..200 {
        world.talk(ALICE, BOB, number);
        replaced(&mut world, key, address);
        world.pass(Duration::from_millis(7));
    }
    world.talk(ALICE, BOB, 200);
    world.pass(Duration::from_millis(200));
    let sent = initiations(&world, start);
    assert!(
        sent.windows(2).all(|pair| pair[1] - pair[0] >= 50),
        "{sent:?}"
    );
    assert_eq!(world.nodes[BOB].numbers().last(), Some(&200));
}
