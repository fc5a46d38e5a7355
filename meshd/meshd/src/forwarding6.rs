//! IPv6 forwarding for an exit: turned on with as little change as the kernel allows, on record, and put back.
//!
//! Strategy: where the kernel knows `force_forwarding` (Linux 6.17), only the links concerned get it, and nothing else changes.
//! Elsewhere ip6_forward asks `conf/all/forwarding` alone; writing that one turns every link into a router's, forgets the
//! routes that routers advertised (addrconf.c: rt6_purge_dflt_routers spares links with accept_ra = 2), and takes no
//! advertisements any more. So the links that take them have accept_ra = 2 for the moment of the write, and then each link's
//! own switch and the default for new links are set back as they were: packets are forwarded, hosts stay hosts. The way
//! back is the same. The record is written before each change; it says which boot and network namespace it speaks of.
//!
//! What it does not do: know which links those are, or what others use forwarding for. Who turns it on for the whole host after
//! us sets the default for new links with it, which is how that is known: then it is left on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use meshd_os::netlink::Link;

use crate::exit::Opened6;
use crate::forwarding::here_and_now;

const ALL: &str = "all/forwarding";
const DEFAULT: &str = "default/forwarding";

/// See the file's head.
#[derive(Debug)]
pub struct Forwarding6 {
    switches: PathBuf,
    record: PathBuf,
    turned: Turned,
}

/// What we have turned.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Turned {
    /// `conf/all/forwarding`, with the default for new links before that.
    all: Option<bool>,
    /// `force_forwarding` of links, by index.
    links: BTreeMap<u32, String>,
    /// Settings to be put back at the end of a change that is under way.
    back: Vec<(String, String)>,
}

