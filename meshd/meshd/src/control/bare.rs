//! `meshd bare IFNAME`: a TUN device and its UAPI socket, and nothing else. Ends when its link is deleted or it is told to.

use super::engine::{Engine, Happening};
use super::interface::{failure, Interface};
use crate::failure::Outcome;
use crate::paths;
use meshd_proto::Tai64n;

/// Runs in the foreground.
pub fn run(name: &str) -> Outcome {
    let fail = |error| failure(name, error);
    let mut engine = Engine::new(&[paths::uapi_dir()]).map_err(fail)?;
    let mut interface = Interface::create(name, Tai64n::ZERO, &engine.store, None, None)?;
    interface.start(&mut engine.world)?;
    engine.install(interface).map_err(fail)?;
    engine.serve_uapi(name).map_err(fail)?;
    loop {
        match engine.next(None).map_err(fail)? {
            Happening::End => {
                engine.destroy();
                return Ok(());
            }
            Happening::LinkGone => return Ok(()),
            _ => {}
        }
    }
}
