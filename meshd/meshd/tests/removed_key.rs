//! A key that was removed for good is of no use soon after (contracts §1a): whoever has no other is cut off and can't come back,
//! whoever has moved loses nothing; and no upgrade and no crash puts that off.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::flow::Flow;
use common::supervised::{handshake, kill_daemon, supervise_with};
use common::{hosts, keys, Host};

const NAME: &str = "prod";
/// What a session lives on after its keys are gone, and what a busy machine may take to notice its end. Without an end it would
/// be three minutes.
const GRACE: Duration = Duration::from_secs(15);
const NOTICED: Duration = Duration::from_secs(60);

/// An `[Interface]` or `[Peer]` line whose value changes from the first key to the second, at one of the three stages.
#[derive(Clone, Copy)]
enum Stage {
    Old,
    Both,
    New,
}

fn line(word: &str, old: &str, new: &str, stage: Stage) -> String {
    match stage {
        Stage::Old => format!("{word} = {old}\n"),
        Stage::Both => format!("{word} = {old}\nNext{word} = {new}\n"),
        Stage::New => format!("{word} = {new}\n"),
    }
}

/// Host 1 changes its key; the others are its peers and keep theirs.
struct Change {
    old: (String, String),
    new: (String, String),
    others: Vec<(String, String)>,
}

impl Change {
    fn new(others: usize) -> Self {
        Self {
            old: keys(),
            new: keys(),
            others: (0..others).map(|_| keys()).collect(),
        }
    }

    /// Host 1's configuration.
    fn first(&self, stage: Stage) -> String {
        let own = line("PrivateKey", &self.old.0, &self.new.0, stage);
        let peers = (2..).zip(&self.others).map(|(n, (_, public))| {
            format!("[Peer]\nName = h{n}\nPublicKey = {public}\nAllowedIPs = 10.77.0.{n}/32\nEndpoint = 192.0.2.{n}:51820\n")
        });
        format!("[Interface]\n{own}Address = 10.77.0.1/32\nListenPort = 51820\n")
            + &peers.collect::<String>()
    }

    /// The configuration of host `n`, as far as it follows.
    fn other(&self, n: usize, stage: Stage) -> String {
        let theirs = line("PublicKey", &self.old.1, &self.new.1, stage);
        format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.77.0.{n}/32\nListenPort = 51820\n\
             [Peer]\n{theirs}AllowedIPs = 10.77.0.1/32\nEndpoint = 192.0.2.1:51820\n",
            self.others[n - 2].0
        )
    }
}

/// What host 1 knows of host `n`.
fn peer(host: &Host, n: usize) -> serde_json::Value {
    let status = host.status(NAME);
    let name = serde_json::Value::from(format!("h{n}"));
    let peers = status["peers"].as_array().unwrap();
    peers.iter().find(|p| p["name"] == name).unwrap().clone()
}

/// Whether host 1 answers a ping of this host within so many seconds.
fn answers_within(host: &Host, seconds: u32) -> bool {
    let wait = seconds.to_string();
    let mut ping = host.command("ping", &["-q", "-c", "1", "-W", &wait, "10.77.0.1"]);
    ping.stdout(Stdio::null()).status().unwrap().success()
}

/// Long enough for a machine that is busy with other tests: no answer means that the session has ended.
fn answers(host: &Host) -> bool {
    answers_within(host, 5)
}

/// Takes the configuration live though some link doesn't survive it, as a person does who means it. When it was begun.
fn force(host: &Host, conf: &str) -> Instant {
    let id = host.stage(NAME, conf);
    let begun = Instant::now();
    host.meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    host.meshd(&["confirm", NAME, "--id", &id, "--wait", "1", "--force"]);
    begun
}

