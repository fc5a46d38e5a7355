//! Makes this host a way out for its peers: carries out what `exit.rs` says, has forwarding turned on and follows the default
//! routes, puts back what others took away, and ends it.
//!
//! Strategy: the table comes first and goes last, so that nothing is forwarded which it doesn't look at; a table that can't be
//! loaded means no forwarding. It outlives the process as the interface does (`nft.rs` says how), and so do the
//! switches, which are on record.
//!
//! What it does not do: decide what is wanted; touch another's tables, which may drop what this one accepts ([`WayOut::notes`]
//! names those that it can see).

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use meshd_os::netlink::{Family, Link, Netlink};
use meshd_os::nft::{Nft, NftError, NftEvents, Table};

use crate::conf::Conf;
use crate::exit::{self, Opened};
use crate::failure::Failure;
use crate::forwarding;
use crate::forwarding6::{self, Forwarding6};
use crate::netdev::NetDev;
use crate::paths;

/// Number of the loopback link in every network namespace.
const LOOPBACK: u32 = 1;

/// See the file's head.
pub struct WayOut {
    name: String,
    netlink: Netlink,
    /// It owns the table as long as it is open; `None`: there is no exit.
    nft: Option<(Nft, NftEvents)>,
    /// What was loaded last; `None`: there is no exit.
    held: Option<Table>,
    v6: Forwarding6,
    /// What forwarding was turned on for last, if it was off.
    opened: Uplinks,
    /// Whether a predecessor may have left something.
    unknown: bool,
    watched: bool,
    trouble: Vec<String>,
}

/// Where packets can leave.
#[derive(Default)]
struct Uplinks {
    v4: Vec<Link>,
    v6: Vec<Link>,
}

impl WayOut {
    /// That of interface `name`; nothing is changed yet.
    pub fn new(name: &str) -> Result<Self, Failure> {
        let netlink = Netlink::open().map_err(|error| failure(name, error, ""))?;
        let switches = Path::new(paths::IPV6_SWITCHES);
        Ok(Self {
            name: name.to_owned(),
            netlink,
            nft: None,
            held: None,
            v6: Forwarding6::open(switches, paths::forward6_record(name)),
            opened: Uplinks::default(),
            unknown: true,
            watched: false,
            trouble: Vec::new(),
        })
    }

    /// Whether this host could be a way out; nothing is changed.
    pub fn check(&self, conf: &Conf) -> Result<(), Failure> {
        let uplinks = self.uplinks(conf)?;
        let mut table = self.table(conf, &uplinks)?;
        table.name += "_try";
        let tried = Nft::open().and_then(|nft| nft.try_load(&table));
        tried.map_err(|error| self.no_table(&error))?;
        if uplinks.v6.is_empty() {
            return Ok(());
        }
        let could = self.v6.could(&uplinks.v6);
        could.map_err(|stuck| self.no_forwarding(stuck))
    }

    /// Whether there is an exit, or was to be one.
    pub fn is_held(&self) -> bool {
        self.held.is_some() || !self.trouble.is_empty()
    }

