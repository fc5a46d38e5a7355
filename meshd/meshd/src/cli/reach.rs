//! The check that closing a host doesn't lock its administrator out, before anything is changed.
//!
//! Strategy: the SSH connection that a command came by says who must go on being answered. `RouteUsers` keeps in what its users'
//! sockets send; the kernel says whose the SSH server's are. What comes from an address of the interface goes by the mesh, whoever
//! sends it, so no other link may have one.
//!
//! What it does not do: know of connections other than its own, or of addresses that a link gets later.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use meshd_os::netlink::Netlink;

use crate::closed;
use crate::conf::{Conf, User};
use crate::failure::{Exit, Failure};
use crate::users;

/// How many processes up an SSH server is looked for: `sudo` and shells stand between.
const ANCESTORS: usize = 16;

/// The kernel's lists of TCP sockets.
const SOCKETS: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Refuses a configuration that would cut the SSH connection it came by, or others like it.
pub fn check(name: &str, conf: &Conf) -> Result<(), Failure> {
    if !closed::is_wanted(conf) {
        return Ok(());
    }
    check_addresses(name, conf)?;
    let Some((client, server)) = ssh_connection() else {
        return Ok(());
    };
    let lists = SOCKETS.map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets = lists
        .iter()
        .flat_map(|list| list.lines())
        .filter_map(socket);
    let sockets: Vec<Socket> = sockets
        .filter(|socket| socket.serves(client, server))
        .collect();
    let users = &conf.interface.route_users;
    let uids = users::find(users).0;
    let listed = |socket: &&Socket| uids.iter().any(|range| range.contains(&socket.uid));
    let kept_in = sockets.iter().find(listed);
    let free = !users.is_empty() && kept_in.is_none();
    if free || closed::may_answer(conf, client.ip(), server.port()) {
        return Ok(());
    }
    let (client, port) = (client.ip(), server.port());
    let host = conf.interface.name.as_deref().unwrap_or("this host");
    let refused = match kept_in {
        None => Failure::new(
            "conf, KillSwitch",
            format!("you are connected to {host} from {client}, and answers to that address could not leave any more"),
            format!(
                "add KillSwitchAllow = tcp/{port}, in mesh.yaml kill_switch: {{allow: [tcp/{port}]}}, or connect over the mesh"
            ),
        ),
        Some(Socket { uid, .. }) => Failure::new(
            "conf, RouteUsers",
            format!(
                "you are connected to {host} from {client}, and its SSH server at port {port} runs as user {uid}, which is one of {}: its \
                 answers could not leave any more",
                texts(users)
            ),
            format!("add KillSwitchAllow = tcp/{port}, or run that server as another user"),
        ),
    };
    Err(refused.exit(Exit::BadConf))
}

fn texts(users: &[User]) -> String {
    let texts: Vec<String> = users.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// With `RouteUsers` everybody's packets from the interface's addresses go by the mesh (`closed/rules.rs`, 5245).
fn check_addresses(name: &str, conf: &Conf) -> Result<(), Failure> {
    if conf.interface.route_users.is_empty() {
        return Ok(());
    }
    let fail = |error: meshd_os::Error| Failure::new("netlink", error, "");
    let netlink = Netlink::open().map_err(fail)?;
    for link in netlink.links().map_err(fail)? {
        let theirs = netlink.addresses(link.index).map_err(fail)?;
        let mut ours = conf.interface.addresses.iter();
        let same = ours.find(|ours| theirs.iter().any(|theirs| theirs.ip == ours.addr));
        if let Some(same) = same.filter(|_| link.name != name) {
            let why = format!(
                "{} is an address of {} too, and with RouteUsers everybody's packets from it would go by the mesh",
                same.addr, link.name
            );
            let hint = "give the interface an address of its own";
            return Err(Failure::new("conf, Address", why, hint).exit(Exit::BadConf));
        }
    }
    Ok(())
}

/// The SSH connection this command was started by: its client's end, and the server's. `sudo` keeps the
/// variable from us, but not from root who can read it of the processes above.
fn ssh_connection() -> Option<(SocketAddr, SocketAddr)> {
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
fn read(text: &str) -> Option<(SocketAddr, SocketAddr)> {
    let words: Vec<&str> = text.split(' ').collect();
    let [client, from, server, port] = words[..] else {
        return None;
    };
    let end = |ip: &str, port: &str| {
        // A link-local address carries its link.
        let ip: IpAddr = ip.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(ip.to_canonical(), port.parse().ok()?))
    };
    Some((end(client, from)?, end(server, port)?))
}

/// A TCP socket of this host.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    listens: bool,
    uid: u32,
}