#[test]
fn who_has_only_a_removed_key_is_cut_off_and_who_has_moved_loses_nothing() {
    let Some(mut all) = hosts::<3>() else { return };
    let change = Change::new(2);
    for (n, host) in (1..).zip(&mut all) {
        host.run(NAME);
        let conf = match n {
            1 => change.first(Stage::Old),
            n => change.other(n, Stage::Old),
        };
        force(host, &conf);
    }
    let [a, b, c] = &all;
    for host in [b, c] {
        host.until("answered", |host| host.pings("10.77.0.1"));
    }
    // b follows, c doesn't.
    a.apply(NAME, &change.first(Stage::Both));
    b.apply(NAME, &change.other(2, Stage::Both));
    a.until("the session with b has moved", |host| {
        peer(host, 2)["rotation"] == "moved"
    });
    assert!(answers(c));
    let flows = [
        Flow::begin(a, b, "10.77.0.2", 300, 800),
        Flow::begin(b, a, "10.77.0.1", 300, 800),
    ];

    // Who asks whether all links are as alive as before is told, though the session still carries packets.
    let id = a.stage(NAME, &change.first(Stage::New));
    let begun = Instant::now();
    a.meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    let confirm = ["confirm", NAME, "--id", &id, "--wait", "3"];
    let (code, _, why) = a.try_meshd(&confirm, "");
    assert_eq!(code, 1, "{why}");
    assert!(
        why.contains("h3") && why.contains("made with a key that is gone") && !why.contains("h2"),
        "{why}"
    );
    assert!(answers(c));
    a.meshd(&["confirm", NAME, "--id", &id, "--wait", "1", "--force"]);
    while answers(c) {
        assert!(begun.elapsed() < NOTICED, "c is never cut off");
    }
    assert!(begun.elapsed() > GRACE, "too soon: {:?}", begun.elapsed());
    eprintln!("c is cut off after {:?}", begun.elapsed());

    // It can't come back, and nothing is sent to it that it could read.
    let counts = |a: &Host, c: &Host| {
        let (here, there) = (peer(a, 3), c.status(NAME)["peers"][0].clone());
        [here["rx_bytes"].clone(), there["rx_bytes"].clone()]
    };
    let before = counts(a, c);
    a.try_sh("ping -q -c 2 -i 0.1 -W 1 10.77.0.3");
    c.sh("ip link set prod down && ip link set prod up && ip route replace 10.77.0.1/32 dev prod");
    assert!(!answers_within(c, 2));
    let after = counts(a, c);
    assert_eq!(after, before);

    assert_eq!(peer(a, 2)["alive"], true);
    b.apply(NAME, &change.other(2, Stage::New));
    for flow in flows {
        let counts = flow.end();
        eprintln!("{counts:?}");
        assert!(
            counts.sent > 1000 && counts.received == counts.sent,
            "{counts:?}"
        );
    }
}

#[test]
fn no_upgrade_and_no_crash_puts_the_end_off() {
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    let change = Change::new(1);
    let supervisor = supervise_with(&mut a, &["MESHD_QUICK_DEATH_MS=0"]);
    force(&a, &change.first(Stage::Old));
    b.run(NAME);
    force(&b, &change.other(2, Stage::Old));
    b.until("answered", |host| host.pings("10.77.0.1"));
    a.apply(NAME, &change.first(Stage::Both));
    let shaken = handshake(&b);
    let begun = force(&a, &change.first(Stage::New));
    // Each of these would begin anew what it doesn't know of, and the end would never come.
    let mut rounds = 0;
    loop {
        sleep(Duration::from_millis(200));
        a.meshd(&["upgrade", NAME]);
        let lived = answers(&b);
        kill_daemon(&a, supervisor);
        if !answers(&b) {
            break;
        }
        assert!(lived, "an upgrade has cut it and a crash has not");
        rounds += 1;
        assert!(begun.elapsed() < NOTICED, "it is never cut off");
    }
    eprintln!("cut off after {:?}, {rounds} rounds", begun.elapsed());
    assert!(begun.elapsed() > GRACE, "too soon: {:?}", begun.elapsed());
    assert!(rounds >= 2, "{rounds} rounds tell nothing");
    assert_eq!(handshake(&b), shaken, "it was the one session all the time");
}