/// A switch that can't be turned, and why.
#[derive(Debug)]
pub struct Stuck(String);

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Forwarding6 {
    /// With what the record says. A change that a predecessor didn't come to the end of is brought there.
    pub fn open(switches: &Path, record: PathBuf) -> Self {
        let turned = here_and_now().map_or_else(
            |_| Turned::default(),
            |here| Turned::read(&fs::read_to_string(&record).unwrap_or_default(), &here),
        );
        let mut forwarding = Self {
            switches: switches.to_owned(),
            record,
            turned,
        };
        if !forwarding.turned.back.is_empty() {
            forwarding.put_back();
        }
        forwarding
    }

    /// Whether this host has IPv6.
    pub fn is_there(&self) -> bool {
        self.value(ALL).is_some() && self.value("all/disable_ipv6").as_deref() != Some("1")
    }

    /// What `set` would have opened, or has, because of us.
    pub fn opens(&self, links: &[Link]) -> Opened6 {
        if self.turned.all.is_some() {
            return Opened6::All;
        }
        let on = self.is_on(ALL);
        if !on && !links.is_empty() && !self.has_force(links) {
            return Opened6::All;
        }
        let ours = |link: &&Link| {
            let forced = self.is_on(&force(&link.name));
            self.turned.links.contains_key(&link.index) || (!on && !forced)
        };
        Opened6::Links(
            links
                .iter()
                .filter(ours)
                .map(|link| link.name.clone())
                .collect(),
        )
    }

    /// Whether packets that come in by all of these links are forwarded.
    pub fn works(&self, links: &[Link]) -> bool {
        self.is_on(ALL) || links.iter().all(|link| self.is_on(&force(&link.name)))
    }

    /// Whether it would work; nothing is changed.
    pub fn could(&self, links: &[Link]) -> Result<(), Stuck> {
        if self.works(links) {
            return Ok(());
        }
        let path = match links
            .iter()
            .find(|link| self.path(&force(&link.name)).exists())
        {
            Some(link) => force(&link.name),
            None => ALL.to_owned(),
        };
        let opened = OpenOptions::new().write(true).open(self.path(&path));
        opened.map(drop).map_err(|error| self.stuck(&path, &error))
    }

    /// Has packets that come in by `links` forwarded, and puts back what isn't needed for it; none: puts everything back.
    pub fn set(&mut self, links: &[Link]) -> Result<(), Stuck> {
        let indexes: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        if links.is_empty() {
            self.all_off()?;
        }
        if !links.is_empty() && !self.is_on(ALL) {
            if self.has_force(links) {
                self.force(links)?;
            } else {
                self.turn_all(true)?;
            }
        }
        let gone = self
            .turned
            .links
            .keys()
            .filter(|index| !indexes.contains(index));
        for index in gone.copied().collect::<Vec<_>>() {
            if let Some(name) = self.turned.links.get(&index) {
                self.write_if_there(&force(name), "0")?;
            }
            self.turned.links.remove(&index);
            self.write_record();
        }
        Ok(())
    }

    /// Links are known by index here, and by name in the record; one that was renamed goes by its new name from now on.
    pub fn renamed(&mut self, links: &[Link]) {
        let before = self.turned.clone();
        for link in links {
            if let Some(name) = self.turned.links.get_mut(&link.index) {
                name.clone_from(&link.name);
            }
        }
        if before != self.turned {
            self.write_record();
        }
    }

    /// Whether the kernel has switches of that kind, and `MESHD_NO_FORCE_FORWARDING` doesn't say to leave them alone.
    fn has_force(&self, links: &[Link]) -> bool {
        if std::env::var_os("MESHD_NO_FORCE_FORWARDING").is_some_and(|v| !v.is_empty() && v != "0")
        {
            return false;
        }
        let there = |link: &Link| self.path(&force(&link.name)).exists();
        links.iter().all(there)
    }

    fn force(&mut self, links: &[Link]) -> Result<(), Stuck> {
        for link in links {
            let path = force(&link.name);
            if !self.is_on(&path) {
                self.turned.links.insert(link.index, link.name.clone());
                self.write_record();
                if let Err(error) = self.write(&path, "1") {
                    self.turned.links.remove(&link.index);
                    self.write_record();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn all_off(&mut self) -> Result<(), Stuck> {
        let Some(default_before) = self.turned.all else {
            return Ok(());
        };
        // Somebody else has turned it on for the whole host since: it is theirs.
        let theirs = !default_before && self.is_on(DEFAULT);
        if !theirs && self.is_on(ALL) {
            self.turn_all(false)?;
        }
        self.turned.all = None;
        self.write_record();
        Ok(())
    }

    /// Turns `conf/all/forwarding` and nothing else.
    fn turn_all(&mut self, on: bool) -> Result<(), Stuck> {
        let before = self.turned.clone();
        let default = self.is_on(DEFAULT);
        let mut back = Vec::new();
        let mut learning = Vec::new();
        for folder in self.folders() {
            let forwarding = format!("{folder}/forwarding");
            if let Some(value) = self.value(&forwarding) {
                back.push((forwarding, value));
            }
            let accept = format!("{folder}/accept_ra");
            if folder != "default" && self.value(&accept).as_deref() == Some("1") {
                learning.push(accept);
            }
        }
        // The links' own switches first: each that is written as on purges once more.
        back.extend(
            learning
                .iter()
                .map(|accept| (accept.clone(), "1".to_owned())),
        );
        self.turned.back = back;
        if on {
            self.turned.all = Some(default);
        }
        self.write_record();
        let mut done = Ok(());
        for accept in &learning {
            done = done.and_then(|()| self.write_if_there(accept, "2"));
        }
        done = done.and_then(|()| self.write(ALL, if on { "1" } else { "0" }));
        self.put_back();
        if done.is_err() {
            self.turned = before;
            self.write_record();
        }
        done
    }

    /// Puts back what a change under way had to change beside what it was about.
    fn put_back(&mut self) {
        for (path, value) in std::mem::take(&mut self.turned.back) {
            if self.value(&path).as_ref() != Some(&value) {
                if let Err(error) = self.write_if_there(&path, &value) {
                    eprintln!("meshd: warning: {error}");
                }
            }
        }
        self.write_record();
    }

    /// The links' folders, and that of the default.
    fn folders(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.switches).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name != "all").collect()
    }

    fn path(&self, of: &str) -> PathBuf {
        self.switches.join(of)
    }

    fn value(&self, of: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(of)).ok()?;
        Some(text.trim().to_owned())
    }

    fn is_on(&self, of: &str) -> bool {
        self.value(of).is_some_and(|value| value != "0")
    }

    fn write(&self, of: &str, value: &str) -> Result<(), Stuck> {
        let file = OpenOptions::new().write(true).open(self.path(of));
        let done = file.and_then(|mut file| file.write_all(value.as_bytes()));
        done.map_err(|error| self.stuck(of, &error))
    }

    /// A link may go at any time.
    fn write_if_there(&self, of: &str, value: &str) -> Result<(), Stuck> {
        if self.path(of).exists() {
            self.write(of, value)
        } else {
            Ok(())
        }
    }

    fn stuck(&self, of: &str, error: &io::Error) -> Stuck {
        Stuck(format!("write {}: {error}", self.path(of).display()))
    }

    /// A record that can't be written costs the way back after a crash, and nothing else.
    fn write_record(&self) {
        if let Err(error) = self.turned.write(&self.record) {
            eprintln!("meshd: warning: {}: {error}", self.record.display());
        }
    }
}

/// Turns back what the record of a daemon that is gone says, and deletes it.
pub fn put_back(switches: &Path, record: PathBuf) -> Result<(), Stuck> {
    let gone = record.clone();
    Forwarding6::open(switches, record).set(&[])?;
    match fs::remove_file(&gone) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Stuck(format!("delete {}: {error}", gone.display())))
        }
        _ => Ok(()),
    }
}

fn force(link: &str) -> String {
    format!("{link}/force_forwarding")
}

impl Turned {
    /// What `text` says if it speaks of here and now.
    fn read(text: &str, here: &str) -> Self {
        let mut turned = Self::default();
        let mut lines = text.lines();
        if lines.next() != Some(here) {
            return turned;
        }
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["all", default] => turned.all = Some(default == "1"),
                ["link", index, name] => {
                    let index = index.parse().ok();
                    turned
                        .links
                        .extend(index.map(|index| (index, name.to_owned())));
                }
                ["back", path, value] => turned.back.push((path.to_owned(), value.to_owned())),
                _ => {}
            }
        }
        turned
    }

    fn write(&self, record: &Path) -> io::Result<()> {
        if *self == Self::default() {
            return match fs::remove_file(record) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let mut text = here_and_now()? + "\n";
        if let Some(default) = self.all {
            text += &format!("all {}\n", u8::from(default));
        }
        for (index, name) in &self.links {
            text += &format!("link {index} {name}\n");
        }
        for (path, value) in &self.back {
            text += &format!("back {path} {value}\n");
        }
        if let Some(folder) = record.parent() {
            fs::create_dir_all(folder)?;
        }
        let beside = record.with_extension("forward6.new");
        fs::write(&beside, text)?;
        fs::rename(&beside, record)
    }
}

#[cfg(test)]
mod tests;
