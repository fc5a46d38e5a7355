//! Under load: cookies before work, each source for itself.

use super::*;
use crate::messages::MAX_QUEUED_HANDSHAKES;

#[test]
fn a_loaded_responder_asks_for_a_cookie_and_the_next_try_has_it() {
    let mut world = World::pair(1);
    world.nodes[BOB].handshakes_waiting = MAX_QUEUED_HANDSHAKES / 8;
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(10));
    let kinds = world.kinds_since(0);
    assert_eq!(
        kinds,
        [(1, ALICE), (3, BOB), (1, ALICE), (2, BOB), (4, ALICE)]
    );
    assert_eq!(world.nodes[BOB].numbers(), [1]);
}

#[test]
fn a_loaded_initiator_asks_for_a_cookie_too() {
    let mut world = World::pair(2);
    world.nodes[ALICE].handshakes_waiting = MAX_QUEUED_HANDSHAKES / 8;
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(10));
    let kinds = world.kinds_since(0);
    assert_eq!(kinds[..3], [(1, ALICE), (2, BOB), (3, ALICE)]);
    assert_eq!(world.nodes[BOB].numbers(), [1]);
}

#[test]
fn load_lasts_for_a_second_after_the_queue_is_short() {
    let mut world = World::pair(3);
    world.nodes[BOB].handshakes_waiting = MAX_QUEUED_HANDSHAKES / 8;
    world.talk(ALICE, BOB, 1);
    world.pass(Duration::from_millis(15));
    world.nodes[BOB].handshakes_waiting = 0;
    world.arrive(world.seen[0].clone());
    assert_eq!(world.kinds_since(2), [(3, BOB)]);
    world.pass(seconds(1));
    world.arrive(world.seen[0].clone());
    assert_eq!(world.kinds_since(3), [(2, BOB)]);
}

#[test]
fn below_the_threshold_there_is_no_load() {
    let mut world = World::pair(4);
    world.nodes[BOB].handshakes_waiting = MAX_QUEUED_HANDSHAKES / 8 - 1;
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    assert_eq!(world.kinds_since(0), [(1, ALICE), (2, BOB), (4, ALICE)]);
}

#[test]
fn a_flooding_source_does_not_shut_others_out() {
    const CAROL: usize = 2;
    let mut world = World::new(3, 5);
    for (node, other) in [(ALICE, BOB), (BOB, ALICE), (CAROL, BOB), (BOB, CAROL)] {
        world.introduce(node, other);
    }
    world.nodes[BOB].handshakes_waiting = MAX_QUEUED_HANDSHAKES / 8;
    // Carol has a valid cookie and uses up her share.
    world.talk(CAROL, BOB, 1);
    world.pass(seconds(6));
    let with_cookie = world
        .seen
        .iter()
        .rfind(|wire| wire.kind() == 1)
        .cloned()
        .unwrap();
    let before = world.seen.len();
    for _ in 0..100 {
        world.arrive(with_cookie.clone());
    }
    assert_eq!(
        world.seen.len(),
        before,
        "no cookie for one that has it, no answer to a replay"
    );
    world.talk(ALICE, BOB, 2);
    world.pass(seconds(7));
    assert_eq!(world.nodes[BOB].numbers(), [1, 2]);
}

#[test]
fn a_thousand_peers_are_configured_fast_and_listed_in_order() {
    let mut device = Device::new(Tai64n::ZERO);
    device.set_private_key(Some(crypto::generate(&mut Dice(1))));
    let mut reader = device.reader();
    let keys: Vec<PublicKey> = (0..1000u32)
        .map(|number| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
            key[31] = 9;
            PublicKey(key)
        })
        .collect();
    device.transaction(|device| {
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(device.upsert_peer(key), Upsert::Added);
            let network = Cidr::host(IpAddr::from([10, 1, (number >> 8) as u8, number as u8]));
            device.set_allowed_ips(key, &[network]).unwrap();
        }
    });
    let listed: Vec<PublicKey> = device
        .peers(Time(1))
        .iter()
        .map(|peer| peer.public_key)
        .collect();
    assert_eq!(listed, keys);
    for (number, key) in keys.iter().enumerate() {
        let address = IpAddr::from([10, 1, (number >> 8) as u8, number as u8]);
        let route = reader.table().route(address).unwrap();
        assert_eq!(device.name_of(&route.peer), Some(*key));
    }
    assert!(device.remove_peer(&keys[500]));
    assert_eq!(device.upsert_peer(&keys[500]), Upsert::Added);
    assert_eq!(
        device.peers(Time(1)).last().unwrap().public_key,
        keys[500],
        "added again is added last"
    );
    assert_eq!(device.next_timeout(), None);
}

#[test]
fn many_handshakes_one_after_another_are_no_load() {
    const PEERS: usize = 150;
    let mut world = World::new(1 + PEERS, 6);
    for peer in 1..=PEERS {
        world.introduce(0, peer);
        world.introduce(peer, 0);
    }
    for peer in 1..=PEERS {
        world.talk(peer, 0, peer as u32);
    }
    world.pass(seconds(4));
    assert_eq!((world.count(2), world.count(3)), (PEERS, 0));
    assert_eq!(world.nodes[0].numbers().len(), PEERS);
}
