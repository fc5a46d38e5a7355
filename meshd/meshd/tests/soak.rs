//! A mesh that is never left alone: a hub and 20 spokes, 2 % of their datagrams lost, every spoke sending rate-limited flows
//! to the hub or through it to another spoke, while one spoke after the other roams, changes its keys, goes and comes, is
//! killed, upgraded, moved to another port. Every flow must arrive whole, every change must work within its time, the hub's
//! memory must stay flat, and no daemon may say that anything is wrong.
//!
//! `SOAK_SECONDS` says how long (20 by default, half an hour in `make nightly`), `SOAK_RATE` bytes a second of a spoke.
//! It prints what happened (`--nocapture`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "soak/mesh.rs"]
mod mesh;
#[path = "soak/traffic.rs"]
mod traffic;

use std::collections::BTreeMap;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use common::{hosts, installed, Host, MESHD};
use mesh::{Rotation, Star};
use traffic::Client;

const NAME: &str = "prod";
const SPOKES: usize = 20;
const HOSTS: usize = SPOKES + 1;
/// How long a change may take until its spoke is reached again. The machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

const LOSS: &str = "sysctl -qw net.ipv4.conf.all.promote_secondaries=1
nft 'table inet weather { chain in { type filter hook input priority -300; iifname eth0 meta l4proto udp numgen random mod 100 < 2 drop; }; }'";

/// What happens to a spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Roam,
    Rotate,
    Leave,
    Kill,
    Upgrade,
    Restart,
    Move,
}

/// The slowest last: a peer that was taken out and put back is asked for a session after 15 s.
const CHANGES: [Change; 7] = [
    Change::Roam,
    Change::Kill,
    Change::Upgrade,
    Change::Rotate,
    Change::Move,
    Change::Restart,
    Change::Leave,
];

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

struct Soak {
    hosts: [Host; HOSTS],
    star: Star,
    /// Each host's supervisor.
    supervisors: Vec<usize>,
    /// Whether a spoke is at its second address.
    away: [bool; HOSTS + 1],
    /// How long each change took until its spoke was reached again, milliseconds.
    took: BTreeMap<Change, Vec<u128>>,
    /// The hub's memory (KiB) and open descriptors.
    series: Vec<(u64, usize)>,
}

impl Soak {
    fn set_up() -> Option<Self> {
        for program in ["nft", "python3"] {
            if !installed(program) {
                eprintln!("skipped: {program} is not installed");
                return None;
            }
        }
        let mut hosts = hosts::<HOSTS>()?;
        let mut supervisors = Vec::new();
        for host in &mut hosts {
            host.sh(LOSS);
            host.sh("mkdir -p /run/meshd");
            supervisors.push(start(host));
        }
        let star = Star::new(SPOKES);
        hosts[0].apply(NAME, &star.hub());
        let apply = |n: usize, host: &Host| host.apply(NAME, &star.spoke(n));
        thread::scope(|scope| {
            for (n, host) in (2..).zip(&hosts[1..]) {
                scope.spawn(move || apply(n, host));
            }
        });
        let soak = Self {
            hosts,
            star,
            supervisors,
            away: [false; HOSTS + 1],
            took: BTreeMap::new(),
            series: Vec::new(),
        };
        for n in 2..=HOSTS {
            soak.reached(n);
        }
        Some(soak)
    }

    fn host(&self, n: usize) -> &Host {
        &self.hosts[n - 1]
    }

    /// The daemon's process under its supervisor.
    fn daemon(&self, n: usize) -> String {
        let supervisor = self.host(n).pid(self.supervisors[n - 1]);
        let children = format!("cat /proc/{supervisor}/task/{supervisor}/children");
        self.host(n).sh(&children).trim().to_owned()
    }

    /// Waits until spoke `n` reaches the hub.
    fn reached(&self, n: usize) {
        let end = Instant::now() + PATIENCE;
        let ping = "ping -c 1 -W 1 10.77.0.1 > /dev/null && echo yes";
        while self.host(n).try_sh(ping) != "yes\n" {
            assert!(Instant::now() < end, "spoke {n} doesn't reach the hub");
        }
    }

