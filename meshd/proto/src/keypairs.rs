//! A peer's sessions: current, previous and next (the kernel's `noise_keypairs`; paper section 6.1).
//!
//! An initiator may use its new session at once, since the response shows that the other end has it. A responder must
//! first see a message under it: until then the session waits as *next*. *Previous* is kept for packets that were
//! under way. Where the kernel drops one that the other end may still send with (after handshakes that crossed, each end
//! sends with its own), we keep it a few changes longer as *fading*, so that nothing under way is lost. Every change gives
//! back the sessions that it dropped, whose indices must be forgotten.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::kept::Role;
use crate::session::Session;
use crate::time::Time;

/// Sessions kept beyond the three of the kernel.
const FADING: usize = 3;

/// The sessions of a peer: up to three, and those that fade.
#[derive(Debug, Default)]
pub(crate) struct Keypairs {
    pub current: Option<Arc<Session>>,
    pub previous: Option<Arc<Session>>,
    pub next: Option<Arc<Session>>,
    /// Only for receiving, oldest first.
    fading: VecDeque<Arc<Session>>,
}

/// Sessions that are no longer held.
pub(crate) type Dropped = Vec<Arc<Session>>;

impl Keypairs {
    /// Puts the sessions of a predecessor back; two for one part can't be.
    pub fn restore(&mut self, role: Role, session: Arc<Session>) -> bool {
        let part = match role {
            Role::Current => &mut self.current,
            Role::Previous => &mut self.previous,
            Role::Next => &mut self.next,
            Role::Fading => {
                let room = self.fading.len() < FADING;
                if room {
                    self.fading.push_back(session);
                }
                return room;
            }
            Role::Dropped => return false,
        };
        let vacant = part.is_none();
        if vacant {
            *part = Some(session);
        }
        vacant
    }

    /// Writes down what each session is now, where they are kept.
    pub fn keep(&self) {
        let parts = [
            (Role::Current, &self.current),
            (Role::Previous, &self.previous),
            (Role::Next, &self.next),
        ];
        for (role, part) in parts {
            if let Some(session) = part {
                session.keep_as(role);
            }
        }
        for session in &self.fading {
            session.keep_as(Role::Fading);
        }
    }

    /// Takes a new session in (kernel noise.c `add_new_keypair`).
    pub fn install(&mut self, session: Arc<Session>, now: Time) -> Dropped {
        let mut dropped = self.faded(now);
        if session.is_initiator() {
            dropped.extend(self.fade(now));
            // A session that was waiting to be confirmed is newer than the one in use.
            self.previous = match self.next.take() {
                Some(next) => {
                    self.previous = self.current.take();
                    dropped.extend(self.fade(now));
                    Some(next)
                }
                None => self.current.take(),
            };
            self.current = Some(session);
        } else {
            // One that was never used has nothing under way.
            dropped.extend(self.next.replace(session));
            dropped.extend(self.fade(now));
        }
        dropped
    }

    /// The previous session is replaced: it is kept aside if anything can still come under it.
    fn fade(&mut self, now: Time) -> Option<Arc<Session>> {
        let previous = self.previous.take()?;
        if !previous.can_receive(now) {
            return Some(previous);
        }
        self.fading.push_back(previous);
        if self.fading.len() > FADING {
            self.fading.pop_front()
        } else {
            None
        }
    }

    /// Those that can't be received with any more, and needn't be kept.
    fn faded(&mut self, now: Time) -> Dropped {
        let (kept, faded) = core::mem::take(&mut self.fading)
            .into_iter()
            .partition::<VecDeque<_>, _>(|session| session.can_receive(now));
        self.fading = kept;
        faded.into()
    }

    /// The next session was used by its initiator: it becomes the current one. `None` if there is no such.
    pub fn confirm(&mut self, now: Time) -> Option<Dropped> {
        use core::sync::atomic::Ordering::SeqCst;
        let next = self.next.take_if(|next| next.confirmed.load(SeqCst))?;
        let dropped = self.fade(now).into_iter().collect();
        self.previous = self.current.replace(next);
        Some(dropped)
    }

    /// The session to send with at this moment.
    pub fn sending(&self, now: Time) -> Option<&Arc<Session>> {
        self.current
            .as_ref()
            .filter(|session| session.can_send(now))
    }

