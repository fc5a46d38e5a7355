//! Where a peer is on the outer network, and a cell that packet threads read without a lock.
//!
//! Strategy: an [`Endpoint`] packs into six words. A writer (roaming in a receive thread, or the control thread)
//! takes the cell's mutex, makes the version odd, stores the words, makes it even again; a reader copies the words
//! between two equal, even versions and never waits for a lock. This is a seqlock made of atomics alone. The fences
//! are those of Boehm, "Can seqlocks get along with programming language memory models?" (MSPC 2012), section 4.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use core::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kept::Mirror;

/// A peer's outer address, and the local address and interface that its packets came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to send to.
    pub remote: SocketAddr,
    /// Where to send from ("sticky"): what the last authenticated packet was sent to. None lets the kernel choose.
    pub local: Option<Local>,
}

/// The sticky source of an [`Endpoint`], as IP_PKTINFO and IPV6_PKTINFO carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The local address; same family as the remote one.
    pub ip: IpAddr,
    /// The interface index; 0 for any.
    pub ifindex: u32,
}

impl Endpoint {
    /// An endpoint whose source the kernel chooses.
    pub const fn new(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
        }
    }

    /// The same remote address with no sticky source.
    #[must_use]
    const fn unstuck(self) -> Self {
        Self::new(self.remote)
    }

    pub(crate) fn pack(self) -> [u64; WORDS] {
        let (family, ip, flow, scope) = match self.remote {
            SocketAddr::V4(v4) => (4, u128::from(v4.ip().to_bits()), 0, 0),
            SocketAddr::V6(v6) => (6, v6.ip().to_bits(), v6.flowinfo(), v6.scope_id()),
        };
        let (local_family, local_ip, ifindex) = match self.local {
            None => (0, 0, 0),
            Some(Local {
                ip: IpAddr::V4(ip),
                ifindex,
            }) => (4, u128::from(ip.to_bits()), ifindex),
            Some(Local {
                ip: IpAddr::V6(ip),
                ifindex,
            }) => (6, ip.to_bits(), ifindex),
        };
        let tag = family
            | local_family << 8
            | u64::from(self.remote.port()) << 16
            | u64::from(ifindex) << 32;
        let flow_scope = u64::from(flow) | u64::from(scope) << 32;
        let [ip_high, ip_low] = halves(ip);
        let [local_high, local_low] = halves(local_ip);
        [tag, ip_high, ip_low, flow_scope, local_high, local_low]
    }

    pub(crate) fn unpack(words: [u64; WORDS]) -> Option<Self> {
        let [tag, ip_high, ip_low, flow_scope, local_high, local_low] = words;
        let port = (tag >> 16) as u16;
        let ip = u128::from(ip_high) << 64 | u128::from(ip_low);
        let local_ip = u128::from(local_high) << 64 | u128::from(local_low);
        let remote = match tag & 0xff {
            4 => SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from_bits(ip as u32), port)),
            6 => SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from_bits(ip),
                port,
                flow_scope as u32,
                (flow_scope >> 32) as u32,
            )),
            _ => return None,
        };
        let ifindex = (tag >> 32) as u32;
        let local = match tag >> 8 & 0xff {
            4 => Some(IpAddr::V4(Ipv4Addr::from_bits(local_ip as u32))),
            6 => Some(IpAddr::V6(Ipv6Addr::from_bits(local_ip))),
            _ => None,
        };
        Some(Self {
            remote,
            local: local.map(|ip| Local { ip, ifindex }),
        })
    }
}

const fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

/// Words of a packed endpoint.
pub(crate) const PACKED: usize = 6;
use PACKED as WORDS;

/// An `Option<Endpoint>` that is read without a lock. See the file's head.
#[derive(Debug, Default)]
pub struct EndpointCell {
    version: AtomicU64,
    words: [AtomicU64; WORDS],
    writer: Mutex<()>,
    /// A copy that outlives the process.
    mirror: Option<Mirror>,
}

impl EndpointCell {
    /// An empty cell whose changes are also written to `mirror`.
    pub(crate) fn mirrored(mirror: Option<Mirror>) -> Self {
        Self {
            mirror,
            ..Self::default()
        }
    }

    /// The endpoint of this moment; `None` if the peer has none yet.
    pub fn get(&self) -> Option<Endpoint> {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let words = core::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.version.load(Ordering::Relaxed) == before {
                return Endpoint::unpack(words);
            }
            core::hint::spin_loop();
        }
    }

    /// Counts changes: equal versions mean an unchanged endpoint, so a caller may keep a copy and ask only this.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Stores `endpoint` if it differs; whether it did.
    pub fn set(&self, endpoint: Option<Endpoint>) -> bool {
        let differs = self.get() != endpoint;
        if differs {
            let _writer = self.lock();
            self.store(endpoint);
        }
        differs
    }

    /// Forgets the sticky source, if there is one, of whatever endpoint this is.
    pub fn unstick(&self) {
        let _writer = self.lock();
        if let Some(endpoint) = self.get().filter(|endpoint| endpoint.local.is_some()) {
            self.store(Some(endpoint.unstuck()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // The mutex guards no data, so a poisoned one is as good as any.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only with the writer's lock held.
    fn store(&self, endpoint: Option<Endpoint>) {
        let words = endpoint.map_or([0; WORDS], Endpoint::pack);
        let version = self.version.load(Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (cell, word) in self.words.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
        if let Some(mirror) = self.mirror {
            mirror.set(words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Endpoint> {
        let v6: Ipv6Addr = "fe80::1:2".parse().unwrap();
        vec![
            Endpoint::new("192.0.2.1:51820".parse().unwrap()),
            Endpoint::new("[2001:db8::1]:65535".parse().unwrap()),
            Endpoint {
                remote: SocketAddr::V6(SocketAddrV6::new(v6, 1, 0xfffff, 7)),
                local: Some(Local {
                    ip: IpAddr::V6(v6),
                    ifindex: u32::MAX,
                }),
            },
            Endpoint {
                remote: "198.51.100.9:0".parse().unwrap(),
                local: Some(Local {
                    ip: "198.51.100.1".parse().unwrap(),
                    ifindex: 3,
                }),
            },
        ]
    }

    #[test]
    fn pack_and_unpack_are_inverse() {
        for endpoint in samples() {
            assert_eq!(Endpoint::unpack(endpoint.pack()), Some(endpoint));
        }
        assert_eq!(Endpoint::unpack([0; WORDS]), None);
    }

    #[test]
    fn an_equal_endpoint_is_no_change() {
        let cell = EndpointCell::default();
        assert_eq!(cell.get(), None);
        for endpoint in samples() {
            let version = cell.version();
            assert!(cell.set(Some(endpoint)));
            assert_ne!(cell.version(), version);
            assert!(!cell.set(Some(endpoint)));
            assert_eq!(cell.get(), Some(endpoint));
        }
    }

    #[test]
    fn readers_never_see_a_mixture() {
        let cell = EndpointCell::default();
        let samples = samples();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..20_000 {
                    cell.set(Some(samples[round % samples.len()]));
                }
            });
            while !writer.is_finished() {
                if let Some(seen) = cell.get() {
                    assert!(samples.contains(&seen), "{seen:?}");
                }
            }
        });
    }
}
