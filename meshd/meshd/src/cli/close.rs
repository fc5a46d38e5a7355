//! `guard`, and the check that closing a host doesn't lock its administrator out.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;

use super::client::Client;
use super::options::Options;
use crate::closed::{self, Closed};
use crate::conf::Conf;
use crate::failure::{Exit, Failure, Outcome};
use crate::guard::{self, Guard};
use crate::paths;
use crate::read::parse;
use crate::users;

/// Where the C library looks for resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How many processes up an SSH server is looked for: `sudo` and shells stand between.
const ANCESTORS: usize = 16;

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

/// Refuses a configuration that would cut the SSH connection it came by.
pub fn check_reach(conf: &Conf) -> Result<(), Failure> {
    let Some((client, port)) = ssh_connection() else {
        return Ok(());
    };
    if closed::may_answer(conf, client, port) {
        return Ok(());
    }
    Err(Failure::new(
        "conf, KillSwitch",
        format!("you are connected from {client}, and answers to it could not leave any more"),
        format!(
            "add KillSwitchAllow = tcp/{port}, in mesh.yaml kill_switch: {{allow: [tcp/{port}]}}, or connect over the mesh"
        ),
    )
    .exit(Exit::BadConf))
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

/// The SSH connection this command was started by: where its client is, and the server's port here. `sudo` keeps the
/// variable from us, but not from root who can read it of the processes above.
fn ssh_connection() -> Option<(IpAddr, u16)> {
    if let Some(found) = std::env::var("SSH_CONNECTION").ok().and_then(|v| read(&v)) {
        return Some(found);
    }
    let mut process = "self".to_owned();
    for _ in 0..ANCESTORS {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        process = parent.trim().to_owned();
        let environment = fs::read(format!("/proc/{process}/environ")).ok()?;
        let found = environment
            .split(|byte| *byte == 0)
            .filter_map(|entry| {
                std::str::from_utf8(entry)
                    .ok()?
                    .strip_prefix("SSH_CONNECTION=")
            })
            .find_map(read);
        if found.is_some() {
            return found;
        }
    }
    None
}

/// `CLIENT PORT SERVER PORT`, as sshd(8) writes it.
fn read(text: &str) -> Option<(IpAddr, u16)> {
    let words: Vec<&str> = text.split(' ').collect();
    let [client, _, _, port] = words[..] else {
        return None;
    };
    // A link-local address carries its link.
    let client = client.split('%').next()?;
    let client: IpAddr = client.parse().ok()?;
    Some((client.to_canonical(), port.parse().ok()?))
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

    #[test]
    fn connections_are_read() {
        let found = |text| read(text).map(|(client, port)| format!("{client} {port}"));
        let v4 = found("192.0.2.9 50000 192.0.2.1 22");
        assert_eq!(v4.as_deref(), Some("192.0.2.9 22"));
        let mapped = found("::ffff:192.0.2.9 50000 ::ffff:192.0.2.1 22");
        assert_eq!(mapped.as_deref(), Some("192.0.2.9 22"));
        let local = found("fe80::1%eth0 50000 fe80::2%eth0 2222");
        assert_eq!(local.as_deref(), Some("fe80::1 2222"));
        for text in ["", "192.0.2.9", "a b c d", "192.0.2.9 1 192.0.2.1 ssh"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
