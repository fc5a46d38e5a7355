//! Throw-away hosts for end-to-end tests: each has its own network namespace and its own /etc, /run, /var, so that nothing of
//! this machine is touched. They end with the test.
//!
//! Needs root and util-linux, iproute2 and, where a test says so, `wg`. Without root [`hosts`] says why it skips.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod flow;
pub mod supervised;
pub mod wireguard_go;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The program under test: this build's, or with `MESHD_TESTED=PATH` another, such as the one that is released.
pub const MESHD: &str = match option_env!("MESHD_TESTED") {
    Some(path) => path,
    None => env!("CARGO_BIN_EXE_meshd"),
};

/// What a host's file system looks like: this machine's, with writable layers of its own where meshd writes.
const SET_UP: &str = "set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
for dir in etc var; do
  mkdir /mnt/$dir /mnt/$dir.work
  mount -t overlay overlay -o lowerdir=/$dir,upperdir=/mnt/$dir,workdir=/mnt/$dir.work /$dir
done
mount -t tmpfs tmpfs /run
printf '127.0.0.1 localhost' > /etc/hosts
sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
ip link set lo up
echo ready
exec sleep ${MESHD_TEST_HOLD:-600}";

/// A host.
pub struct Host {
    holder: Child,
    /// The command that enters its namespaces, but for the process that holds them.
    enter: Vec<String>,
    /// Started on it, ended with it.
    children: Vec<Child>,
}

/// Makes `N` hosts in a row: each has a link `eth0` with 192.0.2.N/24 and 2001:db8::N/64 to one switch. `None`: not root.
pub fn hosts<const N: usize>() -> Option<[Host; N]> {
    if !is_root() {
        eprintln!("skipped: network namespaces need root");
        return None;
    }
    let hosts: [Host; N] = std::array::from_fn(|_| Host::new());
    // The switch lives in the first host. What it passes on is nothing that this host sends or forwards, so its rules must not
    // see it (br_netfilter, which is loaded where Docker is; a setting of each namespace).
    hosts[0].sh("for call in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $call ] || echo 0 > $call; done");
    hosts[0].sh("ip link add switch type bridge && ip link set switch up");
    for (n, host) in (1..).zip(&hosts) {
        let (to, from) = (host.holder.id(), hosts[0].holder.id());
        must(
            Command::new("ip")
                .args(["link", "add", "name", "eth0", "netns"])
                .arg(to.to_string())
                .args(["type", "veth", "peer", "name"])
                .arg(format!("port{n}"))
                .arg("netns")
                .arg(from.to_string()),
        );
        hosts[0].sh(&format!("ip link set port{n} master switch up"));
        host.sh(&format!("ip addr add 192.0.2.{n}/24 dev eth0 && ip addr add 2001:db8::{n}/64 dev eth0 nodad && ip link set eth0 up"));
    }
    Some(hosts)
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|out| out.stdout == b"0\n")
}

