//! `guard`, and what closing a host leaves open.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;

use super::client::Client;
use super::options::Options;
use crate::closed::{self, Closed};
use crate::conf::Conf;
use crate::failure::{Failure, Outcome};
use crate::guard::{self, Guard};
use crate::paths;
use crate::read::parse;
use crate::users;

/// Where the C library looks for resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Closes the host as NAME.conf says, before there is a daemon: at boot, ahead of the network. It never opens anything.
pub fn close(options: &Options) -> Outcome {
    let name = &options.name;
    // The daemon keeps the host closed by itself.
    if Client::connect(name).is_ok() {
        return Ok(());
    }
    let path = paths::conf(name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Failure::new(path.display().to_string(), error, "run it as root").into())
        }
    };
    match parse(&path.display().to_string(), &bytes)?.conf {
        Some(conf) if closed::is_wanted(&conf) => {
            let (uids, unknown) = users::find(&conf.interface.route_users);
            for failure in unknown {
                eprintln!("meshd: warning: {failure}");
            }
            let wanted = Closed::wanted(name, &conf, &uids, conf.interface.listen_port);
            Ok(Guard::new(name)?.set(&wanted)?)
        }
        _ => Ok(()),
    }
}

/// Says beforehand what closing this host would not cover.
pub fn warn_of_gaps(conf: &Conf) {
    let key = match conf.interface.route_users[..] {
        [] => "KillSwitch",
        _ => "RouteUsers",
    };
    if let Some(gap) = closed::is_wanted(conf).then(guard::uncovered).flatten() {
        eprintln!("meshd: warning: {key}: {gap}");
    }
    if key == "RouteUsers" && asks_this_host(&fs::read_to_string(RESOLV_CONF).unwrap_or_default()) {
        eprintln!(
            "meshd: warning: RouteUsers: names are asked of a resolver on this host, which asks on as a user of its own \
             (name that one too, systemd-resolve for systemd-resolved)"
        );
    }
}

/// Whether a resolv.conf(5) names a resolver on this host.
fn asks_this_host(text: &str) -> bool {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = words.next().filter(|word| *word == "nameserver");
        server.and(words.next()?.parse::<IpAddr>().ok())
    });
    let servers: Vec<IpAddr> = servers.collect();
    // Without any, the resolver of this host is asked.
    servers.is_empty() || servers.iter().any(|server| server.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_on_this_host_is_noticed() {
        for (text, here) in [
            ("", true),
            ("nameserver 127.0.0.53\noptions edns0", true),
            ("# nameserver ::1\nnameserver 192.0.2.53", false),
            ("nameserver 192.0.2.53\n  nameserver ::1\n", true),
        ] {
            assert_eq!(asks_this_host(text), here, "{text}");
        }
    }
}
