//! What both benches measure on: two real devices in one thread, datagrams carried by hand, time as an argument.
//!
//! The near end has as many peers as asked for, one of which is the far end; only with that one there is a session.
//! Nothing is mocked and nothing is random: every run does the same work.

// Each bench is a crate of its own and uses a part of this.
#![allow(dead_code, clippy::expect_used)]

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use meshd_proto::{
    classify, data_len, uapi, Batch, Cidr, Context, Device, Endpoint, Kind, Outputs, PrivateKey,
    PublicKey, Random, Reader, Receiver, Route, Tai64n, Time, Verdict, Wake, WallTime, DATA_HEADER,
    DATA_OVERHEAD,
};

/// The tunnel's MTU in bytes.
const MTU: usize = 1500;

/// Numbers that look random (Marsaglia, "Xorshift RNGs", 2003), the same in every run.
pub struct Dice(pub u64);

impl Random for Dice {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0 as u8;
        }
    }
}

/// One of the two.
pub struct End {
    pub device: Device,
    pub key: PublicKey,
    pub reader: Reader,
    at: Endpoint,
}

impl End {
    fn new(number: u8) -> Self {
        let private = PrivateKey::new([number; 32]);
        let key = private.public();
        let mut device = Device::new(Tai64n::ZERO);
        device.set_private_key(Some(private));
        Self {
            reader: device.reader(),
            device,
            key,
            at: Endpoint::new(([192, 0, 2, number], 51820).into()),
        }
    }
}

/// The two ends and all that is between them.
pub struct Pair {
    pub near: End,
    pub far: End,
    pub now: Time,
    dice: Dice,
    out: Outputs,
}

/// Inner address of the near end.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);

/// Inner IPv4 address of peer `number`.
pub fn v4(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + number as u32))
}

/// Inner IPv6 address of peer `number`.
pub fn v6(number: usize) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits((0xfd00 << 112) + 1 + number as u128))
}

