//! Keeps a host closed: carries out the steps of `closed.rs`, puts back what others took away, and opens again.
//!
//! What is there is read from the kernel, not remembered: a daemon that starts anew finds what its predecessor left and
//! goes on from there. All of it outlives the process. One interface of a host can be closed at a time, because the rules
//! of a second one would let out what the first keeps in; whose they are is said by one of them.
//!
//! What it does not do: decide what is wanted, or touch rules, routes and tables that aren't ours.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};

use meshd_os::netlink::{Family, Netlink, Rule};
use meshd_os::nft::{Nft, NftError, NftEvents, Table};

use crate::closed::{self, Closed, Step};
use crate::failure::Failure;
use crate::put::Put;

/// How the kernel says that it has no IPv6, or has it turned off (net/core/fib_rules.c, net/ipv6/route.c).
const IPV6_OFF: [i32; 4] = [
    libc::EACCES,
    libc::EAFNOSUPPORT,
    libc::EOPNOTSUPP,
    libc::ENODEV,
];

/// What is left open where the kernel has no nf_tables.
const UNCOVERED: &str =
    "this kernel has no nf_tables: programs that bind to another interface are not kept from leaving by it";

/// What could not be covered on this host, as a sentence, were it to be closed; asked before there is anything to guard.
pub fn uncovered() -> Option<&'static str> {
    // The daemon says what else may be wrong, when it tries.
    let missing = matches!(
        Nft::open().and_then(|nft| nft.find("none")),
        Err(NftError::Missing)
    );
    missing.then_some(UNCOVERED)
}

/// See the file's head.
pub struct Guard {
    name: String,
    netlink: Netlink,
    /// It owns the table as long as it is open; `None`: the kernel has no nf_tables.
    nft: Option<(Nft, NftEvents)>,
    /// What was made so last; `None`: nothing yet.
    held: Option<Closed>,
}

impl Guard {
    /// The guard of interface `name`; nothing is changed yet.
    pub fn new(name: &str) -> Result<Self, Failure> {
        let netlink = Netlink::open().map_err(|error| failure(name, error))?;
        let nft = match Nft::open() {
            Ok(nft) => Some(nft),
            Err(NftError::Missing) => None,
            Err(error) => return Err(failure(name, error)),
        };
        let nft = match nft {
            Some(nft) => {
                let events = NftEvents::subscribe(&closed::table_name(name));
                Some((nft, events.map_err(|error| failure(name, error))?))
            }
            None => None,
        };
        Ok(Self {
            name: name.to_owned(),
            netlink,
            nft,
            held: None,
        })
    }

