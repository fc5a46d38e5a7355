//! A run in the making: packets laid out as data messages for one peer, then sealed and sent in one go.
//!
//! Strategy: [`Posting::slot`] gives the room for one packet behind the last; when the packet is for another peer, longer than
//! the run's stride, or one too many, the run goes off first. So packets of one peer leave in the order they came, and
//! nothing waits for more than the batch that the thread has in hand.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use meshd_os::events::{self, Event};
use meshd_os::udp::{Source, UdpPair, UdpSocket, MAX_SEGMENTS, MAX_SEND};
use meshd_proto::{data_len, packet, NoSession, Route, Time, DATA_HEADER, DATA_OVERHEAD};

use super::paths::Paths;
use super::shared::{Settings, Shared};

/// The buffer of a thread that sends, and what it knows of paths.
#[derive(Debug)]
pub(super) struct Outbox {
    buf: Vec<u8>,
    len: usize,
    /// Length of every message but the last.
    stride: usize,
    count: usize,
    /// The run ends with a message shorter than the stride: nothing may follow.
    closed: bool,
    ecn: u8,
    segment: bool,
    paths: Paths,
}

impl Outbox {
    /// An empty one; `segment`: the kernel may cut.
    pub fn new(segment: bool) -> Self {
        Self {
            buf: vec![0; MAX_SEND],
            len: 0,
            stride: 0,
            count: 0,
            closed: false,
            ecn: 0,
            segment,
            paths: Paths::default(),
        }
    }

    fn takes(&self, message: usize, ecn: u8) -> bool {
        !self.closed
            && message <= self.stride
            && self.count < MAX_SEGMENTS
            && self.len + message <= MAX_SEND
            && self.ecn == ecn
    }
}

/// An outbox at work for one batch, during which the table and the settings stay as they are.
pub(super) struct Posting<'t, 'a> {
    pub out: &'a mut Outbox,
    pub shared: &'a Shared,
    pub settings: &'a Settings,
    /// Which pair of sockets to send by.
    pub queue: usize,
    pub now: Time,
    /// Interrupts a wait for room in the socket.
    pub kick: &'a Event,
    /// How long to wait for room; `None` is as long as it takes.
    pub patience: Option<Duration>,
    pub route: Option<&'t Route>,
}

