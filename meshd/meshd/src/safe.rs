//! Safe apply: stage, switch, confirm, rollback as a pure state machine (docs/reference/contracts.md §3).
//!
//! It knows configurations by their identifier alone (hex SHA-256 of their bytes) and instants as seconds on the boot
//! clock, which goes on while the host sleeps. It holds no timer and applies nothing: the control thread asks it, does
//! what it says and tells it the outcome. A daemon that dies in between starts again from the confirmed configuration,
//! so nothing here needs to survive.

use std::time::Duration;

/// Identifier of a configuration: lower-case hex SHA-256 of its bytes.
pub type Id = String;

/// How long a controller that was told "go" has to report that NAME.conf is written.
pub const GRACE: Duration = Duration::from_secs(30);

/// Where a mesh stands between two configurations. Instants are durations since boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Safe {
    confirmed: Id,
    staged: Option<Id>,
    switched: Option<Switched>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Switched {
    id: Id,
    deadline: Duration,
}

/// Why something is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing with this identifier is staged.
    NotStaged,
    /// Nothing, or something else, is switched.
    NotSwitched,
}

/// What a confirmation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// It is confirmed already: nothing to do.
    Already,
    /// Judge the links, have NAME.conf written, then call [`Safe::confirmed`].
    Judge,
}

impl Safe {
    /// The state of a daemon that has just loaded the confirmed configuration.
    pub fn new(confirmed: Id) -> Self {
        Self {
            confirmed,
            staged: None,
            switched: None,
        }
    }

    /// A configuration was checked and kept. One that is already switched stays so.
    pub fn stage(&mut self, id: Id) {
        self.staged = Some(id);
    }

    /// Whether `id` may be taken live. The configuration in force, live or confirmed, may be taken again: that heals
    /// what was changed behind our back.
    pub fn may_switch(&self, id: &str) -> Result<(), Refusal> {
        if self.staged.as_deref() == Some(id) {
            Ok(())
        } else {
            Err(Refusal::NotStaged)
        }
    }

    /// The staged configuration was taken live at `now` and has to be confirmed `within`. Switching twice begins the
    /// time anew; what is returned to stays the confirmed one.
    pub fn switched(&mut self, id: Id, now: Duration, within: Duration) {
        self.switched = Some(Switched {
            id,
            deadline: now.saturating_add(within),
        });
    }

    /// Whether `id` may be confirmed.
    pub fn may_confirm(&self, id: &str) -> Result<Confirm, Refusal> {
        match &self.switched {
            Some(switched) if switched.id == id => Ok(Confirm::Judge),
            None if self.confirmed == id => Ok(Confirm::Already),
            _ => Err(Refusal::NotSwitched),
        }
    }

    /// The links are judged good at `now`: there is time enough for NAME.conf to be written.
    pub fn hold(&mut self, now: Duration) {
        if let Some(switched) = &mut self.switched {
            switched.deadline = switched.deadline.max(now.saturating_add(GRACE));
        }
    }

    /// NAME.conf now holds `id`.
    pub fn confirmed(&mut self, id: &str) -> Result<(), Refusal> {
        if self.may_confirm(id)? == Confirm::Judge {
            self.confirmed = id.to_owned();
            self.switched = None;
            if self.staged.as_deref() == Some(id) {
                self.staged = None;
            }
        }
        Ok(())
    }

    /// The configuration in force is the confirmed one again.
    pub fn rolled_back(&mut self) {
        self.switched = None;
    }

    /// When to return by itself; `None`: nothing is pending.
    pub fn deadline(&self) -> Option<Duration> {
        self.switched.as_ref().map(|switched| switched.deadline)
    }

    /// Whether the time has run out at `now`.
    pub fn is_due(&self, now: Duration) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// What is staged.
    pub fn staged_id(&self) -> Option<&str> {
        self.staged.as_deref()
    }

    /// What is live and not confirmed.
    pub fn switched_id(&self) -> Option<&str> {
        self.switched.as_ref().map(|switched| switched.id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn switched() -> Safe {
        let mut safe = Safe::new("old".into());
        safe.stage("new".into());
        safe.switched("new".into(), at(100), MINUTE);
        safe
    }

    #[test]
    fn only_what_is_staged_can_be_switched() {
        let mut safe = Safe::new("old".into());
        assert_eq!(safe.may_switch("new"), Err(Refusal::NotStaged));
        safe.stage("new".into());
        assert_eq!(safe.may_switch("other"), Err(Refusal::NotStaged));
        assert_eq!(safe.may_switch("new"), Ok(()));
    }

    #[test]
    fn confirmed_in_time() {
        let mut safe = switched();
        assert_eq!(safe.may_confirm("new"), Ok(Confirm::Judge));
        safe.confirmed("new").unwrap();
        assert_eq!(
            (safe.confirmed.as_str(), safe.deadline(), safe.staged_id()),
            ("new", None, None)
        );
        assert_eq!(safe.may_confirm("new"), Ok(Confirm::Already));
        assert_eq!(safe.may_confirm("old"), Err(Refusal::NotSwitched));
    }

    #[test]
    fn time_runs_out() {
        let mut safe = switched();
        assert!(!safe.is_due(at(159)));
        assert!(safe.is_due(at(160)));
        safe.rolled_back();
        assert_eq!(
            (safe.confirmed.as_str(), safe.deadline(), safe.staged_id()),
            ("old", None, Some("new"))
        );
        assert_eq!(safe.may_confirm("new"), Err(Refusal::NotSwitched));
        assert_eq!(safe.may_confirm("old"), Ok(Confirm::Already));
    }

    #[test]
    fn old_confirmed_one_cannot_be_confirmed_while_another_is_live() {
        assert_eq!(switched().may_confirm("old"), Err(Refusal::NotSwitched));
    }

    #[test]
    fn good_links_give_time_to_write() {
        let mut safe = switched();
        safe.hold(at(159));
        assert!(!safe.is_due(at(188)));
        assert!(safe.is_due(at(189)));
        let mut early = switched();
        early.hold(at(101));
        assert_eq!(
            early.deadline(),
            Some(at(160)),
            "never shorter than promised"
        );
    }

    #[test]
    fn switching_again_begins_the_time_anew_and_returns_to_the_same() {
        let mut safe = switched();
        safe.stage("newer".into());
        assert_eq!(safe.may_confirm("newer"), Err(Refusal::NotSwitched));
        safe.switched("newer".into(), at(150), MINUTE);
        assert_eq!(safe.deadline(), Some(at(210)));
        assert_eq!(safe.may_confirm("new"), Err(Refusal::NotSwitched));
        safe.rolled_back();
        assert_eq!(safe.confirmed.as_str(), "old");
    }

    #[test]
    fn endless_time_does_not_overflow() {
        let mut safe = Safe::new("old".into());
        safe.stage("new".into());
        safe.switched("new".into(), at(1), Duration::MAX);
        assert!(!safe.is_due(at(u64::MAX / 2)));
    }
}
