//! Taking a set-up live on the engine's interface: steps one after the other, all of them or none.

use super::engine::Engine;
use super::interface::{failure, foreign_link, port_taken, Interface};
use super::loaded::Loaded;
use super::outer::Outer;
use super::space;
use super::world;
use crate::closed;
use crate::conf::Conf;
use crate::exit;
use crate::failure::Failure;
use crate::put::{Put, Route};
use crate::reload::{steps, Change, Setup, Step};
use meshd_os::netlink::Netlink;
use meshd_os::udp::{UdpOptions, UdpPair};

/// Whether `loaded` could be taken live as far as can be told beforehand: nobody else has the link's name or the port.
pub fn check(engine: &Engine, name: &str, loaded: &Loaded) -> Result<(), Failure> {
    let Some(conf) = &loaded.conf else {
        return Ok(());
    };
    if engine.interface.is_none() {
        let fail = |error| failure(name, error);
        if Netlink::open()
            .map_err(fail)?
            .link(name)
            .map_err(fail)?
            .is_some()
        {
            return Err(foreign_link(name));
        }
    }
    let port = conf.interface.listen_port;
    let outer = engine.interface.as_ref().map(|i| &i.outer);
    if port != 0 && outer.map(Outer::port) != Some(port) {
        let options = UdpOptions {
            port,
            ..UdpOptions::default()
        };
        let tried = match outer {
            Some(outer) => outer.try_port(port),
            None => UdpPair::bind(&options).map(drop),
        };
        tried.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => port_taken(name, port),
            _ => failure(name, error),
        })?;
    }
    Ok(())
}

/// What an interface that is there needs before the host is closed around it, so that not one packet is refused: the mark
/// of the tunnel's own packets, and routes in the tables which the rules will ask. Nobody looks there before. Returns the
/// steps that take it back.
pub fn prepare(engine: &mut Engine, loaded: &Loaded) -> Result<Vec<Step>, Failure> {
    let Some(interface) = &engine.interface else {
        return Ok(Vec::new());
    };
    let found = interface.observe(&closed::TABLES)?;
    let mtu = interface.found_mtu;
    let wanted = wanted(engine, loaded);
    if let Some(interface) = &mut engine.interface {
        // Nothing is decided yet: the MTU found before is still the one in force.
        interface.found_mtu = mtu;
    }
    let (Some(found), Some(wanted)) = (found.filter(|found| found.up), wanted) else {
        return Ok(Vec::new());
    };
    let mut steps = Vec::new();
    if found.fwmark != wanted.fwmark {
        steps.push(Step::FwMark(Change {
            from: found.fwmark,
            to: wanted.fwmark,
        }));
    }
    let missing = wanted.routes.difference(&found.routes);
    // A family that is opened again, while the other stays closed, finds its routes where they were before.
    let moves = |route: &Route| found.routes.iter().any(|old| old.network == route.network);
    let missing = missing.filter(|route| closed::TABLES.contains(&route.table) || moves(route));
    steps.extend(missing.map(|route| Step::Route(Put::Add, *route)));
    run(engine, &steps)?;
    Ok(steps.iter().rev().filter_map(Step::inverse).collect())
}

/// Takes back what [`prepare`] did.
pub fn take_back(engine: &mut Engine, steps: &[Step]) {
    if let Err(failure) = run(engine, steps) {
        eprintln!("meshd: warning: going back: {failure}");
    }
}

