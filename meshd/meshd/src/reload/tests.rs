//! Steps lead from every set-up to every other and back again from any point.

use super::*;

fn cidr(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

fn route(text: &str) -> Route {
    Route {
        table: 254,
        network: cidr(text),
    }
}

fn peer(net: &str) -> PeerSetup {
    PeerSetup {
        allowed_ips: [cidr(net)].into(),
        ..PeerSetup::default()
    }
}

fn key(byte: u8) -> PublicKey {
    PublicKey([byte; 32])
}

fn setup() -> Setup {
    Setup {
        private_key: Some(Secret::new([1; 32])),
        listen_port: Some(51820),
        mtu: 1420,
        up: true,
        addresses: [cidr("10.0.0.1/32")].into(),
        routes: [route("10.0.0.2/32")].into(),
        peers: [(key(2), peer("10.0.0.2/32"))].into(),
        ..Setup::blank()
    }
}

/// The model of an interface: what the steps do to a set-up.
fn apply(found: Option<Setup>, step: &Step) -> Option<Setup> {
    let mut found = match step {
        Step::Create => return Some(Setup::blank()),
        Step::Destroy => return None,
        _ => found.expect("there is a link"),
    };
    fn put<T: Ord>(set: &mut BTreeSet<T>, put: Put, item: T) {
        match put {
            Put::Add => set.insert(item),
            Put::Remove => set.remove(&item),
        };
    }
    match step {
        Step::Create | Step::Destroy => {}
        Step::PrivateKeys(change) => {
            [found.private_key, found.next_private_key] = change.to.clone();
        }
        Step::ListenPort(change) => found.listen_port = change.to,
        Step::FwMark(change) => found.fwmark = change.to,
        Step::Mtu(change) => found.mtu = change.to,
        Step::Up(change) => found.up = change.to,
        Step::Relay(change) => found.relay = change.to,
        Step::Address(p, address) => put(&mut found.addresses, *p, *address),
        Step::Route(p, route) => put(&mut found.routes, *p, *route),
        Step::Forward(p, network) => put(&mut found.forward, *p, *network),
        Step::Peer(key, change) => match &change.to {
            Some(to) => {
                found.peers.insert(*key, to.clone());
            }
            None => {
                found.peers.remove(key);
            }
        },
        Step::Rename(key, change) => {
            assert!(found.peers.remove(&key.from).is_some());
            found.peers.insert(key.to, change.to.clone());
        }
    }
    Some(found)
}

fn all(found: Option<Setup>, steps: &[Step]) -> Option<Setup> {
    steps.iter().fold(found, apply)
}

fn variants() -> Vec<Option<Setup>> {
    let mut other = setup();
    other.private_key = Some(Secret::new([9; 32]));
    other.listen_port = Some(51821);
    other.fwmark = 7;
    other.mtu = 1280;
    other.relay = true;
    other.addresses = [cidr("10.0.0.1/24"), cidr("fd00::1/64")].into();
    other.routes = [route("10.0.0.3/32"), route("fd00::3/128")].into();
    other.forward = [cidr("192.168.0.0/24")].into();
    other.peers = [(key(2), peer("10.0.0.3/32")), (key(3), peer("10.0.0.2/32"))].into();
    let mut down = setup();
    down.up = false;
    down.routes.clear();
    let mut both = setup();
    both.next_private_key = Some(Secret::new([9; 32]));
    let announced = PeerSetup {
        next_public_key: Some(key(4)),
        ..peer("10.0.0.2/32")
    };
    both.peers = [(key(2), announced)].into();
    let mut after = setup();
    after.private_key = both.next_private_key.clone();
    after.peers = [(key(4), peer("10.0.0.2/32"))].into();
    [
        None,
        Some(setup()),
        Some(other),
        Some(down),
        Some(both),
        Some(after),
    ]
    .into()
}

#[test]
fn no_difference_no_step() {
    for setup in variants() {
        assert_eq!(steps(setup.as_ref(), setup.as_ref()), []);
    }
}

#[test]
fn steps_lead_there_and_their_inverses_back_from_any_point() {
    for from in variants() {
        for to in variants() {
            let steps = steps(from.as_ref(), to.as_ref());
            assert_eq!(all(from.clone(), &steps), to);
            for done in 0..=steps.len() {
                let half = all(from.clone(), &steps[..done]);
                let back: Vec<Step> = steps[..done]
                    .iter()
                    .rev()
                    .filter_map(Step::inverse)
                    .collect();
                if steps != [Step::Destroy] || done == 0 {
                    assert_eq!(all(half, &back), from, "after {done} of {steps:?}");
                }
            }
        }
    }
}

#[test]
fn a_new_peer_touches_no_other() {
    let mut to = setup();
    to.peers.insert(key(3), peer("10.0.0.3/32"));
    to.routes.insert(route("10.0.0.3/32"));
    let steps = steps(Some(&setup()), Some(&to));
    assert_eq!(
        steps[0],
        Step::Route(Put::Add, route("10.0.0.3/32")),
        "the route comes first"
    );
    assert!(matches!(&steps[1], Step::Peer(k, change) if *k == key(3) && change.from.is_none()));
    assert_eq!(steps.len(), 2);
}

#[test]
fn a_peer_that_takes_its_next_key_stays_itself() {
    let variants = variants();
    let (before, after) = (variants[4].as_ref(), variants[5].as_ref());
    for (from, to) in [(before, after), (after, before)] {
        let steps = steps(from, to);
        assert!(matches!(
            &steps[..],
            [Step::PrivateKeys(_), Step::Rename(..)]
        ));
    }
    // Without an announcement it is another peer.
    let mut other = setup();
    other.peers = [(key(4), peer("10.0.0.2/32"))].into();
    let steps = steps(Some(&setup()), Some(&other));
    assert!(matches!(&steps[..], [Step::Peer(..), Step::Peer(..)]));
}

#[test]
fn a_peer_leaves_before_its_route() {
    let mut to = setup();
    to.peers.clear();
    to.routes.clear();
    let steps = steps(Some(&setup()), Some(&to));
    assert!(matches!(&steps[0], Step::Peer(_, change) if change.to.is_none()));
    assert_eq!(steps[1], Step::Route(Put::Remove, route("10.0.0.2/32")));
}

#[test]
fn any_port_will_do_when_none_is_wanted() {
    let mut to = setup();
    to.listen_port = None;
    assert_eq!(steps(Some(&setup()), Some(&to)), []);
}

#[test]
fn addresses_the_kernel_deletes_along_are_put_back() {
    let mut from = setup();
    from.addresses = [cidr("10.0.0.1/24"), cidr("10.0.0.5/24")].into();
    let mut to = setup();
    to.addresses = [cidr("10.0.0.5/24")].into();
    assert_eq!(
        steps(Some(&from), Some(&to)),
        [
            Step::Address(Put::Remove, cidr("10.0.0.1/24")),
            Step::Address(Put::Add, cidr("10.0.0.5/24"))
        ]
    );
}

#[test]
fn a_link_found_down_gets_all_its_routes() {
    let mut found = setup();
    found.up = false;
    assert_eq!(
        steps(Some(&found), Some(&setup())),
        [
            Step::Up(Change {
                from: false,
                to: true
            }),
            Step::Route(Put::Add, route("10.0.0.2/32"))
        ]
    );
}
