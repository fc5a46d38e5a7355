//! The protocol core as a script: three devices that are each other's peers, a network that eve owns, a clock that jumps.
//!
//! An input is a list of steps: packets are sent, delivered, lost, held back, sent again, changed, made up; time passes or
//! jumps; peers, keys, networks and endpoints change, by calls and by UAPI; a daemon is
//! killed, or makes way, and its successor goes on from the memory it left. After every step the devices' books must agree
//! ([`Device::assert_sound`]), and these hold throughout (`world.rs` checks them where they could break):
//! no message is accepted twice; what comes out of a tunnel was put in by the peer it is attributed to, for this host, and
//! from an address that is the peer's; no counter is sealed with twice; what isn't authentic changes nothing and is
//! answered with nothing but a cookie; timers come to rest. At the end the network turns fine and the three must find each
//! other again by themselves, whatever was done to them.

pub(crate) mod kept;
mod world;

use std::time::Duration;

use meshd_proto::{uapi, Cidr, Device, Endpoint, PresharedKey, PublicKey};

use crate::cursor::Cursor;
use crate::uapi::Socket;
use world::{Node, Wire, World, NODES};

/// Most steps of a script.
const STEPS: usize = 200;

/// Networks that are given to peers: hosts, and what lies around them.
const NETWORKS: &[&str] = &[
    "10.0.0.1/32",
    "10.0.0.2/32",
    "10.0.0.3/32",
    "10.0.0.0/31",
    "10.0.0.0/24",
    "10.0.0.0/30",
    "0.0.0.0/0",
    "::/0",
    "fd00::/64",
    "fd00::2/128",
];

/// Runs a script.
pub(crate) fn script(bytes: &[u8]) {
    let mut input = Cursor::new(bytes);
    let mut world = World::new(input.u16());
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut world, &mut input);
        world.assert_sound();
    }
    world.must_recover();
}

fn step(world: &mut World, input: &mut Cursor<'_>) {
    let node = input.below(NODES);
    match input.byte() % 16 {
        0 | 1 => {
            let stale = input.one_in(8);
            world.talk(
                node,
                input.choose(&[1, 2, 3, 9]),
                input.choose(&[1, 2, 3, 9]),
                stale,
            );
        }
        2 | 3 => world.deliver_next(),
        4 => {
            let seconds = input.choose(&[1, 400, 5_000, 10_000, 30_000, 130_000, 600_000]);
            world.pass(Duration::from_millis(seconds), input.one_in(3));
        }
        5 => eve(world, input),
        6 => lose(world, input),
        7 => jump(world, input),
        8 => configure(world, node, input),
        9 => speak_uapi(world, node, input),
        10 => {
            let key = world.nodes[input.below(NODES)].key;
            world.control(node, |device, ctx| {
                let _ = device.shake_hands(ctx, &key);
            });
        }
        11 => world.nodes[node].waiting = input.choose(&[0, 0, 511, 512, 4096]),
        12 => world.nodes[node].keep_table(),
        13 => {
            let up = input.one_in(2);
            world.control(node, |device, ctx| device.set_link(ctx, up));
        }
        14 => match input.byte() % 4 {
            0 => world.restart(node, true),
            1 => world.restart(node, false),
            place => world.move_to(node, place),
        },
        _ => world.pass(Duration::from_secs(1), true),
    }
}

