//! What the command asks, answered: at once, or when probes have said enough.

use std::time::Duration;

use meshd_proto::Time;
use zeroize::Zeroizing;

use super::mesh::{to_duration, Ending, Link, Mesh};
use super::wire::{Request, Response, WireFailure, MAX_LINE};
use super::{live, loaded::Loaded, world};
use crate::conf::Secret;
use crate::exit;
use crate::failure::{Exit, Failure};
use crate::safe::{Confirm, Id, Refusal, Safe};

/// How long the links may take to show which of them are alive before a switch.
const BASELINE: Duration = Duration::from_millis(1500);
/// How long a confirmation waits for links that weren't alive before: they are reported, and never a reason to refuse.
const NEWCOMERS: Duration = Duration::from_millis(2500);
/// The longest probing anybody may ask for.
const LONGEST: Duration = Duration::from_secs(600);

/// A request that waits for probes.
pub struct Waiting {
    token: u64,
    what: Awaited,
    until: Time,
}

enum Awaited {
    Switch {
        id: Id,
        within: Duration,
    },
    Judge {
        id: Id,
        force: bool,
        newcomers: Time,
    },
    Ping,
}

impl Waiting {
    /// When it must be looked at again whatever the probes say.
    pub fn next_timeout(&self) -> Time {
        match &self.what {
            Awaited::Judge { newcomers, .. } if *newcomers > world::now() => {
                self.until.min(*newcomers)
            }
            _ => self.until,
        }
    }
}

impl Mesh {
    /// Serves a connection of the command. Whatever is wrong with it ends it and nothing else.
    pub(super) fn converse(&mut self, token: u64) {
        let Some(conversation) = self.conversations.get_mut(&token) else {
            return;
        };
        if conversation.receive(MAX_LINE).is_err() {
            self.hang_up(token);
            return;
        }
        while let Some(request) = self.next_request(token) {
            match serde_json::from_slice(&request) {
                Ok(request) => self.request(token, request),
                Err(error) => {
                    let failure = Failure::new(
                        &self.name,
                        format!("the request cannot be read: {error}"),
                        "is the command of another version?",
                    );
                    self.answer(token, &Vec::from(failure).into());
                }
            }
        }
        self.send_answers(token);
    }

    /// The next one of a connection, unless one of it waits for its answer: answers come in the order of their requests.
    fn next_request(&mut self, token: u64) -> Option<Zeroizing<Vec<u8>>> {
        if self.waiting.iter().any(|waiting| waiting.token == token) {
            return None;
        }
        self.conversations.get_mut(&token)?.next(b"\n")
    }

    fn request(&mut self, token: u64, request: Request) {
        let now = world::now();
        let outcome = match request {
            Request::Stage { id, conf, key } => self
                .stage(&id, &conf, key.as_deref())
                .map(|()| Some(Response::Done)),
            Request::Switch { id, within_s } => self
                .begin_switch(token, id, seconds(within_s))
                .map(|()| None),
            Request::Judge { id, wait_s, force } => {
                self.begin_judge(token, id, seconds(wait_s), force)
            }
            Request::Confirmed { id } => match self.make_confirmed(&id) {
                Ok(()) => Ok(Some(Response::Done)),
                Err(refusal) => Err(self.refused(refusal, &id).into()),
            },
            Request::Rollback => self
                .go_back()
                .map(|()| Some(Response::Done))
                .map_err(Vec::from),
            Request::Remove => self
                .forget()
                .map(|()| Some(Response::Done))
                .map_err(Vec::from),
            Request::Space { namespace } => self
                .space_comes(token, &namespace)
                .map(|()| Some(Response::Done)),
            Request::Status => Ok(Some(Response::Status(Box::new(self.status())))),
            Request::Ping { wait_s } => {
                let wait = seconds(wait_s).min(LONGEST);
                self.begin_probes(wait);
                self.waiting.push(Waiting {
                    token,
                    what: Awaited::Ping,
                    until: now.after(wait),
                });
                Ok(None)
            }
            Request::Report => match self.report() {
                Ok(report) => Ok(Some(Response::Report(Box::new(report)))),
                Err(failure) => Err(failure.into()),
            },
            Request::Upgrade => match self.may_upgrade() {
                Ok(()) if self.engine.store.is_supervised() => {
                    self.ending = Some(Ending::Leave);
                    Ok(Some(Response::Done))
                }
                Ok(()) => Ok(Some(Response::Restart)),
                Err(failure) => Err(failure.into()),
            },
            Request::Stop => {
                self.ending = Some(Ending::Stop);
                Ok(Some(Response::Done))
            }
        };
        match outcome {
            Ok(Some(response)) => self.answer(token, &response),
            Ok(None) => {}
            Err(failures) => self.answer(token, &failures.into()),
        }
    }