    /// Whether the current session ends before its time, as its keys are gone.
    pub fn current_ends_early(&self) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|session| session.ends_early())
    }

    /// Our static key has changed: nothing may be sent under these any more (kernel
    /// `wg_noise_expire_current_peer_keypairs`).
    pub fn expire(&self) {
        for session in self.current.iter().chain(&self.next) {
            session.forbid_sending();
        }
    }

    /// All that are held.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Session>> {
        let three = [&self.current, &self.previous, &self.next];
        three.into_iter().flatten().chain(&self.fading)
    }

    /// Lets go of all.
    pub fn clear(&mut self) -> Dropped {
        let Self {
            current,
            previous,
            next,
            fading,
        } = core::mem::take(self);
        let three = [current, previous, next].into_iter().flatten();
        three.chain(fading).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secret;
    use crate::handshake::SessionKeys;
    use core::sync::atomic::Ordering;

    fn session(index: u32, initiator: bool) -> Arc<Session> {
        let keys = SessionKeys {
            send: Secret::new([1; 32]),
            receive: Secret::new([2; 32]),
        };
        Arc::new(Session::new(&keys, (index, 0), initiator, Time(0), [0; 3]))
    }

    fn index(session: &Option<Arc<Session>>) -> u32 {
        session.as_ref().map_or(0, |session| session.local_index())
    }

    fn state(keypairs: &Keypairs) -> [u32; 3] {
        [
            index(&keypairs.previous),
            index(&keypairs.current),
            index(&keypairs.next),
        ]
    }

    fn indices(dropped: Dropped) -> Vec<u32> {
        dropped
            .iter()
            .map(|session| session.local_index())
            .collect()
    }

    #[test]
    fn an_initiator_uses_its_session_at_once() {
        let mut keypairs = Keypairs::default();
        assert!(indices(keypairs.install(session(1, true), Time(0))).is_empty());
        assert!(indices(keypairs.install(session(2, true), Time(0))).is_empty());
        assert!(indices(keypairs.install(session(3, true), Time(0))).is_empty());
        assert_eq!(state(&keypairs), [2, 3, 0]);
        for number in 4..6 {
            assert!(indices(keypairs.install(session(number, true), Time(0))).is_empty());
        }
        assert_eq!(indices(keypairs.install(session(6, true), Time(0))), [1]);
        let later = Time(0).after(crate::messages::REJECT_AFTER_TIME);
        let dropped = keypairs.install(session(7, true), later);
        assert_eq!(
            indices(dropped),
            [2, 3, 4, 5],
            "nothing comes under them any more"
        );
    }

    #[test]
    fn a_responder_waits_for_the_first_packet() {
        let mut keypairs = Keypairs::default();
        keypairs.install(session(1, false), Time(0));
        assert_eq!(state(&keypairs), [0, 0, 1]);
        assert!(keypairs.confirm(Time(0)).is_none(), "nothing has come yet");
        keypairs
            .next
            .as_ref()
            .unwrap()
            .confirmed
            .store(true, Ordering::SeqCst);
        assert!(indices(keypairs.confirm(Time(0)).unwrap()).is_empty());
        assert_eq!(state(&keypairs), [0, 1, 0]);
        assert!(indices(keypairs.install(session(2, false), Time(0))).is_empty());
        assert_eq!(
            indices(keypairs.install(session(3, false), Time(0))),
            [2],
            "the initiator tried again"
        );
        keypairs
            .next
            .as_ref()
            .unwrap()
            .confirmed
            .store(true, Ordering::SeqCst);
        keypairs.confirm(Time(0));
        assert_eq!(state(&keypairs), [1, 3, 0]);
    }

    #[test]
    fn both_ends_initiating_at_once_keeps_both_sessions() {
        let mut keypairs = Keypairs::default();
        keypairs.install(session(1, true), Time(0));
        keypairs.install(session(2, false), Time(0));
        assert!(
            indices(keypairs.install(session(3, true), Time(0))).is_empty(),
            "packets under way are under the first"
        );
        assert_eq!(state(&keypairs), [2, 3, 0]);
        assert_eq!(indices(keypairs.clear()), [3, 2, 1]);
    }

    #[test]
    fn an_expired_session_does_not_send() {
        let mut keypairs = Keypairs::default();
        keypairs.install(session(1, true), Time(0));
        assert!(keypairs.sending(Time(1)).is_some());
        keypairs.expire();
        assert!(keypairs.sending(Time(1)).is_none());
        assert_eq!(indices(keypairs.clear()), [1]);
    }
}