    /// Readable when something happened to nf_tables: call [`WayOut::touched`] then. Given once, when it is new.
    pub fn events_to_watch(&mut self) -> Option<BorrowedFd<'_>> {
        let (_, events) = self.nft.as_ref()?;
        (!std::mem::replace(&mut self.watched, true)).then(|| events.as_fd())
    }

    /// Whether something happened to our table since last asked.
    pub fn touched(&mut self) -> bool {
        let events = self.nft.as_mut().map(|(_, events)| events);
        // What can't be read may have been about ours.
        events.is_some_and(|events| events.touched().unwrap_or(true))
    }

    /// Loads the table: nothing is forwarded yet that wasn't before.
    pub fn load(&mut self, conf: &Conf) -> Result<(), Failure> {
        self.trouble.clear();
        let table = self.table(conf, &self.uplinks(conf)?)?;
        self.put(table)
    }

    /// Turns forwarding on, between our link and those that default routes leave by; elsewhere what was turned on is put back.
    pub fn open(&mut self, conf: &Conf, net: &mut NetDev) -> Result<(), Failure> {
        let uplinks = self.uplinks(conf)?;
        let table = self.table(conf, &uplinks)?;
        if self.held.as_ref() != Some(&table) {
            self.put(table)?;
        }
        self.opened = Uplinks::default();
        let v4: BTreeSet<u32> = uplinks.v4.iter().map(|link| link.index).collect();
        net.forward_exit(&v4)
            .map_err(|error| failure(&self.name, error, ""))?;
        let mut v6 = uplinks.v6;
        self.v6.renamed(&v6);
        if !v6.is_empty() {
            let own = net.link().map_err(|error| failure(&self.name, error, ""))?;
            v6.extend(own);
        }
        let done = self.v6.set(&v6);
        done.map_err(|stuck| self.no_forwarding(stuck))?;
        let v4 = uplinks.v4;
        self.opened = Uplinks { v4, v6 };
        Ok(())
    }

    /// The same for a configuration that is in force already: what can't be done is told by [`WayOut::notes`].
    pub fn open_as_well_as_can_be(&mut self, conf: &Conf, net: &mut NetDev) {
        self.trouble.clear();
        if let Err(failure) = self.open(conf, net) {
            self.fail(failure);
        }
    }

    /// It can't be done, and this is what there is to say about it.
    pub fn fail(&mut self, failure: Failure) {
        eprintln!("meshd: warning: {failure}");
        self.trouble.push(failure.to_string());
    }

    /// Ends it. `net` is our link, if it is there; forwarding goes first.
    pub fn close(&mut self, net: Option<&mut NetDev>) {
        self.trouble.clear();
        self.opened = Uplinks::default();
        if let Some(Err(error)) = net.map(|net| net.forward_exit(&BTreeSet::new())) {
            eprintln!("meshd: warning: {}", failure(&self.name, error, ""));
        }
        if let Err(stuck) = self.v6.set(&[]) {
            eprintln!("meshd: warning: {}", failure(&self.name, stuck, ""));
        }
        if self.held.take().is_some() || self.unknown {
            let gone = self.delete();
            // A plain mesh doesn't fail for what it has no use of.
            if let (Err(error), false) = (gone, self.unknown) {
                eprintln!("meshd: warning: {}", failure(&self.name, error, ""));
            }
        }
        self.unknown = false;
        self.nft = None;
    }

    /// Loads what was held before, or ends it if nothing was.
    pub fn go_back(&mut self, before: Option<Table>) {
        match before {
            None => self.close(None),
            Some(table) => {
                if let Err(failure) = self.put(table) {
                    eprintln!("meshd: warning: going back: {failure}");
                }
            }
        }
    }

    /// What was loaded last.
    pub fn held(&self) -> Option<&Table> {
        self.held.as_ref()
    }

    /// Puts back what others took away, and follows the default routes. Says whether the table was missing, or a switch off.
    pub fn heal(&mut self, conf: &Conf, net: &mut NetDev) -> bool {
        let hurt = self.held.is_some() && !self.has_table();
        if hurt {
            self.held = None;
        }
        let hurt = hurt || self.is_switched_off();
        self.open_as_well_as_can_be(conf, net);
        hurt
    }

    /// Whether somebody has turned off forwarding that was on.
    fn is_switched_off(&self) -> bool {
        let now = |before: &Link| self.netlink.link_by_index(before.index).ok().flatten();
        let off = |before: &Link| now(before).is_some_and(|link| link.forwarding_v4 != Some(true));
        let v6: Vec<Link> = self.opened.v6.iter().filter_map(now).collect();
        self.opened.v4.iter().any(off) || !self.v6.works(&v6)
    }

    /// Whether all of it is there.
    pub fn is_whole(&self, conf: &Conf, net: &NetDev) -> bool {
        let Ok(uplinks) = self.uplinks(conf) else {
            return false;
        };
        let v4 = uplinks.v4.is_empty() || net.forwards();
        let on = |link: &Link| link.forwarding_v4 == Some(true);
        let v6 = uplinks.v6.is_empty() || self.v6.works(&uplinks.v6);
        self.trouble.is_empty() && self.has_table() && v4 && uplinks.v4.iter().all(on) && v6
    }

    /// What keeps it from working, as sentences.
    pub fn notes(&self, conf: &Conf) -> Vec<String> {
        let mut notes = self.trouble.clone();
        let ways = |family| self.netlink.default_links(family).unwrap_or_default();
        for (family, word) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
            let own = |link: &u32| *link == LOOPBACK;
            if exit::has(conf, family) && ways(family).iter().all(own) {
                notes.push(format!(
                    "Exit: this host has no {word} default route: what peers send to the internet over {word} goes nowhere"
                ));
            }
        }
        let droppers = self.nft.as_ref().map(|(nft, _)| nft.forward_droppers());
        for (table, chain) in droppers.and_then(Result::ok).unwrap_or_default() {
            notes.push(format!(
                "Exit: another firewall's chain drops forwarded packets that none of its rules accepts (table {table}, chain {chain})"
            ));
        }
        notes
    }

    fn uplinks(&self, conf: &Conf) -> Result<Uplinks, Failure> {
        let of = |family| -> Result<Vec<Link>, Failure> {
            let fail = |error| failure(&self.name, error, "");
            if !exit::has(conf, family) || (family == Family::V6 && !self.v6.is_there()) {
                return Ok(Vec::new());
            }
            let mut links = Vec::new();
            for index in self.netlink.default_links(family).map_err(fail)? {
                let link = self.netlink.link_by_index(index).map_err(fail)?;
                let other = |link: &Link| link.index != LOOPBACK && link.name != self.name;
                links.extend(link.filter(other));
            }
            Ok(links)
        };
        Ok(Uplinks {
            v4: of(Family::V4)?,
            v6: of(Family::V6)?,
        })
    }

    /// The table for what will be open when forwarding is turned on, or is since a predecessor did it.
    fn table(&self, conf: &Conf, uplinks: &Uplinks) -> Result<Table, Failure> {
        let mut v4 = BTreeSet::new();
        if !forwarding::is_everywhere() {
            let record = paths::forward_record(&self.name);
            v4.extend(forwarding::recorded(&record, &self.netlink).into_values());
            let off = uplinks
                .v4
                .iter()
                .filter(|link| link.forwarding_v4 != Some(true));
            v4.extend(off.map(|link| link.name.clone()));
            v4.remove(&self.name);
        }
        let opened = Opened {
            v4: v4.into_iter().collect(),
            v6: self.v6.opens(&uplinks.v6),
        };
        Ok(exit::table(&self.name, conf, &opened))
    }

    fn put(&mut self, table: Table) -> Result<(), Failure> {
        if self.nft.is_none() {
            let opened = Nft::open().map_err(|error| self.no_table(&error))?;
            let events = NftEvents::subscribe(&table.name)
                .map_err(|error| failure(&self.name, error, ""))?;
            self.nft = Some((opened, events));
            self.watched = false;
        }
        if let Some((nft, _)) = &self.nft {
            nft.load(&table).map_err(|error| self.no_table(&error))?;
        }
        self.held = Some(table);
        Ok(())
    }

    fn has_table(&self) -> bool {
        let Some(((nft, _), held)) = self.nft.as_ref().zip(self.held.as_ref()) else {
            return false;
        };
        let found = nft.find(&held.name).ok().flatten();
        found.is_some_and(|found| found.is_like(held))
    }

    fn delete(&self) -> Result<(), NftError> {
        let name = exit::table_name(&self.name);
        match &self.nft {
            Some((nft, _)) => nft.delete(&name),
            None => match Nft::open()?.delete(&name) {
                Err(NftError::Missing) => Ok(()),
                other => other,
            },
        }
    }

    fn no_table(&self, error: &NftError) -> Failure {
        match error {
            NftError::Missing => failure(
                &self.name,
                "this kernel has no nf_tables, or can't masquerade IPv4 and IPv6 with it: peers would leave with their mesh addresses",
                "load the modules nft_masq and nf_nat, or take Linux 5.2 or newer",
            ),
            other => failure(&self.name, other, ""),
        }
    }

    fn no_forwarding(&self, stuck: forwarding6::Stuck) -> Failure {
        failure(
            &self.name,
            format!("IPv6 forwarding can't be turned on: {stuck}"),
            "turn it on from outside: sysctl net.ipv6.conf.all.forwarding=1",
        )
    }
}

/// Takes away what a daemon that is gone has left.
pub fn put_back(name: &str) -> Result<(), Failure> {
    let switches = Path::new(paths::IPV6_SWITCHES);
    forwarding6::put_back(switches, paths::forward6_record(name))
        .map_err(|stuck| failure(name, stuck, "run it as root"))?;
    match Nft::open().and_then(|nft| nft.delete(&exit::table_name(name))) {
        Ok(()) | Err(NftError::Missing) => Ok(()),
        Err(error) => Err(failure(name, error, "run it as root")),
    }
}

fn failure(name: &str, why: impl ToString, hint: &str) -> Failure {
    Failure::new(format!("interface {name}, Exit"), why, hint)
}
