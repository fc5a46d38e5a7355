//! What arrives, and what must hold when it does: nothing that isn't authentic changes anything, nothing is accepted twice,
//! and what comes out was put in by the peer it is attributed to.

use std::net::IpAddr;
use std::time::Duration;

use meshd_proto::*;

use super::super::owner;
use super::{Wire, World};

impl World {
    /// The oldest datagram under way arrives.
    pub fn deliver_next(&mut self) {
        if let Some(wire) = self.under_way.pop_front() {
            self.arrive(&wire, true);
        }
    }

    pub(super) fn arrive(&mut self, wire: &Wire, genuine: bool) {
        let Some(node) = self.nodes.iter().position(|node| node.address == wire.to) else {
            return;
        };
        match classify(&wire.bytes) {
            Kind::Unknown => {}
            Kind::Handshake => self.handshake(node, wire, genuine),
            Kind::Data { receiver, counter } => self.data(node, wire, receiver, counter, genuine),
        }
    }

    fn handshake(&mut self, node: usize, wire: &Wire, genuine: bool) {
        let before = self.nodes[node].endpoints(self.now);
        let waiting = self.nodes[node].waiting;
        if waiting >= 512 {
            self.nodes[node].under_load_until = self.now.after(Duration::from_secs(1));
        }
        let from = Endpoint::new(wire.from);
        let out = self.call(node, |device, ctx| {
            device.receive(ctx, &wire.bytes, from, waiting);
        });
        if !genuine {
            assert_eq!(
                self.nodes[node].endpoints(self.now),
                before,
                "a forgery moved a peer"
            );
            assert!(
                out.events
                    .iter()
                    .all(|event| matches!(event, Event::UnknownPeer(_))),
                "a forgery made {:?}",
                out.events
            );
            for Datagram { to, bytes } in &out.datagrams {
                assert_eq!(bytes[0], 3, "a forgery was answered");
                assert!(
                    self.nodes[node].under_load_until > self.now,
                    "a cookie without load"
                );
                assert!(bytes.len() <= wire.bytes.len() && to.remote == wire.from);
            }
        }
        for Datagram { to, bytes } in out.datagrams {
            self.put(node, to.remote, bytes);
        }
    }

    fn data(&mut self, node: usize, wire: &Wire, index: u32, counter: u64, genuine: bool) {
        let now = self.now;
        let this = &mut self.nodes[node];
        let before = this.endpoints(now);
        let table = this.reader.table();
        let Some(receiver) = table.receiver(index).cloned() else {
            return;
        };
        let (mut buf, mut batch) = (wire.bytes.clone(), Batch::default());
        batch.push(0, buf.len(), counter);
        let from = Endpoint::new(wire.from);
        let wake = receiver.open(table, now, &from, &mut buf, &mut batch);
        let opened = batch.opened()[0];
        let authentic = !matches!(opened.verdict, Verdict::Forged | Verdict::Replayed);
        assert!(genuine || !authentic, "a forgery was accepted");
        if authentic {
            assert!(
                this.accepted.insert(wire.bytes.clone()),
                "a replay was accepted"
            );
        } else {
            assert_eq!(this.endpoints(now), before, "a peer was moved by nothing");
            assert!(!wake.needed(), "woken by nothing");
        }
        if opened.verdict == Verdict::Packet {
            let peer = this.device.name_of(&receiver.peer);
            self.came_out(node, peer, &buf[opened.at..][..opened.len]);
        }
        if wake.needed() {
            self.control(node, |device, ctx| device.attend(ctx));
        }
    }

    fn came_out(&mut self, node: usize, peer: Option<PublicKey>, packet: &[u8]) {
        let number = u32::from_be_bytes([packet[20], packet[21], packet[22], packet[23]]);
        let this = &mut self.nodes[node];
        assert!(
            this.delivered.insert(number),
            "packet {number} came out twice"
        );
        let source = IpAddr::from([packet[12], packet[13], packet[14], packet[15]]);
        let owner = owner(&this.device, self.now, source);
        assert_eq!(owner, peer, "a source that is not its peer's");
        let (sender, for_key, bytes) = &self.sent[&number];
        assert_eq!(bytes, packet, "what came out is what went in");
        let sender = &self.nodes[*sender];
        assert!(
            peer == Some(sender.key) || peer == Some(sender.spare_key),
            "attributed to another"
        );
        let this = &self.nodes[node];
        assert!(
            for_key.is_none_or(|key| key == this.key || key == this.spare_key),
            "for another"
        );
    }
}
