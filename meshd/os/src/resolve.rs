//! Names of endpoints: the hosts file, then the resolvers of resolv.conf, over UDP with a mark and a deadline.
//!
//! Strategy: a static binary has no NSS, and a look-up behind a fail-closed tunnel must carry the tunnel's own mark or it waits
//! for itself; so this reads the two files and speaks DNS (RFC 1035) as far as A and AAAA need it. `dns` is the pure half.
//! Each server is asked for both families at once; the first that answers for the name ends the search.
//!
//! What it does not do: search lists for dotted names, DNSSEC, TCP, caching, mDNS. It blocks: call it from a thread of its own.
mod dns;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use crate::error::{Error, Result};
use crate::udp::{RecvBatch, UdpOptions, UdpSocket};
use crate::{events, random};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const DNS_PORT: u16 = 53;
/// How long one server is waited for before the next is asked (resolv.conf(5) has 5 s; a tunnel wants to come up).
const TRY: Duration = Duration::from_millis(1500);
/// How often the list of servers is gone through.
const ROUNDS: u32 = 2;

/// Where to look and how.
#[derive(Clone, Debug)]
pub struct Resolver {
    /// The hosts file, usually /etc/hosts.
    pub hosts: PathBuf,
    /// The resolver configuration, usually /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// SO_MARK of the questions; 0 is none.
    pub mark: u32,
    /// How long all of it may take.
    pub timeout: Duration,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            mark: 0,
            timeout: Duration::from_secs(5),
        }
    }
}

impl Resolver {
    /// The addresses of `name`, which may be an address itself; in the order of the answer, IPv4 first. `NotFound` when the
    /// name has none, `TimedOut` when nobody answered.
    pub fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        if let Ok(ip) = name.parse() {
            return Ok(vec![ip]);
        }
        let failed = |kind: io::ErrorKind, why: &str| {
            Error::new(format!("resolve {name}"), io::Error::new(kind, why))
        };
        // A missing file is an empty one.
        let found = hosts_lookup(&fs::read_to_string(&self.hosts).unwrap_or_default(), name);
        if !found.is_empty() {
            return Ok(found);
        }
        if dns::question(0, name, dns::A).is_none() {
            return Err(failed(
                io::ErrorKind::InvalidInput,
                "not a possible host name",
            ));
        }
        let servers = servers(&fs::read_to_string(&self.resolv_conf).unwrap_or_default());
        let end = Instant::now() + self.timeout;
        let mut last = failed(io::ErrorKind::TimedOut, "no name server answered");
        for round in 0..ROUNDS {
            for server in &servers {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(last);
                }
                match self.ask(*server, name, left.min(TRY * (round + 1))) {
                    Ok(Some(addresses)) if addresses.is_empty() => {
                        return Err(failed(
                            io::ErrorKind::NotFound,
                            "no such name, or no address",
                        ));
                    }
                    Ok(Some(addresses)) => return Ok(addresses),
                    Ok(None) => {}
                    Err(e) => last = e,
                }
            }
        }
        Err(last)
    }

    /// Asks one server for both families. `None`: no usable answer in time.
    fn ask(
        &self,
        server: SocketAddr,
        name: &str,
        timeout: Duration,
    ) -> Result<Option<Vec<IpAddr>>> {
        let any: IpAddr = if server.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let options = UdpOptions {
            mark: self.mark,
            gro: false,
            gso: false,
            receive_buffer: 1 << 16,
            ..UdpOptions::default()
        };
        let socket = UdpSocket::bind(any, &options)?;
        let mut ids = [0; 4];
        random::fill(&mut ids)?;
        let ids = [
            u16::from_ne_bytes([ids[0], ids[1]]),
            u16::from_ne_bytes([ids[2], ids[3]]),
        ];
        let context = |e| Error::new(format!("ask name server {server}"), e);
        for (id, kind) in ids.into_iter().zip([dns::A, dns::AAAA]) {
            let question = dns::question(id, name, kind).unwrap_or_default();
            socket
                .send(&question, question.len(), &server, None, 0, false)
                .map_err(context)?;
        }
        let mut answers = [None, None];
        let mut batch = RecvBatch::new(2);
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || answers.iter().all(Option::is_some) {
                break;
            }
            if events::wait_readable([socket.as_fd()], Some(left)).map_err(context)? == [false] {
                break;
            }
            match socket.receive(&mut batch) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                Err(e) => return Err(context(e)),
            }
            let (arena, datagrams) = batch.parts();
            for datagram in datagrams.iter().filter(|d| d.from == server) {
                let message = &arena[datagram.range()];
                for ((answer, id), kind) in answers.iter_mut().zip(ids).zip([dns::A, dns::AAAA]) {
                    if let Some(found) = dns::answer(message, id, name, kind) {
                        *answer = Some(found);
                    }
                }
            }
        }
        // One family that answered with something is enough; nothing from one and silence of the other is not.
        let [v4, v6] = answers;
        let complete = v4.is_some() && v6.is_some();
        let found: Vec<IpAddr> = v4.into_iter().chain(v6).flatten().collect();
        // A server that refuses or fails says nothing about the name.
        Ok((complete || !found.is_empty()).then_some(found))
    }
}