    /// Readable when something happened to nf_tables: call [`Guard::touched`] then.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.nft.as_ref().map(|(_, events)| events.as_fd())
    }

    /// Whether something happened to our table since last asked.
    pub fn touched(&mut self) -> bool {
        let events = self.nft.as_mut().map(|(_, events)| events);
        // What can't be read may have been about ours.
        events.is_some_and(|events| events.touched().unwrap_or(true))
    }

    /// What was made so last; `None`: nothing yet.
    pub fn held(&self) -> Option<&Closed> {
        self.held.as_ref()
    }

    /// Whether the host is to be closed.
    pub fn is_closed(&self) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| *held != Closed::default())
    }

    /// What is not covered, as a sentence.
    pub fn note(&self) -> Option<String> {
        (self.is_closed() && self.nft.is_none()).then(|| UNCOVERED.to_owned())
    }

    /// Makes it so. On failure everything is as before, as far as the kernel lets us.
    pub fn set(&mut self, wanted: &Closed) -> Result<(), Failure> {
        let found = self.find(wanted)?;
        let steps = closed::steps(&found, wanted);
        for (at, step) in steps.iter().enumerate() {
            let Err(failure) = self.apply(step) else {
                continue;
            };
            for back in steps[..at].iter().rev().map(Step::inverse) {
                // A table whose contents we don't know is not put back: the new one is as tight.
                let unknown =
                    matches!(&back, Step::Table { to: Some(table), .. } if table.chains.is_empty());
                if let Some(failure) = (!unknown).then(|| self.apply(&back).err()).flatten() {
                    eprintln!("meshd: warning: going back: {failure}");
                }
            }
            return Err(failure);
        }
        self.held = Some(wanted.clone());
        Ok(())
    }

    /// Puts back what others took away. Says whether anything was missing.
    pub fn heal(&mut self) -> Result<bool, Failure> {
        let Some(held) = self.held.clone().filter(|_| self.is_closed()) else {
            return Ok(false);
        };
        let hurt = self.is_hurt(&held)?;
        if hurt {
            self.set(&held)?;
        }
        Ok(hurt)
    }

    /// Whether everything that keeps the host closed is there.
    pub fn is_whole(&self) -> bool {
        let hurt = |held| self.is_hurt(held).unwrap_or(true);
        self.is_closed() && !self.held.as_ref().is_some_and(hurt)
    }

    fn is_hurt(&self, held: &Closed) -> Result<bool, Failure> {
        let missing = |step: &Step| match step {
            Step::Table { .. } => self.nft.is_some(),
            // A host without IPv6 lacks its rules for good, and needs none.
            Step::Rule(_, rule) => rule.family == Family::V4 || self.has_ipv6(),
            Step::Twin(_, twin) => twin.network.is_ipv4() || self.has_ipv6(),
        };
        Ok(closed::steps(&self.find(held)?, held).iter().any(missing))
    }

    fn has_ipv6(&self) -> bool {
        self.netlink
            .rules(Family::V6)
            .is_ok_and(|rules| !rules.is_empty())
    }

    /// What is there of ours.
    fn find(&self, wanted: &Closed) -> Result<Closed, Failure> {
        let fail = |error| failure(&self.name, error);
        let mut rules: Vec<Rule> = Vec::new();
        for family in Family::BOTH {
            rules.extend(self.netlink.rules(family).map_err(fail)?);
        }
        rules.retain(closed::is_ours);
        match closed::owner(&rules) {
            Some(owner) if owner != self.name && *wanted != Closed::default() => {
                return Err(Failure::new(
                    format!("interface {}", self.name),
                    format!("the mesh {owner} keeps this host closed already"),
                    "turn KillSwitch off in one of them",
                ));
            }
            Some(owner) if owner != self.name => rules.clear(),
            _ => {}
        }
        let mut twins = Vec::new();
        if !rules.is_empty() {
            for table in closed::TABLES {
                twins.extend(self.netlink.routes_of_no_link(table).map_err(fail)?);
            }
        }
        Ok(Closed {
            table: self.find_table()?,
            rules,
            twins,
        })
    }

    /// The table that was loaded last if it is still there; an empty one if there is one that we know nothing about.
    fn find_table(&self) -> Result<Option<Table>, Failure> {
        let Some((nft, _)) = &self.nft else {
            return Ok(None);
        };
        let name = closed::table_name(&self.name);
        let found = match nft.find(&name) {
            Ok(found) => found,
            Err(NftError::Missing) => None,
            // A plain mesh doesn't fail for what it has no use of; loading a table tells it all the better.
            Err(_) if !self.is_closed() => None,
            Err(error) => return Err(failure(&self.name, error)),
        };
        let held = self.held.as_ref().and_then(|held| held.table.as_ref());
        Ok(found.map(|found| match held {
            Some(table) if found.is_like(table) => table.clone(),
            _ => Table {
                name,
                chains: Vec::new(),
            },
        }))
    }

    fn apply(&mut self, step: &Step) -> Result<(), Failure> {
        let done = match step {
            Step::Table { from, to } => return self.put_table(from.as_ref(), to.as_ref()),
            // Going back: another's, of which not all is known.
            Step::Rule(Put::Add, rule) if rule.more => return Ok(()),
            Step::Rule(Put::Add, rule) => self.netlink.add_rule(rule),
            Step::Rule(Put::Remove, rule) => self.netlink.delete_rule(rule),
            Step::Twin(Put::Add, twin) => self.netlink.add_route(twin),
            Step::Twin(Put::Remove, twin) => self.netlink.delete_route(twin),
        };
        let (put, v6) = match step {
            Step::Rule(put, rule) => (*put, rule.family == Family::V6),
            Step::Twin(put, twin) => (*put, twin.network.is_ipv6()),
            Step::Table { .. } => (Put::Add, false),
        };
        let Err(error) = done else { return Ok(()) };
        let errno = error.errno().unwrap_or_default();
        match put {
            Put::Add if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Put::Remove if [libc::ENOENT, libc::ESRCH].contains(&errno) => Ok(()),
            _ if v6 && IPV6_OFF.contains(&errno) => Ok(()),
            _ => Err(failure(&self.name, error)),
        }
    }

    fn put_table(&mut self, from: Option<&Table>, to: Option<&Table>) -> Result<(), Failure> {
        let Some((nft, _)) = &self.nft else {
            return Ok(());
        };
        let done = match (from, to) {
            (_, Some(table)) => nft.load(table).map(drop),
            (Some(table), None) => nft.delete(&table.name),
            (None, None) => Ok(()),
        };
        match done {
            Err(NftError::Missing) => {
                self.nft = None;
                Ok(())
            }
            other => other.map_err(|error| failure(&self.name, error)),
        }
    }
}

fn failure(name: &str, error: impl ToString) -> Failure {
    Failure::new(format!("guard of {name}"), error, "")
}
