//! The shapes of `status --json` and `report --json` (docs/reference/contracts.md §4 and §5), and how they read as text.

use serde::{Deserialize, Serialize};

use crate::digest::sha256;

/// Version of both shapes.
pub const SCHEMA: u32 = 1;

/// This build's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a daemon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There is an interface.
    Running,
    /// There is a daemon, and by its configuration no interface.
    Absent,
    /// There is no daemon.
    Down,
}

/// Vitals.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Of the daemon.
    pub version: String,
    /// The mesh.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// The link's name; null when there is none.
    pub interface: Option<String>,
    /// Whether the link is up; null when there is none.
    #[serde(default)]
    pub link_up: Option<bool>,
    /// Base64.
    pub public_key: Option<String>,
    /// UDP.
    pub listen_port: Option<u16>,
    /// Of the link, bytes.
    pub mtu: Option<u16>,
    /// Seconds since the daemon started.
    pub uptime_s: f64,
    /// What packets are moved with.
    pub features: Vec<String>,
    /// Sentences about this host worth knowing.
    pub notes: Vec<String>,
    /// Each link.
    pub peers: Vec<PeerStatus>,
}

/// Vitals of one link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name in the mesh.
    pub name: Option<String>,
    /// Base64.
    pub public_key: String,
    /// Where its packets go now.
    pub endpoint: Option<String>,
    /// As configured.
    pub configured_endpoint: Option<String>,
    /// Its networks.
    pub allowed_ips: Vec<String>,
    /// The key it changes to, base64.
    pub next_public_key: Option<String>,
    /// How far a change of keys is: `waiting` until a session is made with the next ones, then `moved`; null when none is
    /// under way.
    pub rotation: Option<String>,
    /// Seconds since the last handshake; null: never.
    pub latest_handshake_s: Option<f64>,
    /// Round trip of the last probe that was answered.
    pub rtt_ms: Option<f64>,
    /// Share of the last probes that was not answered, 0 to 1; null when never probed.
    pub loss: Option<f64>,
    /// Received over the outer network.
    pub rx_bytes: u64,
    /// Sent over the outer network.
    pub tx_bytes: u64,
    /// Largest inner packet, bytes.
    pub mtu: u16,
    /// Why it is less than the link's.
    pub mtu_reason: Option<String>,
    /// Seconds; 0: off.
    pub keepalive_s: u16,
    /// Outcome of the last probe; null when never probed.
    pub alive: Option<bool>,
    /// Why it is not alive.
    pub reason: Option<String>,
}

/// What is configured, and what is so.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Of the daemon, or of the command when there is none.
    pub version: String,
    /// Of the processor.
    pub arch: String,
    /// The mesh.
    pub name: String,
    /// What the daemon is doing.
    pub state: State,
    /// Canonical text of NAME.conf.
    pub conf: String,
    /// Its SHA-256.
    pub conf_sha256: String,
    /// Canonical text of what is live.
    pub running: String,
    /// Its SHA-256.
    pub running_sha256: String,
    /// What is staged.
    pub staged_id: Option<String>,
    /// What is live and not confirmed.
    pub switched_id: Option<String>,
    /// Seconds until it goes back.
    pub rollback_in_s: Option<f64>,
    /// Base64.
    pub public_key: Option<String>,
    /// UDP.
    pub listen_port: Option<u16>,
    /// Each link.
    pub peers: Vec<PeerStatus>,
}

impl Report {
    /// A report of the two texts; the rest is nothing.
    pub fn new(name: &str, state: State, conf: String, running: String) -> Self {
        Self {
            schema: SCHEMA,
            version: VERSION.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            name: name.to_owned(),
            state,
            conf_sha256: sha256(conf.as_bytes()),
            conf,
            running_sha256: sha256(running.as_bytes()),
            running,
            staged_id: None,
            switched_id: None,
            rollback_in_s: None,
            public_key: None,
            listen_port: None,
            peers: Vec::new(),
        }
    }

    /// Says what NAME.conf holds.
    pub fn set_conf(&mut self, conf: String) {
        self.conf_sha256 = sha256(conf.as_bytes());
        self.conf = conf;
    }
}

impl Status {
    /// A few lines for people.
    pub fn to_text(&self) -> String {
        let mut text = match (&self.interface, self.state) {
            (Some(interface), _) => format!(
                "{}: interface {interface}, port {}, mtu {}, up {}\n",
                self.name,
                self.listen_port.unwrap_or_default(),
                self.mtu.unwrap_or_default(),
                age(self.uptime_s)
            ),
            (None, _) => format!("{}: absent, no interface\n", self.name),
        };
        if self.link_up == Some(false) {
            text.push_str("note: the interface is down\n");
        }
        for note in &self.notes {
            text.push_str(&format!("note: {note}\n"));
        }
        for peer in &self.peers {
            text.push_str(&format!("{}\n", peer.to_text()));
        }
        text
    }
}

impl PeerStatus {
    fn to_text(&self) -> String {
        let name = self.name.as_ref().unwrap_or(&self.public_key);
        let alive = match self.alive {
            Some(true) => "alive",
            Some(false) => "dead",
            None => "not probed",
        };
        let endpoint = self.endpoint.as_deref().unwrap_or("no endpoint");
        let handshake = self
            .latest_handshake_s
            .map_or("never".to_owned(), |s| format!("{} ago", age(s)));
        let rtt = self
            .rtt_ms
            .map_or(String::new(), |ms| format!(", round trip {ms:.2} ms"));
        let reason = self
            .reason
            .as_ref()
            .map_or(String::new(), |reason| format!(": {reason}"));
        format!("  {name}: {alive}{reason}, {endpoint}, handshake {handshake}{rtt}")
    }
}

/// Seconds as people say them.
fn age(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}
