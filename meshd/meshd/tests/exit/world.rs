//! The stage of the exit's tests: a peer whose everything goes through the exit, one of whose users some do, the exit, the
//! internet, and a neighbour of the exit who would like to be in the mesh.
use super::hostile;
use super::scene::on;
use super::wire::Tap;
use crate::common::{hosts, Host, Mesh};
use meshd_os::nft::{Nft, NftError};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

pub const NAME: &str = "prod";
/// A user whose default way is the exit, on the host that sends nobody else there.
pub const ALICE: u32 = 1001;
pub const BOB: u32 = 1002;
/// Somebody on the internet.
pub const FAR: [&str; 2] = ["198.51.100.9", "2001:db8:ffff::9"];
pub const PATIENCE: Duration = Duration::from_secs(5);

/// See the file's head.
pub struct World {
    mesh: Mesh,
    /// All it has goes through the exit.
    pub client: Host,
    pub exit: Host,
    /// The internet, and the router to it.
    pub server: Host,
    /// Somebody on the exit's uplink, and at another link a site behind the exit.
    pub neighbour: Host,
    /// Alice goes through the exit.
    pub some: Host,
    /// Sees what the exit sends by its uplink.
    pub tap: Tap,
    pub supervisor: usize,
    environment: Vec<String>,
}

impl World {
    pub fn new(environment: &[&str]) -> Option<Self> {
        let [server, exit, client, neighbour, some] = hosts::<5>()?;
        if matches!(
            Nft::open().and_then(|nft| nft.find("none")),
            Err(NftError::Missing)
        ) {
            eprintln!("skipped: this kernel has no nf_tables");
            return None;
        }
        // It is a router, says so to neighbours who ask (RFC 4861, section 7.2.5), and the switch is in it.
        server.sh("for link in eth0 switch; do sysctl -qw net.ipv6.conf.$link.accept_ra=0; done; sysctl -qw net.ipv6.conf.all.forwarding=1; ip addr add 198.51.100.9/32 dev lo; ip addr add 2001:db8:ffff::9/128 dev lo nodad");
        for host in [&client, &some] {
            host.sh(
                "ip route add default via 192.0.2.1 && ip -6 route add default via 2001:db8::1",
            );
        }
        exit.sh("ip route add default via 192.0.2.1");
        let [to_neighbour, to_server] = [&neighbour, &server].map(Host::holder);
        exit.sh(&format!(
            "ip link add inside type veth peer name door netns {to_neighbour}
             ip addr add 172.30.0.1/24 dev inside && ip addr add fdbe::1/64 dev inside nodad && ip link set inside up
             ip link add other type veth peer name other netns {to_server}
             ip addr add 203.0.113.2/24 dev other && ip link set other up"
        ));
        server.sh("ip addr add 203.0.113.1/24 dev other && ip link set other up");
        neighbour.sh("ip addr add 172.30.0.2/24 dev door && ip addr add fdbe::2/64 dev door nodad && ip link set door up");
        // The exit's IPv6 default comes from a router.
        exit.until("an advertised default", |host| {
            hostile::advertise_with(&server, &[]);
            host.sh("ip -6 route show default proto ra")
                .contains("default")
        });
        let mut world = Self {
            mesh: Mesh::new(5),
            tap: Tap::new(&server, "port2"),
            client,
            exit,
            server,
            neighbour,
            some,
            supervisor: 0,
            environment: environment.iter().map(|word| (*word).to_owned()).collect(),
        };
        world.supervise();
        Some(world)
    }

    /// Starts the exit's daemon under a supervisor.
    pub fn supervise(&mut self) {
        let words: Vec<&str> = self.environment.iter().map(String::as_str).collect();
        self.supervisor = crate::common::supervised::supervise_with(&mut self.exit, &words);
    }

    /// Kills the supervisor and with it the daemon, as a crash of everything does.
    pub fn kill_all(&mut self) {
        let daemon = crate::common::supervised::daemon(&self.exit, self.supervisor);
        self.exit.kill(self.supervisor);
        self.exit
            .sh(&format!("kill -9 {daemon} 2> /dev/null || true"));
        self.exit.until("nobody serves", |host| {
            !crate::common::supervised::serves(host)
        });
    }

    /// The exit's configuration, with these lines.
    pub fn conf(&self, lines: &str) -> String {
        self.mesh.interface(2, lines) + &self.mesh.peer(3, "") + &self.mesh.peer(5, "")
    }

