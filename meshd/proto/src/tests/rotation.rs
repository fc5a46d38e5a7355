//! Keys change under traffic: in every order, with loss, reordering and duplication, with peers that know of nothing, and
//! with eve, who has kept everything.

mod ending;
mod strangers;

use super::*;
use proptest::prelude::*;

/// How far an end is with a change of all keys: its own, the other's, the preshared one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Only the old ones.
    Old,
    /// Both.
    Both,
    /// Only the new ones.
    New,
}

use Stage::{Both, New, Old};

/// What changes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    alices: bool,
    bobs: bool,
    preshared: bool,
}

const ALL: Plan = Plan {
    alices: true,
    bobs: true,
    preshared: true,
};

struct Keys {
    old: [PrivateKey; 2],
    new: [PrivateKey; 2],
    plan: Plan,
}

impl Keys {
    fn new(world: &World, plan: Plan) -> Self {
        let mut dice = Dice(77);
        let old = [ALICE, BOB].map(|node| world.nodes[node].private.clone());
        let changed = |node: usize| [plan.alices, plan.bobs][node];
        let new = [ALICE, BOB].map(|node| match changed(node) {
            true => crypto::generate(&mut dice),
            false => old[node].clone(),
        });
        Self { old, new, plan }
    }

    fn own(&self, node: usize, stage: Stage) -> (PrivateKey, Option<PrivateKey>) {
        let (old, new) = (self.old[node].clone(), self.new[node].clone());
        match stage {
            Old => (old, None),
            Both => (old, Some(new)),
            New => (new, None),
        }
    }

    fn psk(&self, stage: Stage) -> (PresharedKey, Option<PresharedKey>) {
        let old = PresharedKey::new([1; 32]);
        let new = PresharedKey::new(if self.plan.preshared {
            [2; 32]
        } else {
            [1; 32]
        });
        match stage {
            Old => (old, None),
            Both => (old, Some(new)),
            New => (new, None),
        }
    }

    /// Takes a configuration live, as the daemon does.
    fn set(&self, world: &mut World, node: usize, stage: Stage) {
        let other = 1 - node;
        let (own, next) = self.own(node, stage);
        let (theirs, their_next) = self.own(other, stage);
        let (psk, next_psk) = self.psk(stage);
        let name = world.nodes[node].device.peers(world.now)[0].public_key;
        let theirs = theirs.public();
        let their_next = their_next.map(|key| key.public());
        control!(world, node, |device, ctx| {
            device.set_private_keys(Some(own), next);
            device
                .set_peer_keys(&name, &theirs, their_next.as_ref())
                .unwrap();
            device.set_preshared_keys(&theirs, psk, next_psk).unwrap();
            device.move_sessions(ctx);
            device.assert_sessions_end_with_their_keys(ctx.now);
        });
    }
}

fn pair(seed: u64, plan: Plan) -> (World, Keys) {
    let mut world = World::pair(seed);
    let keys = Keys::new(&world, plan);
    keys.set(&mut world, ALICE, Old);
    keys.set(&mut world, BOB, Old);
    (world, keys)
}

fn status(world: &World, node: usize) -> PeerStatus {
    world.nodes[node].device.peers(world.now).remove(0)
}

/// Both talk, ten packets a second each way, for so many tenths of a second.
fn chat(world: &mut World, number: &mut u32, tenths: u64) {
    for _ in 0..tenths {
        world.talk(ALICE, BOB, *number);
        world.talk(BOB, ALICE, *number);
        *number += 1;
        world.pass(Duration::from_millis(100));
    }
}

/// Everything that was sent has arrived, once.
fn whole(world: &World, count: u32) {
    for node in [ALICE, BOB] {
        let mut numbers = world.nodes[node].numbers();
        numbers.sort_unstable();
        let lost = (0..count).find(|number| numbers.get(*number as usize) != Some(number));
        assert_eq!((lost, numbers.len()), (None, count as usize), "node {node}");
        assert_eq!(world.nodes[node].strays, 0);
    }
}