    fn stage(&mut self, id: &str, conf: &str, key: Option<&str>) -> Result<(), Vec<Failure>> {
        let key = match key {
            Some(text) => Some(Secret::parse(text).map_err(|fault| {
                Failure::new("PrivateKeyFile", fault.what, fault.hint).exit(Exit::BadConf)
            })?),
            None => None,
        };
        let loaded = Loaded::read(conf.as_bytes(), key)?;
        if loaded.id != id {
            let why = format!("the SHA-256 of what came in is {}, not {id}", loaded.id);
            return Err(Failure::new("stage", why, "stage it again")
                .exit(Exit::BadConf)
                .into());
        }
        live::check(&self.engine, &self.name, &loaded)?;
        if let Some(conf) = exit::wanted(loaded.conf.as_ref()) {
            self.way_out.check(conf)?;
        }
        self.safe.stage(loaded.id.clone());
        self.staged = Some(loaded);
        // So that it is known at the switch which links are alive before it.
        self.begin_probes(BASELINE);
        Ok(())
    }

    fn begin_switch(&mut self, token: u64, id: Id, within: Duration) -> Result<(), Vec<Failure>> {
        self.safe
            .may_switch(&id)
            .map_err(|refusal| self.refused(refusal, &id))?;
        let until = world::now().after(BASELINE);
        self.waiting.push(Waiting {
            token,
            what: Awaited::Switch { id, within },
            until,
        });
        Ok(())
    }

    fn switch(&mut self, id: &Id, within: Duration) -> Result<Response, Vec<Failure>> {
        self.safe
            .may_switch(id)
            .map_err(|refusal| self.refused(refusal, id))?;
        let Some(loaded) = self.staged.clone() else {
            return Err(self.refused(Refusal::NotStaged, id).into());
        };
        // Switched twice, links count as alive before that were so before the first: that is what is returned to.
        if self.switched.is_none() {
            self.alive_before = self.alive_links();
        }
        live::check(&self.engine, &self.name, &loaded)?;
        if let Some(conf) = exit::wanted(loaded.conf.as_ref()) {
            self.way_out.check(conf)?;
        }
        self.take_live(&loaded)?;
        self.safe
            .switched(id.clone(), to_duration(world::now()), within);
        self.switched = Some(loaded);
        Ok(Response::Status(Box::new(self.status())))
    }

    fn alive_links(&self) -> Vec<Link> {
        let alive = self
            .configured_peers()
            .filter(|peer| self.links.vitals(&peer.public_key).is_some_and(|v| v.alive));
        alive
            .map(|peer| Link {
                key: peer.public_key,
                next: peer.next_public_key,
                name: peer.name.clone(),
            })
            .collect()
    }

    fn begin_judge(
        &mut self,
        token: u64,
        id: Id,
        wait: Duration,
        force: bool,
    ) -> Result<Option<Response>, Vec<Failure>> {
        match self.safe.may_confirm(&id) {
            Err(refusal) => Err(self.refused(refusal, &id).into()),
            Ok(Confirm::Already) => Ok(Some(Response::Already)),
            Ok(Confirm::Judge) => {
                let (now, wait) = (world::now(), wait.min(LONGEST));
                self.begin_probes(wait);
                let what = Awaited::Judge {
                    id,
                    force,
                    newcomers: now.after(NEWCOMERS),
                };
                self.waiting.push(Waiting {
                    token,
                    what,
                    until: now.after(wait),
                });
                Ok(None)
            }
        }
    }