/// Eve sends: something again, something changed, something made up, something under a key of her own.
fn eve(world: &mut World, input: &mut Cursor<'_>) {
    let to = input.below(NODES);
    let kind = input.byte() % 4;
    if kind == 3 {
        return world.knock(to);
    }
    if kind == 2 {
        let mut bytes = input.take(200).to_vec();
        // The lengths of messages, which few inputs have by chance.
        match input.byte() % 4 {
            0 => bytes.resize(148, 1),
            1 => bytes.resize(92, 2),
            2 => bytes.resize(64, 3),
            _ => {}
        }
        if bytes.len() > 4 {
            bytes[..4].copy_from_slice(&[input.byte() % 5, 0, 0, 0]);
        }
        let to = world.nodes[to].address;
        return world.forge(Wire::from_eve(to, bytes));
    }
    let Some(mut wire) = world.captured(input.u16()) else {
        return;
    };
    if input.one_in(2) {
        wire.from = world::eve();
    }
    if kind == 0 {
        return world.repeat(wire);
    }
    match input.byte() % 4 {
        0 => wire.bytes.truncate(input.below(wire.bytes.len())),
        1 => wire.bytes.extend(vec![input.byte(); 1 + input.below(40)]),
        _ => {
            // The last 16 bytes of a handshake message are looked at under load only.
            let covered = match wire.bytes[0] {
                1 | 2 => wire.bytes.len() - 16,
                _ => wire.bytes.len(),
            };
            let at = input.below(covered);
            wire.bytes[at] ^= 1 << (input.byte() % 8);
            // The sender's index is covered by the first MAC alone, which needs no secret: whoever holds a message up may send
            // it on with another one, as with another source (paper section 5.4.2: it isn't in the hash).
            let indexed = matches!(wire.bytes[0], 1 | 2) && (4..8).contains(&at);
            if input.one_in(2) && !indexed {
                world.sign_mac1(&mut wire);
            }
        }
    }
    world.forge(wire);
}

fn lose(world: &mut World, input: &mut Cursor<'_>) {
    let at = input.byte();
    match input.byte() % 3 {
        0 => world.lose(at),
        1 => world.hold_back(at),
        _ => world.double(at),
    }
}

/// A clock is set, or a host sleeps: time goes by and nothing is done at its time.
fn jump(world: &mut World, input: &mut Cursor<'_>) {
    let node = input.below(NODES);
    match input.byte() % 3 {
        0 => world.nodes[node].wall_offset = i64::from(input.u32() as i32),
        1 => world.nodes[node].wall_offset -= 3600,
        _ => {
            let seconds = input.choose(&[6, 60, 170, 200, 4_000, 100_000, 90_000_000]);
            world.sleep(Duration::from_secs(seconds));
        }
    }
}

fn configure(world: &mut World, node: usize, input: &mut Cursor<'_>) {
    let other = input.below(NODES);
    let key = input.choose(&[world.nodes[other].key, world.nodes[other].spare_key]);
    let network = network(input.choose(NETWORKS));
    match input.byte() % 16 {
        12..=15 => rotate(world, (node, other), &key, input),
        0 => world.control(node, |device, _| {
            let _ = device.remove_peer(&key);
        }),
        1 => world.control(node, |device, _| {
            let _ = device.upsert_peer(&key);
        }),
        2 => {
            let seconds = input.choose(&[0, 10, 25, 65535]);
            world.control(node, |device, ctx| {
                let _ = device.set_keepalive(ctx, &key, seconds);
            });
        }
        3 => {
            let preshared = PresharedKey::new([input.byte() % 2; 32]);
            world.control(node, |device, _| {
                let _ = device.set_preshared_key(&key, preshared);
            });
        }
        4 => {
            let address = input.choose(&[world.nodes[other].address, world::eve()]);
            let endpoint = (!input.one_in(4)).then(|| Endpoint::new(address));
            world.control(node, |device, ctx| {
                let _ = device.set_endpoint(ctx, &key, endpoint);
            });
        }
        5 => world.control(node, |device, _| {
            let _ = device.set_allowed_ips(&key, &[network]);
        }),
        6 | 7 => world.control(node, |device, _| {
            let _ = device.add_allowed_ip(&key, network);
        }),
        8 => world.control(node, |device, _| {
            let _ = device.remove_allowed_ip(&key, &network);
        }),
        9 => {
            let private = match input.byte() % 3 {
                0 => None,
                1 => Some(world.nodes[node].spare_private.clone()),
                _ => Some(world.nodes[node].private.clone()),
            };
            world.control(node, |device, _| device.set_private_key(private));
        }
        10 => {
            let mtu = input.choose(&[0, 576, 1280, 1420, 65535]);
            world.control(node, |device, _| device.set_mtu(mtu));
        }
        _ => world.control(node, |device, _| device.remove_all_peers()),
    }
}