/// The addresses of `name` in a hosts file (hosts(5)), in its order.
fn hosts_lookup(text: &str, name: &str) -> Vec<IpAddr> {
    let entry = |line: &str| {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words
            .any(|word| word.eq_ignore_ascii_case(name.trim_end_matches('.')))
            .then_some(ip)
    };
    text.lines().filter_map(entry).collect()
}

/// The name servers of a resolv.conf(5); without any, the one on this machine.
fn servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        let word = words.next()?;
        // A link-local address has its link behind it, by name or number.
        if let Some((ip, link)) = word.split_once('%') {
            let ip: Ipv6Addr = ip.parse().ok()?;
            return Some(SocketAddr::V6(SocketAddrV6::new(
                ip,
                DNS_PORT,
                0,
                scope(link)?,
            )));
        }
        Some(SocketAddr::new(word.parse().ok()?, DNS_PORT))
    };
    let servers: Vec<_> = text.lines().filter_map(server).collect();
    if servers.is_empty() {
        return vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT)];
    }
    servers
}

fn scope(link: &str) -> Option<u32> {
    if let Ok(index) = link.parse() {
        return Some(index);
    }
    let name = std::ffi::CString::new(link).ok()?;
    // SAFETY: `name` is a live, zero-terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket as StdSocket;

    #[test]
    fn the_hosts_file_is_read_as_people_write_it() {
        let text = "127.0.0.1 localhost # me\n\n#192.0.2.9 a\n192.0.2.1\ta a.prod A.example\n2001:db8::1 a\nbroken a\n";
        let all: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(hosts_lookup(text, "a"), all);
        assert_eq!(hosts_lookup(text, "a.EXAMPLE."), all[..1]);
        assert!(hosts_lookup(text, "me").is_empty());
    }

    #[test]
    fn resolv_conf_names_the_servers() {
        let text =
            "# x\nsearch a b\nnameserver 192.0.2.53\nnameserver fe80::1%3\nnameserver nonsense\n";
        assert_eq!(
            servers(text),
            [
                "192.0.2.53:53".parse().unwrap(),
                "[fe80::1%3]:53".parse().unwrap()
            ]
        );
        assert_eq!(servers(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    /// A name server for one name, which answers `ip` to A and nothing to AAAA.
    fn serve(ip: [u8; 4]) -> SocketAddr {
        let socket = StdSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buf = [0; 512];
            while let Ok((n, from)) = socket.recv_from(&mut buf) {
                // Without the additional record, which has eleven bytes.
                let mut message = buf[..n - 11].to_vec();
                let is_a = message[n - 11 - 3] == 1;
                message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
                if is_a {
                    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                    message.extend(ip);
                }
                let _ = socket.send_to(&message, from);
            }
        });
        at
    }

    #[test]
    fn a_server_is_asked_and_believed() {
        let resolver = Resolver::default();
        let server = serve([192, 0, 2, 7]);
        let found = resolver
            .ask(server, "vpn.example.com", Duration::from_secs(5))
            .unwrap();
        assert_eq!(found, Some(vec!["192.0.2.7".parse().unwrap()]));
    }

    #[test]
    fn a_silent_server_is_left_in_time() {
        let silent = StdSocket::bind("127.0.0.1:0").unwrap();
        let started = Instant::now();
        let found = Resolver::default()
            .ask(silent.local_addr().unwrap(), "a", Duration::from_millis(50))
            .unwrap();
        assert_eq!(found, None);
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn addresses_need_no_server() {
        let resolver = Resolver {
            resolv_conf: "/nonexistent".into(),
            ..Resolver::default()
        };
        assert_eq!(
            resolver.resolve("2001:db8::5").unwrap(),
            ["2001:db8::5".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(
            resolver.resolve("a..b").unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
