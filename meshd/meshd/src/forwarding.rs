//! Which links had their IPv4 forwarding turned on for which site networks, or for the way out to the internet, in memory
//! and on record.
//!
//! Networks share links (our own, at least), so one that goes must not take the others' along; and which links a network
//! had is remembered, since routes change. The record is a file below our state: written before a switch is turned, it
//! tells a daemon that starts after a crash, or `meshd remove`, what to put back. It names the boot and the network
//! namespace it speaks of, and means nothing in another: the switches went with those.
//!
//! What it does not do: turn switches (`netdev.rs` does, and [`put_back`] for want of a daemon).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use meshd_os::netlink::{Link, Netlink};
use meshd_os::Result;

use crate::conf::Cidr;

/// What forwarding is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A site network.
    Site(Cidr),
    /// The way out to the internet.
    Exit,
}

/// See the file's head.
#[derive(Debug)]
pub struct Forwarding {
    record: PathBuf,
    /// The links, by index, that each one needs.
    needed_by: BTreeMap<Need, BTreeSet<u32>>,
    /// Links whose forwarding was off before we turned it on.
    turned_on: BTreeMap<u32, String>,
}

impl Forwarding {
    /// With what the record says of links that are still there and still forward.
    pub fn open(record: PathBuf, netlink: &Netlink) -> Self {
        let turned_on = recorded(&record, netlink);
        Self {
            record,
            needed_by: BTreeMap::new(),
            turned_on,
        }
    }

    /// `need` has `link`. True: forwarding is off there, and has to be turned on now.
    pub fn need(&mut self, need: Need, link: &Link) -> bool {
        self.needed_by.entry(need).or_default().insert(link.index);
        if link.forwarding_v4 == Some(true) {
            return false;
        }
        self.turned_on.insert(link.index, link.name.clone());
        self.write();
        true
    }

    /// `need` is gone: the links to be turned off.
    pub fn release(&mut self, need: Need) -> Vec<u32> {
        self.needed_by.remove(&need);
        self.unneeded()
    }

    /// Links that we turned on, before a crash maybe, and that no network needs.
    pub fn unneeded(&self) -> Vec<u32> {
        let needed = |link: &&u32| self.needed_by.values().any(|links| links.contains(link));
        let links = self.turned_on.keys();
        links.filter(|link| !needed(link)).copied().collect()
    }

    /// A link is turned off, or gone.
    pub fn off(&mut self, link: u32) {
        if self.turned_on.remove(&link).is_some() {
            self.write();
        }
    }

    /// A record that can't be written costs the way back after a crash, and nothing else.
    fn write(&self) {
        if let Err(error) = write(&self.record, &self.turned_on) {
            eprintln!("meshd: warning: {}: {error}", self.record.display());
        }
    }
}

/// Turns off what the record of a daemon that is gone says, and deletes it.
pub fn put_back(record: &Path) -> Result<()> {
    let netlink = Netlink::open()?;
    if !is_everywhere() {
        for link in recorded(record, &netlink).into_keys() {
            netlink.set_forwarding_v4(link, false)?;
        }
    }
    match fs::remove_file(record) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(meshd_os::Error::new(
            format!("delete {}", record.display()),
            error,
        )),
        _ => Ok(()),
    }
}

/// The links that a record says were turned on, if they still forward.
pub fn recorded(record: &Path, netlink: &Netlink) -> BTreeMap<u32, String> {
    read(record, |index| netlink.link_by_index(index).ok().flatten())
}

/// Whether IPv4 is forwarded on every link. Nobody but the host's administrator turns that on, or what he runs, and then each
/// link's is his, those that were turned on before included.
pub fn is_everywhere() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.trim() == "1")
}

/// The links of a record that speaks of here and now, if they are the same ones and forward.
fn read(record: &Path, link: impl Fn(u32) -> Option<Link>) -> BTreeMap<u32, String> {
    let text = fs::read_to_string(record).unwrap_or_default();
    let mut lines = text.lines();
    if lines.next().map(str::to_owned) != here_and_now().ok() {
        return BTreeMap::new();
    }
    let same = |line: &str| {
        let (index, name) = line.split_once(' ')?;
        let found = link(index.parse().ok()?)?;
        let same = found.name == name && found.forwarding_v4 == Some(true);
        same.then_some((found.index, found.name))
    };
    lines.filter_map(same).collect()
}

fn write(record: &Path, links: &BTreeMap<u32, String>) -> io::Result<()> {
    if links.is_empty() {
        return match fs::remove_file(record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let mut text = here_and_now()? + "\n";
    for (index, name) in links {
        text += &format!("{index} {name}\n");
    }
    if let Some(folder) = record.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = record.with_extension("forward.new");
    fs::write(&beside, text)?;
    fs::rename(&beside, record)
}

/// This boot (random(4)) and this network namespace (namespaces(7)), in a word.
pub fn here_and_now() -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let namespace = fs::read_link("/proc/thread-self/ns/net")?;
    Ok(format!("{} {}", boot.trim(), namespace.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, forwards: bool) -> Link {
        Link {
            index,
            name: format!("link{index}"),
            mtu: 1500,
            up: true,
            queue_len: 0,
            kind: String::new(),
            is_tun: false,
            forwarding_v4: Some(forwards),
        }
    }

    #[test]
    fn a_site_network_that_goes_leaves_the_others_their_links() {
        let record = std::env::temp_dir().join(format!("meshd-forward-{}", std::process::id()));
        let [a, b, c] = ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"]
            .map(|net| Need::Site(Cidr::parse(net).unwrap()));
        let (ours, site, other) = (1, 2, 3);
        let mut forwarding = Forwarding {
            record: record.clone(),
            needed_by: BTreeMap::new(),
            turned_on: BTreeMap::new(),
        };
        assert!(forwarding.need(a, &link(ours, false)));
        assert!(forwarding.need(a, &link(site, false)));
        for index in [ours, site] {
            assert!(!forwarding.need(b, &link(index, true)), "on by now");
        }
        assert!(!forwarding.need(c, &link(ours, true)));
        assert!(!forwarding.need(c, &link(other, true)), "on before us");
        let after_a_crash = |here: &[u32]| {
            let found = |index| here.contains(&index).then(|| link(index, true));
            read(&record, found).into_keys().collect::<Vec<_>>()
        };
        assert_eq!(after_a_crash(&[site, other]), [site], "our link went along");
        assert_eq!(forwarding.release(a), [] as [u32; 0], "b needs both");
        assert_eq!(forwarding.release(b), [site], "c needs our own");
        forwarding.off(site);
        assert_eq!(after_a_crash(&[ours, site]), [ours]);
        assert_eq!(forwarding.release(b), [] as [u32; 0], "gone already");
        assert_eq!(forwarding.release(c), [ours], "the other's was on before");
        forwarding.off(ours);
        assert!(!record.exists());
    }

    #[test]
    fn a_record_of_another_boot_means_nothing() {
        let record = std::env::temp_dir().join(format!("meshd-forwarded-{}", std::process::id()));
        fs::write(&record, "an-older-boot net:[4026531840]\n2 link2\n").unwrap();
        assert!(read(&record, |index| Some(link(index, true))).is_empty());
        fs::remove_file(record).unwrap();
    }
}