fn must(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Host {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", SET_UP]);
        Self::held_by(command, &["nsenter", "--net", "--mount"])
    }

    /// The host whose namespaces `holder` makes and holds; it says `ready`, and `enter` leads there.
    pub fn held_by(mut holder: Command, enter: &[&str]) -> Self {
        let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Self {
            holder,
            enter: enter.iter().map(|word| (*word).to_owned()).collect(),
            children: Vec::new(),
        }
    }

    /// The process that holds its namespaces.
    pub fn holder(&self) -> u32 {
        self.holder.id()
    }

    /// A command to be run on it.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.enter[0]);
        command
            .args(&self.enter[1..])
            .arg("-t")
            .arg(self.holder.id().to_string())
            .arg(program)
            .args(args);
        command
    }

    /// Runs a shell line that must succeed; what it prints.
    pub fn sh(&self, line: &str) -> String {
        text(&must(&mut self.command("sh", &["-c", line])).stdout)
    }

    /// Runs a shell line; what it prints, whether it succeeds or not.
    pub fn try_sh(&self, line: &str) -> String {
        text(&self.command("sh", &["-c", line]).output().unwrap().stdout)
    }

    /// Runs `meshd` that must succeed; what it prints.
    pub fn meshd(&self, args: &[&str]) -> String {
        text(&must(&mut self.command(MESHD, args)).stdout)
    }

    /// Runs `meshd` with something on stdin; exit code, stdout, stderr.
    pub fn try_meshd(&self, args: &[&str], stdin: &str) -> (i32, String, String) {
        let mut command = self.command(MESHD, args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(stdin.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        (
            output.status.code().unwrap_or(-1),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// Runs a command in the background; it ends with the host.
    pub fn spawn(&mut self, program: &str, args: &[&str]) -> usize {
        let child = self.command(program, args).spawn().unwrap();
        self.adopt(child)
    }

    /// Takes over a background command; it ends with the host.
    pub fn adopt(&mut self, child: Child) -> usize {
        self.children.push(child);
        self.children.len() - 1
    }

    /// Process id of a background command.
    pub fn pid(&self, child: usize) -> u32 {
        // nsenter has become the command.
        self.children[child].id()
    }

    /// Kills a background command as `kill -9` does.
    pub fn kill(&mut self, child: usize) {
        self.children[child].kill().unwrap();
        self.children[child].wait().unwrap();
    }

    /// Ends a background command by SIGTERM; its exit code.
    pub fn terminate(&mut self, child: usize) -> i32 {
        must(Command::new("kill").arg(self.children[child].id().to_string()));
        self.children[child].wait().unwrap().code().unwrap_or(-1)
    }

    /// Whether a background command has ended.
    pub fn has_ended(&mut self, child: usize) -> bool {
        self.children[child].try_wait().unwrap().is_some()
    }

    /// Starts `meshd run NAME` and waits until it can be talked to.
    pub fn run(&mut self, name: &str) -> usize {
        let child = self.spawn(MESHD, &["run", name]);
        self.until(&format!("meshd run {name} serves"), |host| {
            host.try_meshd(&["status", name], "").0 == 0
        });
        child
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !so(self) {
            assert!(Instant::now() < end, "never so: {what}");
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether one ping is answered.
    pub fn pings(&self, to: &str) -> bool {
        self.command("ping", &["-c", "1", "-W", "5", to])
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    /// Stages a configuration; its id.
    pub fn stage(&self, name: &str, conf: &str) -> String {
        let id = sha256(conf);
        let (code, _, err) = self.try_meshd(&["stage", name, "--id", &id], conf);
        assert_eq!(code, 0, "{err}");
        id
    }

    /// Stages, switches and confirms a configuration.
    pub fn apply(&self, name: &str, conf: &str) {
        let id = self.stage(name, conf);
        self.meshd(&["switch", name, "--id", &id, "--within", "60"]);
        self.meshd(&["confirm", name, "--id", &id, "--wait", "3"]);
    }

    /// The report.
    pub fn report(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.meshd(&["report", name, "--json"])).unwrap()
    }

    /// The status.
    pub fn status(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.meshd(&["status", name, "--json"])).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in self.children.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lower-case hex SHA-256.
pub fn sha256(text: &str) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    self::text(&child.wait_with_output().unwrap().stdout)[..64].to_owned()
}

/// A fresh private key and its public one.
pub fn keys() -> (String, String) {
    let private = text(&must(Command::new(MESHD).arg("genkey")).stdout)
        .trim()
        .to_owned();
    let mut child = Command::new(MESHD)
        .arg("pubkey")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(private.as_bytes())
        .unwrap();
    let public = text(&child.wait_with_output().unwrap().stdout)
        .trim()
        .to_owned();
    (private, public)
}

/// A name nothing else has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{prefix}{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Whether a program is installed here.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).exists())
}

/// A full mesh of the hosts: configurations of host 1, 2, …, each with 10.77.0.N and fd77::N.
pub struct Mesh {
    keys: Vec<(String, String)>,
}

impl Mesh {
    /// Keys for `n` hosts.
    pub fn new(n: usize) -> Self {
        Self {
            keys: (0..n).map(|_| keys()).collect(),
        }
    }

    /// Public key of host `n`.
    pub fn public(&self, n: usize) -> &str {
        &self.keys[n - 1].1
    }

    /// The `[Interface]` of host `n`, with extra lines.
    pub fn interface(&self, n: usize, extra: &str) -> String {
        format!(
            "[Interface]\nName = h{n}\nPrivateKey = {}\nAddress = 10.77.0.{n}/32, fd77::{n}/128\nListenPort = 51820\n{extra}",
            self.keys[n - 1].0
        )
    }

    /// The `[Peer]` that is host `n`, with extra lines.
    pub fn peer(&self, n: usize, extra: &str) -> String {
        format!(
            "\n[Peer]\nName = h{n}\nPublicKey = {}\nAllowedIPs = 10.77.0.{n}/32, fd77::{n}/128\nEndpoint = 192.0.2.{n}:51820\n{extra}",
            self.keys[n - 1].1
        )
    }

    /// Host `n` with all others as peers.
    pub fn conf(&self, n: usize) -> String {
        let others = (1..=self.keys.len()).filter(|other| *other != n);
        self.interface(n, "") + &others.map(|other| self.peer(other, "")).collect::<String>()
    }
}