#[test]
fn three_steps_move_a_session_without_loss() {
    let plans = [
        ALL,
        Plan {
            bobs: false,
            preshared: false,
            ..ALL
        },
        Plan {
            alices: false,
            preshared: false,
            ..ALL
        },
        Plan {
            alices: false,
            bobs: false,
            ..ALL
        },
        Plan {
            preshared: false,
            ..ALL
        },
    ];
    for (seed, plan) in (0..).zip(plans) {
        for first in [ALICE, BOB] {
            let (mut world, keys) = pair(seed, plan);
            let mut number = 0;
            chat(&mut world, &mut number, 30);
            keys.set(&mut world, first, Both);
            assert_eq!(status(&world, first).rotation, Some(Rotation::Waiting));
            chat(&mut world, &mut number, 30);
            keys.set(&mut world, 1 - first, Both);
            chat(&mut world, &mut number, 100);
            for node in [ALICE, BOB] {
                let status = status(&world, node);
                assert_eq!(status.rotation, Some(Rotation::Moved), "{plan:?} {node}");
                assert_eq!(
                    status.public_key,
                    keys.old[1 - node].public(),
                    "its name stays"
                );
            }
            let handshakes = world.count(1);
            keys.set(&mut world, first, New);
            chat(&mut world, &mut number, 30);
            keys.set(&mut world, 1 - first, New);
            chat(&mut world, &mut number, 100);
            assert_eq!(
                world.count(1),
                handshakes,
                "the session has moved before: {plan:?}"
            );
            for node in [ALICE, BOB] {
                let status = status(&world, node);
                assert_eq!(status.rotation, None);
                assert_eq!(status.public_key, keys.new[1 - node].public());
                assert!(status.preshared_key == keys.psk(New).0);
                let device = &world.nodes[node].device;
                assert_eq!(device.public_key(), Some(keys.new[node].public()));
                assert!(device.next_private_key().is_none());
            }
            // Through two more sessions.
            chat(&mut world, &mut number, 2500);
            whole(&world, number);
        }
    }
}

#[test]
fn a_quiet_session_moves_too() {
    let preshared = Plan {
        alices: false,
        bobs: false,
        preshared: true,
    };
    for plan in [ALL, preshared] {
        for first in [ALICE, BOB] {
            let (mut world, keys) = pair(8, plan);
            let mut number = 0;
            chat(&mut world, &mut number, 10);
            world.pass(seconds(60));
            keys.set(&mut world, first, Both);
            world.pass(seconds(20));
            keys.set(&mut world, 1 - first, Both);
            world.pass(seconds(10));
            for node in [ALICE, BOB] {
                assert_eq!(status(&world, node).rotation, Some(Rotation::Moved));
            }
        }
    }
}

#[test]
fn ends_that_are_a_step_apart_find_each_other_cold() {
    for (alice, bob) in [
        (Old, Both),
        (Both, Old),
        (Both, Both),
        (Both, New),
        (New, Both),
        (New, New),
    ] {
        for talker in [ALICE, BOB] {
            let (mut world, keys) = pair(9, ALL);
            keys.set(&mut world, ALICE, alice);
            keys.set(&mut world, BOB, bob);
            world.talk(talker, 1 - talker, 1);
            world.pass(seconds(12));
            assert_eq!(
                world.nodes[1 - talker].numbers(),
                [1],
                "{alice:?} {bob:?} {talker}"
            );
            let back = 1 - talker;
            world.talk(back, talker, 2);
            world.pass(seconds(1));
            assert_eq!(world.nodes[talker].numbers(), [2]);
        }
    }
}

#[test]
fn a_peer_that_knows_one_key_goes_on_for_hours() {
    for (alice, bob) in [(Both, Old), (Both, New)] {
        for first in [ALICE, BOB] {
            let (mut world, keys) = pair(10, ALL);
            keys.set(&mut world, ALICE, alice);
            keys.set(&mut world, BOB, bob);
            world.talk(first, 1 - first, 0);
            world.pass(seconds(12));
            for node in [ALICE, BOB] {
                world.nodes[node].delivered.clear();
            }
            let mut number = 0;
            chat(&mut world, &mut number, 10_000);
            whole(&world, number);
        }
    }
}

#[test]
fn an_announcement_to_a_plain_peer_costs_no_packet() {
    let (mut world, keys) = pair(11, ALL);
    let mut number = 0;
    chat(&mut world, &mut number, 30);
    keys.set(&mut world, ALICE, Both);
    chat(&mut world, &mut number, 3000);
    assert_eq!(status(&world, ALICE).rotation, Some(Rotation::Waiting));
    let troubles = world.nodes[ALICE]
        .events
        .iter()
        .filter(|event| matches!(event, Event::Retrying(..) | Event::GivenUp(_)));
    assert_eq!(
        troubles.count(),
        0,
        "another key is not another place to look for the peer"
    );
    keys.set(&mut world, ALICE, Old);
    chat(&mut world, &mut number, 1500);
    whole(&world, number);
}

