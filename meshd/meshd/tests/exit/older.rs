//! Connections that are older than the exit: they left with the mesh's addresses while the host only forwarded.
use super::going_out::is_of_mesh;
use super::scene::on;
use super::wire::Frame;
use super::world::{bound, World, FAR, PATIENCE};
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

/// See [`World::older_than_the_exit`].
pub struct OlderFlow {
    socket: UdpSocket,
    to: SocketAddr,
}

impl OlderFlow {
    pub fn send(&self) {
        // Nobody may be there any more, which is told at the next one.
        let _ = self.socket.send_to(b"older", self.to);
        let _ = self.socket.send_to(b"older", self.to);
    }

    /// Whether the mesh's address was seen on its packets.
    fn is_among(&self, frames: &[Frame]) -> bool {
        let mine = |frame: &&Frame| matches!(frame, Frame::Packet { to, inner, .. } if *to == self.to.ip() && inner[2..4] == self.to.port().to_be_bytes());
        frames.iter().filter(mine).any(is_of_mesh)
    }
}

impl World {
    /// Connections that go out with the mesh's addresses, through somebody's firewall that tracks them: one that is answered
    /// and one that isn't, of both families.
    pub fn older_than_the_exit(&self) -> Vec<OlderFlow> {
        if !crate::common::installed("nft") {
            eprintln!("older connections are left out: nft is not installed");
            return Vec::new();
        }
        self.exit.sh("nft 'add table inet other
                add chain inet other nat { type nat hook postrouting priority 200; }
                add chain inet other forward { type filter hook forward priority 0; }
                add rule inet other forward ct state established accept'");
        self.server
            .sh("ip route add 10.77.0.3 via 192.0.2.2 && ip -6 route add fd77::3 via 2001:db8::2");
        let mut flows = Vec::new();
        for far in FAR {
            for (port, answered) in [(29, true), (39, false)] {
                let to = SocketAddr::new(far.parse().unwrap(), port);
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let flow = OlderFlow {
                    socket: on(&self.client, || UdpSocket::bind(any).unwrap()),
                    to,
                };
                let server = on(&self.server, || bound(|| UdpSocket::bind(to)));
                server.set_read_timeout(Some(PATIENCE)).unwrap();
                flow.send();
                let from = server.recv_from(&mut [0; 64]).unwrap().1;
                if answered {
                    flow.socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    server.send_to(b"answer", from).unwrap();
                    flow.socket.recv_from(&mut [0; 64]).unwrap();
                }
                flows.push(flow);
            }
        }
        flows
    }

    /// Takes away what that took.
    pub fn end_older(&self) {
        self.exit.try_sh("nft delete table inet other");
        self.server
            .try_sh("ip route del 10.77.0.3; ip -6 route del fd77::3");
    }

    /// The mesh's address is seen on what each of them sends.
    pub fn assert_older_show_the_mesh(&self, flows: &[OlderFlow]) {
        let (mut frames, end) = (Vec::new(), Instant::now() + PATIENCE);
        while !flows.iter().all(|flow| flow.is_among(&frames)) {
            assert!(Instant::now() < end, "{frames:?}\n{}", self.situation());
            flows.iter().for_each(OlderFlow::send);
            frames.extend(self.tap.frames());
        }
    }
}