/// Makes what is so into what `loaded` wants. On failure everything is as before, as far as the kernel lets us. With
/// `still_closed` what a closed host needs stays (see [`prepare`]), until it is called again without.
pub fn take(
    engine: &mut Engine,
    name: &str,
    loaded: &Loaded,
    still_closed: bool,
) -> Result<(), Failure> {
    let tables = loaded.conf.as_ref().map_or(Vec::new(), closed::tables);
    let mut found = None;
    let namespace = space::wanted(loaded.conf.as_ref());
    if engine
        .interface
        .as_ref()
        .is_some_and(|interface| interface.namespace.as_deref() != namespace)
    {
        // A link that moves loses everything but its name: another one is no worse.
        engine.destroy();
    }
    if let Some(interface) = &mut engine.interface {
        // The routes to be taken away may be in another table than those to come.
        let mut all = interface.routes_in.clone();
        all.extend(
            tables
                .iter()
                .filter(|table| !interface.routes_in.contains(table)),
        );
        found = interface.observe(&all)?;
        if found.is_none() {
            // Renamed or deleted behind our back: not ours any more.
            engine.destroy();
        }
    }
    let was_there = found.is_some();
    // The MTU depends on the routes that a link needs to exist for, so it is found last of all values.
    if let (None, Some(conf)) = (&found, &loaded.conf) {
        create(engine, name, conf)?;
        found = Some(blank_or_inherited(engine, &tables)?);
    }
    let mtu_before = engine.interface.as_ref().and_then(|live| live.found_mtu);
    let mut wanted = wanted(engine, loaded);
    if let (true, Some(found), Some(wanted)) = (still_closed, &found, &mut wanted) {
        wanted.fwmark = found.fwmark;
        let closed = |route: &&Route| closed::TABLES.contains(&route.table);
        wanted.routes.extend(found.routes.iter().filter(closed));
    }
    let result = match (&mut engine.interface, &wanted) {
        (Some(_), None) => {
            engine.destroy();
            Ok(())
        }
        (Some(_), Some(wanted)) => {
            run(engine, &steps(found.as_ref(), Some(wanted))).and_then(|()| start(engine))
        }
        (None, _) => Ok(()),
    };
    if result.is_err() && !was_there {
        engine.destroy();
    }
    if let Some(interface) = &mut engine.interface {
        // When all keys are in place, back or forth.
        interface.device.move_sessions(&mut engine.world.context());
        if result.is_err() {
            interface.found_mtu = mtu_before;
        } else {
            if wanted.is_some_and(|wanted| wanted.listen_port.is_none()) {
                interface.outer.keep_port();
            }
            interface.routes_in = tables;
            if still_closed {
                interface.routes_in.extend(closed::TABLES);
            }
            // An exit settles it by itself, when it has said what it needs.
            let exit = exit::wanted(loaded.conf.as_ref()).is_some();
            let settled = if exit {
                Ok(())
            } else {
                interface.net.settle_forwarding()
            };
            if let Err(error) = settled {
                eprintln!("meshd: warning: {name}: {error}");
            }
        }
    }
    engine.flush();
    result
}

/// What an interface that was just created has: nothing, or what a predecessor's link has in the kernel.
fn blank_or_inherited(engine: &Engine, tables: &[u32]) -> Result<Setup, Failure> {
    let inherited = engine
        .interface
        .as_ref()
        .filter(|interface| interface.adopted);
    let seen = inherited
        .map(|interface| interface.observe(tables))
        .transpose()?;
    Ok(seen.flatten().unwrap_or_else(Setup::blank))
}

/// Lets packets flow, now that everything is set.
fn start(engine: &mut Engine) -> Result<(), Failure> {
    match &mut engine.interface {
        Some(interface) => interface.start(&mut engine.world),
        None => Ok(()),
    }
}

fn create(engine: &mut Engine, name: &str, conf: &Conf) -> Result<(), Failure> {
    let space = match &conf.interface.namespace {
        None => None,
        Some(namespace) => {
            let space = engine.spaces.iter().find(|space| space.name == *namespace);
            Some(space.ok_or_else(|| space::missing(name, namespace))?)
        }
    };
    let mut interface = Interface::create(
        name,
        engine.labels(),
        &engine.store,
        engine.keeping.sessions.clone(),
        space,
    )?;
    interface.device.watch_paths();
    // On a closed host it takes the mark to find the way to a peer, and with it the MTU.
    interface
        .outer
        .set_mark(closed::mark(conf))
        .map_err(|error| failure(name, error))?;
    engine
        .install(interface)
        .map_err(|error| failure(name, error))?;
    if let Err(error) = engine.serve_uapi(name) {
        eprintln!("meshd: warning: `wg` will not see {name}: {error}");
    }
    Ok(())
}

/// The set-up that `loaded` wants now; `None`: no interface.
pub fn wanted(engine: &mut Engine, loaded: &Loaded) -> Option<Setup> {
    let (conf, key) = loaded.conf.as_ref().zip(loaded.key.as_ref())?;
    let interface = engine.interface.as_mut()?;
    let mtu = match conf.interface.mtu {
        Some(mtu) => {
            interface.found_mtu = None;
            mtu
        }
        None => {
            let literals = conf
                .peers
                .iter()
                .filter_map(|peer| super::interface::literal(peer.endpoint.as_ref()?));
            let mtu = interface.automatic_mtu(literals);
            interface.found_mtu = Some(mtu);
            mtu
        }
    };
    Some(Setup::wanted(conf, key.clone(), mtu, world::utc()))
}

/// Carries the steps out; takes the done ones back when one fails.
fn run(engine: &mut Engine, steps: &[Step]) -> Result<(), Failure> {
    let Engine {
        interface: Some(interface),
        world,
        ..
    } = engine
    else {
        return Ok(());
    };
    for (at, step) in steps.iter().enumerate() {
        let Err(failure) = interface.apply(world, step) else {
            continue;
        };
        // The failed one too: it may have been done in part.
        for back in steps[..=at].iter().rev().filter_map(Step::inverse) {
            if let Err(failure) = interface.apply(world, &back) {
                eprintln!("meshd: warning: going back: {failure}");
            }
        }
        return Err(failure);
    }
    Ok(())
}