impl<'t> Posting<'t, '_> {
    /// Room for a packet of `len` bytes for `route`, which the caller must fill. `None` when it is too long for any datagram.
    pub fn slot(&mut self, route: &'t Route, len: usize, ecn: u8) -> Option<&mut [u8]> {
        let message = data_len(len, self.settings.mtu);
        if message > MAX_SEND {
            return None;
        }
        let same = self
            .route
            .is_some_and(|r| Arc::ptr_eq(&r.peer, &route.peer));
        if !(same && self.out.takes(message, ecn)) {
            self.flush();
            self.route = Some(route);
            self.out.stride = message;
            self.out.ecn = ecn;
        }
        let out = &mut *self.out;
        out.closed = message < out.stride;
        out.count += 1;
        let start = out.len + DATA_HEADER;
        out.len += message;
        // The padding is zeros; header and tag are written when the run is sealed.
        out.buf[start + len..out.len].fill(0);
        Some(&mut out.buf[start..start + len])
    }

    /// Seals and sends the run, or stages its packets when there is no session.
    pub fn flush(&mut self) {
        let (len, stride) = (self.out.len, self.out.stride);
        let route = self.route.take();
        if let (Some(route), 1..) = (route, len) {
            match route.seal(self.now, &mut self.out.buf[..len], stride) {
                Ok(wake) => {
                    self.shared.wake(wake);
                    self.send(route);
                }
                Err(NoSession) => self.stage(route),
            }
        }
        self.out.len = 0;
        self.out.count = 0;
        self.out.closed = false;
    }

    fn stage(&self, route: &Route) {
        for message in self.out.buf[..self.out.len].chunks(self.out.stride) {
            let padded = &message[DATA_HEADER..message.len() - (DATA_OVERHEAD - DATA_HEADER)];
            if let Some(header) = packet::header(padded) {
                self.shared.wake(route.peer.stage(&padded[..header.len]));
            }
        }
    }

    fn send(&mut self, route: &Route) {
        let Some(to) = route.peer.endpoint() else {
            return;
        };
        let source = to.local.map(|local| Source {
            ip: local.ip,
            ifindex: local.ifindex,
        });
        let way = self.out.paths.way(&to, self.now);
        let source = source.as_ref().filter(|_| way.source);
        let segment = self.out.segment && way.segment;
        // Those that came while the run waited for room in the ones before.
        let mut newer = None;
        let mut at = 0;
        while at < self.out.len {
            let sockets = newer.as_ref().unwrap_or(&self.settings.sockets);
            let pair = sockets.get(self.queue);
            let Some(socket) = pair.and_then(|pair| pair.towards(&to.remote)) else {
                return;
            };
            let rest = &self.out.buf[at..self.out.len];
            match socket.send(
                rest,
                self.out.stride,
                &to.remote,
                source,
                self.out.ecn,
                segment,
            ) {
                Ok(sent) if sent.bytes == 0 => return,
                Ok(sent) => {
                    at += sent.bytes;
                    self.out.paths.note(&to, &sent, self.now);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    if !self.wait(socket, sockets) {
                        return;
                    }
                    newer = Some(self.shared.sockets());
                }
                // No route, a firewall's refusal, no memory: lost, as on any network.
                Err(_) => return,
            }
        }
    }

    /// Waits until `socket`, one of `sockets`, has room, or there are others to use; false when neither was so in time.
    fn wait(&self, socket: &UdpSocket, sockets: &Arc<[UdpPair]>) -> bool {
        let (room, kick) = (socket.as_fd(), self.kick.as_fd());
        let others = || !Arc::ptr_eq(&self.shared.sockets(), sockets);
        let urgent = || self.shared.stopping() || others();
        let look = || events::wait_writable(room, Some(kick), self.patience);
        match wait_for(self.kick, look, urgent) {
            Waited::Room => true,
            Waited::Nothing => false,
            // The last packets may still find room, but not for ever.
            Waited::Urgent => {
                others() || events::wait_writable(room, None, Some(LAST_PATIENCE)).unwrap_or(false)
            }
        }
    }
}

/// How a wait for room ended.
#[derive(Debug, PartialEq)]
enum Waited {
    Room,
    Nothing,
    Urgent,
}

/// Waits with `look`, which a raised `kick` ends too. What it was kicked for can wait until this batch is done, unless it is `urgent`: so
/// the kick is raised again, since the thread looks at what others have left for it only after a sleep that a kick has ended.
fn wait_for(
    kick: &Event,
    mut look: impl FnMut() -> std::io::Result<bool>,
    urgent: impl Fn() -> bool,
) -> Waited {
    let mut kicked = false;
    let waited = loop {
        match look() {
            Ok(true) => break Waited::Room,
            Ok(false) if kick.lower() => kicked = true,
            _ => break Waited::Nothing,
        }
        if urgent() {
            break Waited::Urgent;
        }
    };
    if kicked {
        kick.raise();
    }
    waited
}

/// How long the last packets of a thread that ends wait for room.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_during_a_wait_is_not_lost() {
        for (looks, urgent, ends) in [
            (vec![Ok(false), Ok(true)], false, Waited::Room),
            (vec![Ok(false), Ok(false)], false, Waited::Nothing),
            (vec![Ok(false)], true, Waited::Urgent),
        ] {
            let kick = Event::new().unwrap();
            kick.raise();
            let mut looks = looks.into_iter();
            let waited = wait_for(&kick, || looks.next().unwrap(), || urgent);
            assert_eq!(waited, ends);
            assert!(kick.lower(), "{ends:?}");
        }
        let kick = Event::new().unwrap();
        assert_eq!(wait_for(&kick, || Ok(true), || true), Waited::Room);
        assert!(!kick.lower(), "nobody kicked");
    }
}