/// Keys of which there are two for a while.
fn rotate(
    world: &mut World,
    (node, other): (usize, usize),
    name: &PublicKey,
    input: &mut Cursor<'_>,
) {
    // Its own: a peer that is said to be another one is another one, and what the world knows of it would be wrong.
    let other = &world.nodes[other];
    let theirs = [other.key, other.spare_key];
    let ours = [&world.nodes[node].private, &world.nodes[node].spare_private].map(Clone::clone);
    let (first, second) = (input.below(2), input.one_in(2));
    match input.byte() % 3 {
        0 => {
            let (current, next) = (ours[first].clone(), second.then(|| ours[1 - first].clone()));
            world.control(node, |device, _| {
                device.set_private_keys(Some(current), next);
            });
        }
        1 => world.control(node, |device, _| {
            let next = second.then_some(&theirs[1 - first]);
            let _ = device.set_peer_keys(name, &theirs[first], next);
        }),
        _ => {
            let next = second.then(|| PresharedKey::new([first as u8; 32]));
            let current = PresharedKey::new([input.byte() % 2; 32]);
            world.control(node, |device, _| {
                let _ = device.set_preshared_keys(name, current, next);
            });
        }
    }
    if input.one_in(2) {
        world.control(node, |device, ctx| {
            device.move_sessions(ctx);
            device.assert_sessions_end_with_their_keys(ctx.now);
        });
    }
}

fn network(text: &str) -> Cidr {
    let network = text
        .split_once('/')
        .and_then(|(address, prefix)| Cidr::new(address.parse().ok()?, prefix.parse().ok()?));
    network.unwrap_or_else(|| panic!("{text} is a network"))
}

/// A request as `wg set` writes it, or any bytes.
fn speak_uapi(world: &mut World, node: usize, input: &mut Cursor<'_>) {
    let mut request = b"set=1\n".to_vec();
    if input.one_in(4) {
        request.extend(input.take(64));
    } else {
        for _ in 0..=input.below(5) {
            let line = uapi_line(&world.nodes, input);
            request.extend(line.as_bytes());
            request.push(b'\n');
        }
    }
    world.control(node, |device, ctx| {
        let _ = uapi::handle(device, ctx, &mut Socket::default(), &request);
        let _ = uapi::handle(device, ctx, &mut Socket::default(), b"get=1\n\n");
    });
}

fn uapi_line(nodes: &[Node], input: &mut Cursor<'_>) -> String {
    let other = &nodes[input.below(NODES)];
    match input.byte() % 10 {
        0 | 1 => format!("public_key={}", world::hex(&other.key.0)),
        2 => "remove=true".into(),
        3 => "update_only=true".into(),
        4 => "replace_allowed_ips=true".into(),
        5 => format!("allowed_ip={}", input.choose(NETWORKS)),
        6 => format!("allowed_ip=-{}", input.choose(NETWORKS)),
        7 => format!("endpoint={}", other.address),
        8 => "persistent_keepalive_interval=25".into(),
        _ => "replace_peers=true".into(),
    }
}

/// Whose networks hold an address, by going through all of them.
fn owner(
    device: &Device,
    now: meshd_proto::Time,
    address: std::net::IpAddr,
) -> Option<meshd_proto::PublicKey> {
    let peers = device.peers(now);
    let holding = peers.iter().flat_map(|peer| {
        let networks = peer.allowed_ips.iter().filter(|n| n.contains(address));
        networks.map(|network| (network.prefix(), peer.public_key))
    });
    holding.max().map(|(_, key)| key)
}