    /// Answers the waiting requests that have waited enough.
    pub(super) fn settle_waiting(&mut self, now: Time) {
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| self.is_settled(waiting, now));
        self.waiting = waiting;
        for Waiting { token, what, .. } in done {
            let outcome = match what {
                Awaited::Switch { id, within } => self.switch(&id, within),
                Awaited::Judge { id, force, .. } => self.judge(&id, force),
                Awaited::Ping => Ok(Response::Status(Box::new(self.status()))),
            };
            self.answer(token, &outcome.unwrap_or_else(Response::from));
            // With what it has asked meanwhile.
            self.converse(token);
        }
    }

    fn is_settled(&self, waiting: &Waiting, now: Time) -> bool {
        if now >= waiting.until || self.links.running_since().is_none() {
            return true;
        }
        match &waiting.what {
            Awaited::Judge { newcomers, .. } => {
                let before = self
                    .alive_before
                    .iter()
                    .filter_map(|link| self.successor(link));
                now >= *newcomers && self.links.settled(before.map(|peer| &peer.public_key))
            }
            Awaited::Switch { .. } | Awaited::Ping => false,
        }
    }

    /// Every link that was alive before the switch must be alive.
    fn judge(&mut self, id: &Id, force: bool) -> Result<Response, Vec<Failure>> {
        self.safe
            .may_confirm(id)
            .map_err(|refusal| self.refused(refusal, id))?;
        self.links.finish(world::now());
        let status = self.status();
        let lost = |link: &&Link| {
            let peer = self
                .successor(link)
                .filter(|peer| !super::running::is_expired(peer, world::utc()));
            peer.is_some_and(|peer| {
                self.links
                    .vitals(&peer.public_key)
                    .is_none_or(|vitals| !vitals.alive)
            })
        };
        let dead: Vec<WireFailure> = self
            .alive_before
            .iter()
            .filter(lost)
            .map(|link| {
                let key = self
                    .successor(link)
                    .map(|peer| crate::conf::ToBase64::to_base64(&peer.public_key));
                let peer = status
                    .peers
                    .iter()
                    .find(|peer| Some(&peer.public_key) == key.as_ref());
                let reason = peer
                    .and_then(|peer| peer.reason.clone())
                    .unwrap_or_else(|| "no answer".to_owned());
                let name = link.name.clone().or(key).unwrap_or_default();
                let why = format!("{name} was alive before the switch and is not now: {reason}");
                Failure::new("confirm", why, "it goes back by itself; --force keeps it").into()
            })
            .collect();
        if dead.is_empty() || force {
            self.safe.hold(to_duration(world::now()));
        }
        Ok(Response::Judged {
            status: Box::new(status),
            dead,
        })
    }

    /// Whether a successor would come, and would find everything.
    fn may_upgrade(&self) -> Result<(), Failure> {
        if self.switched.is_some() {
            let why = "a configuration is live that nobody has confirmed yet";
            return Err(Failure::new(&self.name, why, "confirm it, or roll back"));
        }
        if !self.engine.store.keeps() {
            let why = "nobody would start the daemon again";
            let hint = "run it by its service or by `meshd start`; else stop it and run it anew";
            return Err(Failure::new(&self.name, why, hint));
        }
        Ok(())
    }

    /// Absent from now on.
    fn forget(&mut self) -> Result<(), Failure> {
        self.confirmed = Loaded::absent();
        self.unread = false;
        self.safe = Safe::new(self.confirmed.id.clone());
        self.staged = None;
        self.switched = None;
        self.take_live(&Loaded::absent())?;
        self.settle_spaces();
        self.alive_before.clear();
        self.trouble.clear();
        Ok(())
    }

    fn refused(&self, refusal: Refusal, id: &str) -> Failure {
        let (why, hint) = match refusal {
            Refusal::NotStaged => ("it is not staged", "stage it first"),
            Refusal::NotSwitched => (
                "it is not live and waiting to be confirmed",
                "it may have gone back by itself: see `meshd report`",
            ),
        };
        Failure::new(format!("configuration {id}"), why, hint).exit(Exit::NothingToConfirm)
    }

    fn answer(&mut self, token: u64, response: &Response) {
        let Some(conversation) = self.conversations.get_mut(&token) else {
            return;
        };
        match serde_json::to_vec(response) {
            Ok(mut bytes) => {
                bytes.push(b'\n');
                conversation.answer(&bytes);
            }
            // Nothing in a response can fail to be written as JSON; if it does, the other end sees us hang up.
            Err(_) => drop(self.conversations.remove(&token)),
        }
    }

    fn send_answers(&mut self, token: u64) {
        let Some(conversation) = self.conversations.get_mut(&token) else {
            return;
        };
        let more = conversation.flush(self.engine.poller(), token);
        if !more.unwrap_or(false) {
            self.hang_up(token);
        }
    }

    /// Nobody is there to hear an answer any more; a switch that nobody waits for isn't made.
    fn hang_up(&mut self, token: u64) {
        self.conversations.remove(&token);
        self.waiting.retain(|waiting| waiting.token != token);
        // Somebody may wait for its descriptor.
        self.accept();
    }
}

/// Seconds from the wire, where anything may stand.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
