//! A hub and its spokes as configurations: which spokes there are, with which keys, on which ports.

use crate::common::keys;

/// How far a spoke's change of keys has come (contracts §1a).
#[derive(Clone, Copy, PartialEq)]
pub enum Rotation {
    Old,
    Both,
    New,
}

/// A spoke.
pub struct Spoke {
    /// Whether the hub knows it.
    pub known: bool,
    pub rotation: Rotation,
    pub port: u16,
    own: [(String, String); 2],
    psk: [String; 2],
}

impl Spoke {
    /// The new keys have become the old ones, and there are newer.
    pub fn age(&mut self) {
        self.own = [self.own[1].clone(), keys()];
        self.psk = [self.psk[1].clone(), keys().0];
        self.rotation = Rotation::Old;
    }

    fn lines(&self, word: &str, [old, new]: [&String; 2]) -> String {
        match self.rotation {
            Rotation::Old => format!("{word} = {old}\n"),
            Rotation::Both => format!("{word} = {old}\nNext{word} = {new}\n"),
            Rotation::New => format!("{word} = {new}\n"),
        }
    }

    fn psk_lines(&self) -> String {
        self.lines("PresharedKey", self.psk.each_ref())
    }
}

/// All of them. Spoke `n` (from 2 on) is 10.77.0.n; the hub is 1.
pub struct Star {
    hub: (String, String),
    pub spokes: Vec<Spoke>,
}

impl Star {
    pub fn new(spokes: usize) -> Self {
        let spoke = |_| Spoke {
            known: true,
            rotation: Rotation::Old,
            port: 51820,
            own: [keys(), keys()],
            psk: [keys().0, keys().0],
        };
        Self {
            hub: keys(),
            spokes: (0..spokes).map(spoke).collect(),
        }
    }

    /// The hub's configuration.
    pub fn hub(&self) -> String {
        let peers = (2..).zip(&self.spokes).filter(|(_, spoke)| spoke.known);
        let peers = peers.map(|(n, spoke)| {
            format!(
                "[Peer]\nName = h{n}\n{}{}AllowedIPs = 10.77.0.{n}/32, fd77::{n}/128\n",
                spoke.lines("PublicKey", [&spoke.own[0].1, &spoke.own[1].1]),
                spoke.psk_lines()
            )
        });
        format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.77.0.1/32, fd77::1/128\nListenPort = 51820\nRelay = on\n{}",
            self.hub.0,
            peers.collect::<String>()
        )
    }

    /// The configuration of spoke `n`.
    pub fn spoke(&self, n: usize) -> String {
        let spoke = &self.spokes[n - 2];
        format!(
            "[Interface]\n{}Address = 10.77.0.{n}/32, fd77::{n}/128\nListenPort = {}\n\
             [Peer]\nName = hub\nPublicKey = {}\n{}AllowedIPs = 10.77.0.0/24, fd77::/64\n\
             Endpoint = 192.0.2.1:51820\nPersistentKeepalive = 5\n",
            spoke.lines("PrivateKey", [&spoke.own[0].0, &spoke.own[1].0]),
            spoke.port,
            self.hub.1,
            spoke.psk_lines()
        )
    }
}
