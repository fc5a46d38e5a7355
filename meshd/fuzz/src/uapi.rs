//! UAPI requests on one device: what is read back can be written, and says the same again.

use meshd_proto::uapi::{self, Errno, Host};
use meshd_proto::{Context, Device, Outputs, Random, Tai64n, Time, WallTime};

struct Dice(u64);

impl Random for Dice {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

/// A socket and a mark that can be refused.
#[derive(Default)]
pub(crate) struct Socket {
    port: u16,
    mark: u32,
}

/// What links there are: some.
fn link(name: &str) -> Option<u32> {
    name.starts_with('e').then_some(7)
}

impl Host for Socket {
    fn listen_port(&self) -> u16 {
        self.port
    }

    fn fwmark(&self) -> u32 {
        self.mark
    }

    fn link(&self, name: &str) -> Option<u32> {
        link(name)
    }

    fn set_listen_port(&mut self, port: u16) -> Result<(), Errno> {
        if port == 666 {
            return Err(Errno::EADDRINUSE);
        }
        self.port = port;
        Ok(())
    }

    fn set_fwmark(&mut self, mark: u32) -> Result<(), Errno> {
        self.mark = mark;
        Ok(())
    }
}

/// Requests separated by empty lines, as they come on the socket.
pub(crate) fn requests(mut bytes: &[u8]) {
    let (mut device, mut socket) = (Device::new(Tai64n::ZERO), Socket::default());
    let (mut random, mut out) = (Dice(1), Outputs::default());
    let mut ctx = Context {
        now: Time(1_000_000_000),
        wall: WallTime {
            secs: 1_700_000_000,
            nanos: 0,
        },
        random: &mut random,
        out: &mut out,
    };
    device.set_link(&mut ctx, true);
    while !bytes.is_empty() {
        let len = uapi::request_len(bytes).unwrap_or(bytes.len());
        let (request, rest) = bytes.split_at(len);
        bytes = rest;
        let answer = uapi::handle(&mut device, &mut ctx, &mut socket, request);
        assert!(answer.ends_with(b"\n\n"));
        let refused = uapi::parse(request, &link).is_err();
        if refused {
            assert!(!answer.ends_with(b"errno=0\n\n"), "an error is said");
        }
        device.assert_sound();
    }
    let get = |device: &mut Device, socket: &mut Socket, ctx: &mut Context<'_>| {
        let answer = uapi::handle(device, ctx, socket, b"get=1\n\n");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let told = get(&mut device, &mut socket, &mut ctx);
    // What only tells how things are going can't be set.
    let state = ["last_handshake_time", "tx_bytes", "rx_bytes", "errno"];
    let lines = |text: &str| -> Vec<String> {
        let config = |line: &&str| !state.iter().any(|key| line.starts_with(key));
        text.lines().filter(config).map(str::to_owned).collect()
    };
    let request = format!("set=1\n{}\n\n", lines(&told).join("\n").trim_end());
    let (mut copy, mut copied) = (Device::new(Tai64n::ZERO), Socket::default());
    let answer = uapi::handle(&mut copy, &mut ctx, &mut copied, request.as_bytes());
    assert_eq!(
        &answer[..],
        b"errno=0\n\n",
        "what is told can be set: {request}"
    );
    let again = get(&mut copy, &mut copied, &mut ctx);
    assert_eq!(lines(&told), lines(&again), "and is the same then");
}
