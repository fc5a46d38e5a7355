//! Which peer an address belongs to: cryptokey routing (paper section 2), longest prefix first, IPv4 and IPv6.
//!
//! Strategy: two shapes of one thing. [`AllowedIps`] is what the control thread edits: an ordered map from network to
//! owner, so a network has one owner and giving it to another peer moves it. [`Routes`] is what packet threads read:
//! the map flattened into disjoint ranges, sorted, so that a look-up is one binary search over plain numbers (11
//! steps for 1000 peers, in 4 KiB). It is built anew on every change, which takes microseconds, and never edited:
//! no removal from a trie that could go wrong.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;

/// A network: address and prefix length, host bits cleared. IPv4 sorts before IPv6, then by address, then the
/// shorter prefix first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// A network; clears the host bits. `None` if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(u32::masked(ip.to_bits(), prefix)?)),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(u128::masked(ip.to_bits(), prefix)?)),
        };
        Some(Self { address, prefix })
    }

    /// The network of one address: /32 or /128.
    pub const fn host(address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix }
    }

    /// The network's first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self::new(address, self.prefix).is_some_and(|network| network == *self)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Addresses as numbers: u32 for IPv4, u128 for IPv6.
trait Bits: Copy + Ord {
    const LEN: u8;
    fn masked(self, prefix: u8) -> Option<Self>;
    /// The last address of the network that starts here; `None` if the prefix is too long.
    fn last(self, prefix: u8) -> Option<Self>;
    fn successor(self) -> Option<Self>;
}

macro_rules! impl_bits {
    ($bits:ty) => {
        impl Bits for $bits {
            const LEN: u8 = <$bits>::BITS as u8;

            fn masked(self, prefix: u8) -> Option<Self> {
                let host_bits = u32::from(Self::LEN.checked_sub(prefix)?);
                Some(self & <$bits>::MAX.checked_shl(host_bits).unwrap_or(0))
            }

            fn last(self, prefix: u8) -> Option<Self> {
                let host_bits = u32::from(Self::LEN.checked_sub(prefix)?);
                Some(self | !<$bits>::MAX.checked_shl(host_bits).unwrap_or(0))
            }

            fn successor(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    };
}

impl_bits!(u32);
impl_bits!(u128);

/// Networks and their owners, editable. `Owner` is a peer's slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllowedIps {
    owners: BTreeMap<Cidr, u32>,
}

impl AllowedIps {
    /// Gives `network` to `owner`; returns whom it was taken from, if that is another.
    pub fn insert(&mut self, network: Cidr, owner: u32) -> Option<u32> {
        self.owners
            .insert(network, owner)
            .filter(|former| *former != owner)
    }

    /// Takes `network` away from `owner`; whether it had it.
    pub fn remove(&mut self, network: &Cidr, owner: u32) -> bool {
        let owned = self.owners.get(network) == Some(&owner);
        if owned {
            self.owners.remove(network);
        }
        owned
    }

    /// Who owns exactly this network.
    pub fn owner(&self, network: &Cidr) -> Option<u32> {
        self.owners.get(network).copied()
    }

    /// How many networks there are.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// The flat form for packet threads.
    pub fn routes(&self) -> Routes {
        let mut v4 = Flattener::default();
        let mut v6 = Flattener::default();
        for (network, owner) in &self.owners {
            match network.address {
                IpAddr::V4(ip) => v4.push(ip.to_bits(), network.prefix, *owner),
                IpAddr::V6(ip) => v6.push(ip.to_bits(), network.prefix, *owner),
            }
        }
        Routes {
            v4: v4.finish(),
            v6: v6.finish(),
        }
    }
}

/// No peer owns this range.
const NOBODY: u32 = u32::MAX;

/// Disjoint ranges: range `i` goes from `starts[i]` to before `starts[i + 1]` and belongs to `owners[i]`.
#[derive(Debug)]
struct Ranges<T> {
    starts: Box<[T]>,
    owners: Box<[u32]>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self {
            starts: Box::default(),
            owners: Box::default(),
        }
    }
}

impl<T: Bits> Ranges<T> {
    #[inline]
    fn lookup(&self, address: T) -> Option<u32> {
        let above = self.starts.partition_point(|start| *start <= address);
        let owner = *self.owners.get(above.checked_sub(1)?)?;
        (owner != NOBODY).then_some(owner)
    }
}

/// Builds [`Ranges`] from networks in order of address, shorter prefix first: an outer network is pushed before all
/// that lie in it, so the networks that are open form a stack.
struct Flattener<T> {
    starts: Vec<T>,
    owners: Vec<u32>,
    /// Last address and owner of each network around the current place, outermost first.
    open: Vec<(T, u32)>,
}

impl<T> Default for Flattener<T> {
    fn default() -> Self {
        Self {
            starts: Vec::new(),
            owners: Vec::new(),
            open: Vec::new(),
        }
    }
}

impl<T: Bits> Flattener<T> {
    fn push(&mut self, first: T, prefix: u8, owner: u32) {
        let Some(last) = first.last(prefix) else {
            return;
        };
        self.close_before(Some(first));
        self.start(first, owner);
        self.open.push((last, owner));
    }

    fn finish(mut self) -> Ranges<T> {
        self.close_before(None);
        Ranges {
            starts: self.starts.into(),
            owners: self.owners.into(),
        }
    }

    /// Ends the open networks that end before `place` (all of them if there is none): what follows each belongs to
    /// the one around it.
    fn close_before(&mut self, place: Option<T>) {
        while let Some((last, _)) = self.open.last().copied() {
            if place.is_some_and(|place| last >= place) {
                return;
            }
            self.open.pop();
            let around = self.open.last().map_or(NOBODY, |(_, owner)| *owner);
            if let Some(next) = last.successor() {
                self.start(next, around);
            }
        }
    }

    fn start(&mut self, first: T, owner: u32) {
        if self.starts.last() == Some(&first) {
            self.starts.pop();
            self.owners.pop();
        }
        if self.owners.last() != Some(&owner) {
            self.starts.push(first);
            self.owners.push(owner);
        }
    }
}

/// The flat, immutable form: look-ups by longest prefix.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Routes {
    /// The owner of the longest network that holds `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(ip) => self.v4.lookup(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.lookup(ip.to_bits()),
        }
    }
}

#[cfg(test)]
#[path = "allowed_ips_tests.rs"]
mod tests;