impl Socket {
    /// Whether it is the server's end of a connection from `client`, or waits for the next one.
    fn serves(&self, client: SocketAddr, server: SocketAddr) -> bool {
        let here = self.local.ip().is_unspecified() || self.local.ip() == server.ip();
        let answers = self.listens && here || self.remote == client;
        answers && self.local.port() == server.port()
    }
}

/// A line of /proc/net/tcp or tcp6 (proc_pid_net(5)): `N: LOCAL:PORT REMOTE:PORT STATE QUEUES TIMER RETRANSMITS UID …`; 0A is
/// LISTEN (include/net/tcp_states.h).
fn socket(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (end(words.next()?)?, end(words.next()?)?);
    let listens = words.next()? == "0A";
    let uid = words.nth(3)?.parse().ok()?;
    Some(Socket {
        local,
        remote,
        listens,
        uid,
    })
}

/// An address as the kernel prints it: 32-bit words of it as numbers of this machine, in hexadecimal.
fn end(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let v4 = <[u8; 4]>::try_from(&bytes[..]).map(IpAddr::from);
    let ip = v4.or_else(|_| <[u8; 16]>::try_from(&bytes[..]).map(IpAddr::from));
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddr::new(ip.ok()?.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_read() {
        let found = |text| read(text).map(|(client, server)| format!("{client} {server}"));
        let v4 = found("192.0.2.9 50000 192.0.2.1 22");
        assert_eq!(v4.as_deref(), Some("192.0.2.9:50000 192.0.2.1:22"));
        let mapped = found("::ffff:192.0.2.9 50000 ::ffff:192.0.2.1 22");
        assert_eq!(mapped.as_deref(), Some("192.0.2.9:50000 192.0.2.1:22"));
        let local = found("fe80::1%eth0 50000 fe80::2%eth0 2222");
        assert_eq!(local.as_deref(), Some("[fe80::1]:50000 [fe80::2]:2222"));
        for text in ["", "192.0.2.9", "a b c d", "192.0.2.9 1 192.0.2.1 ssh"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_lists_are_read() {
        let heads = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(socket(heads), None);
        let line = "   1: 020200C0:0016 090200C0:C350 01 00000000:00000000 02:000A 00000000  1001        0 4711 2 0 20 4 30 10 -1";
        let connected = socket(line).unwrap();
        let (client, server) = read("192.0.2.9 50000 192.0.2.2 22").unwrap();
        let expected = Socket {
            local: server,
            remote: client,
            listens: false,
            uid: 1001,
        };
        assert_eq!(connected, expected);
        let line = "   0: 00000000000000000000000000000000:08AE 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1002        0 1 1";
        let waiting = socket(line).unwrap();
        assert_eq!((waiting.local.port(), waiting.listens), (2222, true));
        assert!(connected.serves(client, server) && !waiting.serves(client, server));
        assert!(waiting.serves(client, SocketAddr::new(server.ip(), 2222)));
        for text in [
            "",
            "1:",
            "1: 02:16 03:1 0A",
            "1: 0202-0C0:0016 090200C0:C350 01 0 0 0 0",
            "1: x:y z:w 01 0 0 0 0",
        ] {
            assert_eq!(socket(text), None, "{text}");
        }
    }
}