/// Whatever the network loses of a move, it is tried again soon and not at the session's end.
#[test]
fn a_move_that_the_network_loses_is_tried_again() {
    for seed in 0..40 {
        let (mut world, keys) = pair(100 + seed, ALL);
        let mut number = 0;
        chat(&mut world, &mut number, 70);
        world.weather.loss = 30;
        keys.set(&mut world, ALICE, Both);
        keys.set(&mut world, BOB, Both);
        chat(&mut world, &mut number, 100);
        world.weather.loss = 0;
        chat(&mut world, &mut number, 200);
        let moved = [ALICE, BOB].map(|node| status(&world, node).rotation);
        assert_eq!(moved, [Some(Rotation::Moved); 2], "seed {seed}");
    }
}

#[test]
fn under_load_cookies_are_given_for_either_key() {
    for stage in [Old, Both, New] {
        let (mut world, keys) = pair(15, ALL);
        keys.set(&mut world, BOB, Both);
        keys.set(&mut world, ALICE, stage);
        world.nodes[BOB].handshakes_waiting = crate::messages::MAX_QUEUED_HANDSHAKES / 8;
        world.talk(ALICE, BOB, 1);
        world.pass(seconds(20));
        assert!(world.count(3) > 0, "{stage:?}");
        assert_eq!(world.nodes[BOB].numbers(), [1], "{stage:?}");
    }
}

#[test]
fn nothing_wakes_an_idle_device() {
    let (mut world, keys) = pair(16, ALL);
    for stage in [Both, New, Both, Old] {
        for node in [ALICE, BOB] {
            keys.set(&mut world, node, stage);
            assert_eq!(world.nodes[node].device.next_timeout(), None);
        }
    }
    assert!(world.seen.is_empty());
}

#[derive(Clone, Debug)]
enum Turn {
    Chat(u64),
    Weather {
        loss: u64,
        duplication: u64,
        jitter: u64,
    },
    Switch(usize),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        6 => (1u64..150).prop_map(Turn::Chat),
        2 => (0u64..15, 0u64..30, 0u64..40).prop_map(|(loss, duplication, jitter)| Turn::Weather { loss, duplication, jitter }),
        3 => (0usize..2).prop_map(Turn::Switch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whoever changes when, in whatever weather: while the ends are at most a step apart, every data message that arrives
    /// can be read, and none waits for good.
    #[test]
    fn no_change_costs_a_packet(seed in 0u64..1000, turns in prop::collection::vec(turn(), 1..24)) {
        let (mut world, keys) = pair(seed, ALL);
        let mut number = 0;
        chat(&mut world, &mut number, 20);
        let steps = [Old, Both, New];
        let mut at = [0usize; 2];
        for turn in turns {
            match turn {
                Turn::Chat(tenths) => chat(&mut world, &mut number, tenths),
                Turn::Weather { loss, duplication, jitter } => {
                    world.weather = Weather {
                        latency: Duration::from_millis(10),
                        jitter: Duration::from_millis(jitter),
                        loss,
                        duplication,
                    };
                }
                Turn::Switch(node) => {
                    // Nobody goes ahead before the other has followed and the session has moved.
                    let other = at[1 - node];
                    let moved = [ALICE, BOB].iter().all(|node| status(&world, *node).rotation == Some(Rotation::Moved));
                    let may = at[node] < 2 && at[node] <= other && (at[node] == 0 || moved || other == 2);
                    if may {
                        at[node] += 1;
                        keys.set(&mut world, node, steps[at[node]]);
                    }
                }
            }
        }
        world.weather = Weather::FINE;
        chat(&mut world, &mut number, 2000);
        for node in [ALICE, BOB] {
            prop_assert_eq!(world.nodes[node].strays, 0, "node {}", node);
            prop_assert!(!world.nodes[node].verdicts.contains(&Verdict::Forged));
            // The last minute's packets are all there.
            let numbers: std::collections::BTreeSet<u32> = world.nodes[node].numbers().into_iter().collect();
            prop_assert!((number - 600..number).all(|number| numbers.contains(&number)), "node {}", node);
        }
    }
}
