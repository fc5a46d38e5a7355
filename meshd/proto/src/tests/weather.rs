//! Laws that hold whatever the network does: loss, reordering, duplication, outages, roaming, clocks that jump.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Talk {
        from: usize,
        count: u8,
    },
    Wait {
        milliseconds: u32,
    },
    Weather {
        loss: u64,
        duplication: u64,
        jitter: u32,
    },
    Online {
        node: usize,
        online: bool,
    },
    Roam {
        node: usize,
        host: u8,
    },
    Clock {
        node: usize,
        offset: i32,
    },
    Link {
        node: usize,
    },
    Replay,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0usize..2;
    prop_oneof![
        8 => (node.clone(), 1u8..20).prop_map(|(from, count)| Step::Talk { from, count }),
        8 => prop_oneof![0u32..200, 1_000u32..20_000, 100_000u32..700_000].prop_map(|milliseconds| Step::Wait { milliseconds }),
        3 => (0u64..60, 0u64..60, 0u32..400).prop_map(|(loss, duplication, jitter)| Step::Weather { loss, duplication, jitter }),
        2 => (node.clone(), any::<bool>()).prop_map(|(node, online)| Step::Online { node, online }),
        2 => (node.clone(), 1u8..200).prop_map(|(node, host)| Step::Roam { node, host }),
        1 => (node.clone(), any::<i32>()).prop_map(|(node, offset)| Step::Clock { node, offset }),
        1 => node.prop_map(|node| Step::Link { node }),
        1 => Just(Step::Replay),
    ]
}

fn run(world: &mut World, steps: &[Step], numbers: &mut u32) {
    for step in steps {
        match *step {
            Step::Talk { from, count } => {
                for _ in 0..count {
                    *numbers += 1;
                    world.talk(from, 1 - from, *numbers);
                }
            }
            Step::Wait { milliseconds } => world.pass(Duration::from_millis(milliseconds.into())),
            Step::Weather {
                loss,
                duplication,
                jitter,
            } => {
                let jitter = Duration::from_millis(jitter.into());
                world.weather = Weather {
                    loss,
                    duplication,
                    jitter,
                    ..Weather::FINE
                };
            }
            Step::Online { node, online } => world.nodes[node].online = online,
            // Each has a net of its own, so that nobody takes the other's address.
            Step::Roam { node, host } => world.nodes[node]
                .address
                .set_ip(IpAddr::from([100, 64, node as u8, host])),
            Step::Clock { node, offset } => world.nodes[node].wall_offset = offset.into(),
            Step::Link { node } => control!(world, node, |device, ctx| {
                device.set_link(ctx, false);
                device.set_link(ctx, true);
            }),
            Step::Replay => {
                for wire in world.seen.clone().into_iter().rev().take(200) {
                    world.arrive(wire);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn whatever_the_weather(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::pair(seed);
        let mut numbers = 0;
        run(&mut world, &steps, &mut numbers);

        // No packet came out twice, and none that was not sent.
        for node in [ALICE, BOB] {
            let mut delivered = world.nodes[node].numbers();
            let count = delivered.len();
            delivered.sort_unstable();
            delivered.dedup();
            prop_assert_eq!(delivered.len(), count, "duplicates were delivered");
            prop_assert!(delivered.iter().all(|number| (1..=numbers).contains(number)));
        }

        // No key and counter were used twice: all data messages differ.
        let data: Vec<_> = world.seen.iter().filter(|wire| wire.kind() == 4).map(|wire| &wire.bytes[4..16]).collect();
        let distinct: std::collections::BTreeSet<_> = data.iter().collect();
        prop_assert_eq!(distinct.len(), data.len(), "a nonce was used twice");

        // When the weather clears, they find each other again, wherever they are.
        world.weather = Weather::FINE;
        for node in [ALICE, BOB] {
            world.nodes[node].online = true;
            let (key, address) = (world.nodes[1 - node].key, world.nodes[1 - node].address);
            control!(world, node, |device, ctx| device.set_endpoint(ctx, &key, Some(Endpoint::new(address)))).unwrap();
        }
        for _ in 0..30 {
            numbers += 1;
            world.talk(ALICE, BOB, numbers);
            world.talk(BOB, ALICE, numbers);
            world.pass(seconds(1));
        }
        prop_assert_eq!(world.nodes[BOB].numbers().last().copied(), Some(numbers));
        prop_assert_eq!(world.nodes[ALICE].numbers().last().copied(), Some(numbers));

        // And when they have nothing to say, they sleep.
        world.pass(seconds(700));
        let (sent, wakes) = (world.seen.len(), world.nodes[ALICE].wakes);
        prop_assert_eq!(world.nodes[ALICE].device.next_timeout(), None);
        prop_assert_eq!(world.nodes[BOB].device.next_timeout(), None);
        world.pass(seconds(100_000));
        prop_assert_eq!((world.seen.len(), world.nodes[ALICE].wakes), (sent, wakes));
    }

    #[test]
    fn random_bytes_and_calls_break_nothing(
        seed in any::<u64>(),
        datagrams in prop::collection::vec((0u8..6, prop::collection::vec(any::<u8>(), 0..200), 0usize..1000), 0..60),
    ) {
        let mut world = World::pair(seed);
        for (kind, mut bytes, waiting) in datagrams {
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            }
            let from = SocketAddr::from(([203, 0, 113, 5], 5));
            world.nodes[BOB].handshakes_waiting = waiting;
            world.arrive(Wire { at: world.now, from, to: world.nodes[BOB].address, bytes });
        }
        world.nodes[BOB].handshakes_waiting = 0;
        world.pass(seconds(2));
        world.talk(ALICE, BOB, 1);
        world.pass(seconds(1));
        prop_assert_eq!(world.nodes[BOB].numbers(), [1]);
    }
}