    pub fn exit_is(&self, lines: &str) {
        self.exit.apply(NAME, &self.conf(lines));
    }

    /// The peers' daemons, with the exit as their default way.
    pub fn everybody_joins(&mut self) {
        let way = self
            .mesh
            .peer(2, "PersistentKeepalive = 1\n")
            .replace("fd77::2/128", "fd77::2/128, 0.0.0.0/0, ::/0");
        for (n, host, lines) in [
            (3, &mut self.client, String::new()),
            (5, &mut self.some, format!("RouteUsers = {ALICE}\n")),
        ] {
            host.run(NAME);
            host.apply(NAME, &(self.mesh.interface(n, &lines) + &way));
            host.until("the exit answers", |host| {
                host.pings("10.77.0.2") && host.pings("fd77::2")
            });
        }
    }

    /// What others may do to our table: all that the kernel lets them.
    pub fn flush(&self) {
        if crate::common::installed("nft") {
            self.exit.sh("nft flush ruleset");
        }
        on(&self.exit, || {
            match Nft::open().and_then(|nft| nft.delete("meshd_prod_exit")) {
                Ok(()) | Err(NftError::Owned) => {}
                Err(error) => panic!("{error}"),
            }
        });
    }

    /// Somebody turns forwarding off on the exit's links and on all of them, and it is put back each time.
    pub fn turn_off_forwarding(&self) {
        let open = self.switches();
        let eth0_v4 = "ipv4/conf/eth0/forwarding";
        let v6 = match self
            .exit
            .sh("cat /proc/sys/net/ipv6/conf/all/forwarding")
            .trim()
        {
            "1" => "ipv6/conf/all/forwarding",
            _ => "ipv6/conf/eth0/force_forwarding",
        };
        for (off, seen) in [
            (format!("echo 0 > {eth0_v4}"), eth0_v4),
            // On first, or writing it changes nothing.
            (
                "echo 1 > ipv4/ip_forward; echo 0 > ipv4/ip_forward".to_owned(),
                eth0_v4,
            ),
            (format!("echo 0 > {v6}"), v6),
        ] {
            // Read at once, by the shell itself: it may be put back in a moment.
            let now = self.exit.sh(&format!(
                "cd /proc/sys/net; {off}; read now < {seen}; echo $now"
            ));
            assert_eq!(now.trim(), "0", "{off}");
            self.exit.until(&format!("put back after {off}"), |_| {
                self.switches() == open
            });
        }
    }

    /// Every switch of the exit's links, but those of the tunnel, which come and go with it.
    pub fn switches(&self) -> String {
        self.exit.sh(
            "cd /proc/sys/net && for file in ipv4/ip_forward ipv4/conf/*/* ipv6/conf/*/*; do
                case $file in */prod/* | *stable_secret) continue ;; esac
                echo $file $(cat $file)
             done",
        )
    }

    /// The IPv6 routes that the exit learned.
    pub fn routes(&self) -> String {
        self.exit
            .sh("ip -6 route show proto ra | sed 's/ expires [^ ]*//'")
    }

    pub fn tables(&self) -> String {
        self.exit.try_sh("nft list tables")
    }

    /// What the hosts know of connections, for who looks for the reason of a failure.
    pub fn situation(&self) -> String {
        let mut text = format!("by the exit's uplink: {:#?}\n", self.tap.frames());
        let hosts = [
            ("client", &self.client),
            ("some", &self.some),
            ("exit", &self.exit),
            ("server", &self.server),
            ("neighbour", &self.neighbour),
        ];
        for (who, host) in hosts {
            text += &format!("--- {who}\n");
            text += &host.try_sh(
                "ss -Htanoi; nstat -asz | grep -v ' 0  *0.0$'; cat /proc/net/nf_conntrack
                 ip rule; ip route; ip -6 route; ip neigh; nft list ruleset",
            );
        }
        text + &self.exit.try_meshd(&["status", NAME, "--json"], "").1
    }
}

/// Runs `f` on a host with sockets that are `uid`'s.
pub fn as_user<T>(host: &Host, uid: u32, f: impl FnOnce() -> T) -> T {
    let become_user = |uid: u32| {
        // SAFETY: no pointers are passed; it changes this thread alone (setfsuid(2)).
        unsafe { libc::setfsuid(uid) };
    };
    on(host, || {
        become_user(uid);
        let done = f();
        become_user(0);
        done
    })
}

/// A bound socket. A program that another thread has just started holds copies of all sockets until it runs.
pub fn bound<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {}
            other => return other.unwrap(),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