/// A key for a peer who never answers.
fn stranger(number: usize) -> PublicKey {
    let mut bytes = [0x55; 32];
    bytes[..8].copy_from_slice(
        &(number as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_be_bytes(),
    );
    PublicKey(bytes)
}

/// A request of `wg setconf` with this many peers, as a mesh of that size has them.
pub fn configuration(peers: usize) -> Vec<u8> {
    let mut text = format!(
        "set=1\nprivate_key={}\nreplace_peers=true\n",
        "42".repeat(32)
    );
    for number in 0..peers {
        text.push_str("public_key=");
        for byte in stranger(number).0 {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = write!(
            text,
            "\nendpoint=198.51.100.7:{}\nreplace_allowed_ips=true\nallowed_ip={}/32\nallowed_ip={}/128\n",
            1024 + number % 60_000,
            v4(number),
            v6(number)
        );
    }
    text.push('\n');
    text.into_bytes()
}

/// An interface whose socket is nobody's concern here.
struct NoSocket;

impl uapi::Host for NoSocket {
    fn listen_port(&self) -> u16 {
        51820
    }

    fn fwmark(&self) -> u32 {
        0
    }

    fn link(&self, _: &str) -> Option<u32> {
        None
    }

    fn set_listen_port(&mut self, _: u16) -> Result<(), uapi::Errno> {
        Ok(())
    }

    fn set_fwmark(&mut self, _: u32) -> Result<(), uapi::Errno> {
        Ok(())
    }
}

/// A device whose link is up, without peers.
pub fn fresh() -> Device {
    let mut device = Device::new(Tai64n::ZERO);
    with_context(Time(1), &mut Dice(1), &mut Outputs::default(), |ctx| {
        device.set_link(ctx, true);
    });
    device
}

/// Gives `device` the configuration, as `wg setconf` does.
pub fn configure(device: &mut Device, request: &[u8]) {
    with_context(Time(1), &mut Dice(1), &mut Outputs::default(), |ctx| {
        let answer = uapi::handle(device, ctx, &mut NoSocket, request);
        assert_eq!(&answer[..], b"errno=0\n\n");
    });
}

fn with_context<T>(
    now: Time,
    random: &mut dyn Random,
    out: &mut Outputs,
    work: impl FnOnce(&mut Context<'_>) -> T,
) -> T {
    let wall = WallTime {
        secs: 1_700_000_000 + now.0 / 1_000_000_000,
        nanos: 0,
    };
    work(&mut Context {
        now,
        wall,
        random,
        out,
    })
}

impl Pair {
    /// Two ends with a session; the near one has `peers` peers, and the far one is the middle one of them.
    pub fn new(peers: usize) -> Self {
        let mut pair = Self {
            near: End::new(1),
            far: End::new(2),
            now: Time(1_000_000_000),
            dice: Dice(0x2545_f491_4f6c_dd1d),
            out: Outputs::default(),
        };
        with_context(pair.now, &mut pair.dice, &mut pair.out, |ctx| {
            pair.near.device.set_link(ctx, true);
            pair.far.device.set_link(ctx, true);
            pair.near.device.transaction(|device| {
                for number in 0..peers {
                    let far = number == Self::middle(peers);
                    let key = if far { pair.far.key } else { stranger(number) };
                    device.upsert_peer(&key);
                    device
                        .set_allowed_ips(&key, &[Cidr::host(v4(number)), Cidr::host(v6(number))])
                        .expect("just added");
                }
                device
                    .set_endpoint(ctx, &pair.far.key, Some(pair.far.at))
                    .expect("just added");
            });
            pair.far.device.upsert_peer(&pair.near.key);
            pair.far
                .device
                .set_allowed_ips(&pair.near.key, &[Cidr::host(NEAR.into())])
                .expect("just added");
        });
        pair.shake_hands();
        pair
    }

    const fn middle(peers: usize) -> usize {
        peers / 2
    }

    /// The route from the near end to the far one.
    pub fn route(&mut self) -> Route {
        let peers = self.near.device.peer_count();
        let table = self.near.reader.table();
        table
            .route(v4(Self::middle(peers)))
            .expect("the far end")
            .clone()
    }

    /// A whole handshake: messages 1 and 2, then the keepalive that confirms the session, on both control threads.
    /// Time goes on by six seconds, since initiations may not come faster than every five.
    pub fn shake_hands(&mut self) {
        self.now = Time(self.now.0 + 6_000_000_000);
        let (now, near_at, far_at) = (self.now, self.near.at, self.far.at);
        let (near, far) = (&mut self.near.device, &mut self.far.device);
        let out = &mut self.out;
        out.events.clear();
        with_context(now, &mut self.dice, out, |ctx| {
            near.shake_hands(ctx, &self.far.key).expect("known");
            let initiation = ctx.out.datagrams.pop().expect("message 1");
            far.receive(ctx, &initiation.bytes, near_at, 0);
            let response = ctx.out.datagrams.pop().expect("message 2");
            near.receive(ctx, &response.bytes, far_at, 0);
            let mut keepalive = ctx.out.datagrams.pop().expect("a keepalive").bytes;
            let mut opening = Opening::new(self.far.reader.clone(), near_at, 1);
            assert!(opening.open(now, &mut keepalive, DATA_OVERHEAD).needed());
            far.attend(ctx);
        });
    }

    /// The far end's receive thread.
    pub fn opening(&self, batch: usize) -> Opening {
        Opening::new(self.far.reader.clone(), self.near.at, batch)
    }
}

/// A receive thread: its reader of the table and its batch.
pub struct Opening {
    reader: Reader,
    from: Endpoint,
    batch: Batch,
}

impl Opening {
    fn new(reader: Reader, from: Endpoint, batch: usize) -> Self {
        Self {
            reader,
            from,
            batch: Batch::with_capacity(batch),
        }
    }

    /// Opens what UDP_GRO has put together: messages at equal distance, all of one session.
    #[inline]
    pub fn open(&mut self, now: Time, run: &mut [u8], stride: usize) -> Wake {
        let table = self.reader.table();
        let mut to: Option<&Receiver> = None;
        self.batch.clear();
        for (number, message) in run.chunks(stride).enumerate() {
            if let Kind::Data { receiver, counter } = classify(message) {
                if to.is_none() {
                    to = table.receiver(receiver);
                }
                self.batch.push(number * stride, message.len(), counter);
            }
        }
        let receiver = to.expect("a session");
        receiver.open(table, now, &self.from, run, &mut self.batch)
    }

    /// Whether the last batch held packets and nothing else.
    pub fn all_packets(&self, count: usize) -> bool {
        let opened = self.batch.opened();
        opened.len() == count && opened.iter().all(|one| one.verdict == Verdict::Packet)
    }
}

/// A run of `count` inner IPv4 packets of `len` bytes, ready to be sealed, and its stride.
pub fn run(count: usize, len: usize) -> (Vec<u8>, usize) {
    let stride = data_len(len, MTU);
    let mut run = vec![0; count * stride];
    for message in run.chunks_mut(stride) {
        let packet = &mut message[DATA_HEADER..][..len];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[12..16].copy_from_slice(&NEAR.octets());
        packet[16..20].copy_from_slice(&[10, 0, 0, 1]);
    }
    (run, stride)
}

/// A sealed run.
pub fn sealed(route: &Route, now: Time, count: usize, len: usize) -> Vec<u8> {
    let (mut run, stride) = run(count, len);
    // The wake-up is for a control thread that is not there.
    let _ = route.seal(now, &mut run, stride).expect("a session");
    run
}