    /// Takes the configurations of the hub and of spoke `n` live, as meshctl does: staged on both, switched, confirmed.
    fn apply_both(&self, n: usize) {
        let both = [(1, self.star.hub()), (n, self.star.spoke(n))];
        let ids = both
            .each_ref()
            .map(|(n, conf)| self.host(*n).stage(NAME, conf));
        let each = |args: &[&str]| {
            thread::scope(|scope| {
                for ((n, _), id) in both.iter().zip(&ids) {
                    let args = [&[args[0], NAME, "--id", id], &args[1..]].concat();
                    scope.spawn(move || self.host(*n).meshd(&args));
                }
            });
        };
        each(&["switch", "--within", "60"]);
        each(&["confirm", "--wait", "15"]);
    }

    /// The hub alone. A link that this very change cuts is no reason to refuse.
    fn apply_hub(&self) {
        let id = self.host(1).stage(NAME, &self.star.hub());
        self.host(1)
            .meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
        self.host(1)
            .meshd(&["confirm", NAME, "--id", &id, "--wait", "15"]);
    }

    fn change(&mut self, change: Change, n: usize) {
        let start_at = Instant::now();
        match change {
            Change::Roam => {
                let places = [n, 100 + n];
                let (from, to) = (
                    places[usize::from(self.away[n])],
                    places[usize::from(!self.away[n])],
                );
                self.away[n] = !self.away[n];
                self.host(n).sh(&format!(
                    "ip addr add 192.0.2.{to}/24 dev eth0; ip addr del 192.0.2.{from}/24 dev eth0"
                ));
            }
            Change::Rotate => {
                self.star.spokes[n - 2].rotation = Rotation::Both;
                self.apply_both(n);
                // A try that the network loses is followed by another.
                let end = Instant::now() + PATIENCE;
                while self.host(n).status(NAME)["peers"][0]["rotation"] != "moved" {
                    assert!(Instant::now() < end, "the session of {n} doesn't move");
                    sleep(Duration::from_millis(100));
                }
                self.star.spokes[n - 2].rotation = Rotation::New;
                self.apply_both(n);
                self.star.spokes[n - 2].age();
            }
            Change::Leave => {
                self.star.spokes[n - 2].known = false;
                self.apply_hub();
                sleep(Duration::from_secs(1));
                self.star.spokes[n - 2].known = true;
                self.apply_hub();
            }
            Change::Kill => {
                let first = self.daemon(n);
                self.host(n).sh(&format!("kill -9 {first}"));
            }
            Change::Upgrade => drop(self.host(n).meshd(&["upgrade", NAME])),
            Change::Restart => {
                let code = self.hosts[n - 1].terminate(self.supervisors[n - 1]);
                assert_eq!(code, 0, "the end of spoke {n}'s daemon");
                sleep(Duration::from_secs(1));
                self.supervisors[n - 1] = start(&mut self.hosts[n - 1]);
            }
            Change::Move => {
                let spoke = &mut self.star.spokes[n - 2];
                spoke.port = if spoke.port == 51820 { 51821 } else { 51820 };
                self.host(n).apply(NAME, &self.star.spoke(n));
            }
        }
        self.reached(n);
        let took = self.took.entry(change).or_default();
        took.push(start_at.elapsed().as_millis());
    }

    fn sample(&mut self) {
        let pid = self.daemon(1);
        let line = format!("sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/{pid}/status; ls /proc/{pid}/fd | wc -l");
        let said = self.host(1).sh(&line);
        let (rss, fds) = said.trim().split_once('\n').unwrap();
        self.series
            .push((rss.parse().unwrap(), fds.parse().unwrap()));
    }

    /// The memory of the last quarter is that of the second: what grows without end grows in between.
    fn assert_flat(&self) {
        let series: Vec<u64> = self.series.iter().map(|(rss, _)| *rss).collect();
        assert!(series.iter().all(|rss| *rss < 16 << 10), "{series:?} KiB");
        if series.len() < 16 {
            return;
        }
        let quarter = |n: usize| {
            let mut some = series[series.len() * n / 4..series.len() * (n + 1) / 4].to_vec();
            some.sort_unstable();
            some[some.len() / 2]
        };
        let (early, late) = (quarter(1), quarter(3));
        assert!(
            late <= early + early / 20 + 128,
            "from {early} to {late} KiB: {series:?}"
        );
        let fds: Vec<usize> = self.series.iter().map(|(_, fds)| *fds).collect();
        let most = fds.iter().max().unwrap();
        assert!(*most <= fds[0] + 4, "descriptors: {fds:?}");
    }

    /// What the daemons said that isn't an announcement of a change we made.
    fn complaints(&self) -> Vec<String> {
        let said = (1..=HOSTS).flat_map(|n| {
            let log = self.host(n).sh("cat /run/log");
            let lines: Vec<String> = log.lines().map(|line| format!("{n}: {line}")).collect();
            lines
        });
        // Our kills and upgrades, and what goes on after them.
        let announced = [
            "(signal: 9 (SIGKILL)), starting it again",
            "the daemon made way, starting it again",
            "going on with the interface",
        ];
        said.filter(|line| !announced.iter().any(|known| line.contains(known)))
            .collect()
    }
}

/// Whatever becomes of it, the figures are told.
impl Drop for Soak {
    fn drop(&mut self) {
        for (change, took) in &mut self.took {
            took.sort_unstable();
            let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
            eprintln!(
                "  {change:?}: {} times, reached again after {median} ms, {longest} ms at most",
                took.len()
            );
        }
        eprintln!("  hub's RSS in KiB and descriptors: {:?}", self.series);
    }
}

fn start(host: &mut Host) -> usize {
    let line = format!("exec {MESHD} supervise {NAME} 2>> /run/log");
    let child = host.spawn("sh", &["-c", &line]);
    host.until("the daemon serves", |host| {
        host.try_meshd(&["status", NAME], "").0 == 0
    });
    child
}

#[test]
fn a_mesh_that_is_never_left_alone() {
    let seconds = number("SOAK_SECONDS", 20);
    let rate = u32::try_from(number("SOAK_RATE", 100_000)).unwrap();
    std::env::set_var("MESHD_TEST_HOLD", (seconds + 600).to_string());
    let Some(mut soak) = Soak::set_up() else {
        return;
    };
    soak.hosts.iter_mut().for_each(traffic::serve);
    let mut clients: Vec<Client> = (2..=HOSTS)
        .map(|n| {
            // Every other one through the hub to its neighbour.
            let to = if n % 2 == 0 { 1 } else { n - 1 };
            Client::begin(soak.host(n), &format!("10.77.0.{to}"), rate)
        })
        .collect();
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let every = Duration::from_secs((seconds / 90).max(2));
    let (mut next_sample, mut changes) = (begin, 0);
    while Instant::now() < end {
        if Instant::now() >= next_sample {
            soak.sample();
            next_sample += every;
        }
        // Every spoke meets every change in the end: 7 and 20 have no common divisor.
        soak.change(CHANGES[changes % CHANGES.len()], 2 + changes % SPOKES);
        changes += 1;
        for (n, client) in (2..).zip(&mut clients) {
            assert!(!client.has_ended(), "the client of spoke {n} gave up");
        }
    }
    for n in 2..=HOSTS {
        soak.host(n).sh("touch /run/stop");
    }
    let (mut flows, mut bytes) = (0, 0);
    for (n, client) in (2..).zip(clients) {
        match client.end() {
            Ok((some, more)) => (flows, bytes) = (flows + some, bytes + more),
            Err(said) => panic!("the flow of spoke {n}: {said}"),
        }
    }
    soak.sample();
    eprintln!("{seconds} s, {changes} changes, {flows} flows of {bytes} bytes, all whole");
    soak.assert_flat();
    assert!(flows >= SPOKES as u64 / 2, "{flows} flows");
    let complaints = soak.complaints();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
