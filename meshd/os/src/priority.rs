//! Who goes first when processors are scarce: threads that deliver packets, before the programs whose packets they are.
//!
//! Strategy: a nice value of -3. A thread that takes turns with programs instead adds their time slices, milliseconds, to every
//! packet, and the kernel's own network stack precedes programs altogether. The process is put first while it still has the
//! privilege, threads inherit it, and one that has no need of it steps back by itself.
//!
//! Whoever started the process with a nice value of its own (systemd's `Nice=`, nice(1)) has decided: nothing is changed then.
//!
//! What it does not do: leave the share that a control group or a session (autogroup) gives.
//!
//! Source: sched(7), "The nice value" and "The autogroup feature".
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Context, Result};
use crate::sys;

/// What an echo needs to overtake a full TCP load, of BBR too: at -2 it takes half as long again, for 5 % more TCP. The further ahead,
/// the more often the threads run and the less they find to do at once: at -6 a gigabyte takes 8 % more processor time, at -10 12 %.
const FIRST: libc::c_int = -3;
const USUAL: libc::c_int = 0;

/// Whether [`go_first`] has put this process first.
static AHEAD: AtomicBool = AtomicBool::new(false);

/// Puts the calling thread first, and all that it starts later, unless somebody else has chosen a nice value for it.
///
/// # Errors
/// It isn't permitted (CAP_SYS_NICE or RLIMIT_NICE).
pub fn go_first() -> Result<()> {
    if current() == USUAL {
        set(FIRST).context(|| "go before other programs")?;
        AHEAD.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether this process goes first because [`go_first`] has put it there.
pub fn is_ahead() -> bool {
    AHEAD.load(Ordering::Relaxed)
}

/// Takes the calling thread back among all others, if [`go_first`] has put it before them.
pub fn step_back() {
    if is_ahead() {
        // Only a thread that isn't ahead can be forbidden this.
        let _ = set(USUAL);
    }
}

fn set(nice: libc::c_int) -> std::io::Result<()> {
    // SAFETY: no pointers are passed; 0 is the calling thread (setpriority(2), "C library/kernel differences").
    sys::check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }).map(drop)
}

fn current() -> libc::c_int {
    // SAFETY: no pointers are passed. An error can't be told from the value -1, but there is none for the caller itself.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_its_children_go_first_until_they_step_back() {
        let before = current();
        if before != USUAL {
            eprintln!("skipped: these tests run at a nice value of {before}");
            return;
        }
        // In a thread of its own, since it can't be taken back without leave.
        let inside = || {
            if let Err(why) = go_first() {
                eprintln!("skipped: {why}");
                return;
            }
            let child = || {
                let first = current();
                step_back();
                (first, current())
            };
            assert_eq!(std::thread::spawn(child).join().unwrap(), (FIRST, USUAL));
            assert_eq!(current(), FIRST);
        };
        std::thread::spawn(inside).join().unwrap();
        assert_eq!(current(), before, "others stay");
    }

    #[test]
    fn a_value_that_somebody_chose_is_left_alone() {
        // In a thread of its own: one that is nicer needs leave to come back.
        let inside = || {
            for chosen in [3, 7] {
                set(chosen).unwrap();
                go_first().unwrap();
                assert_eq!(current(), chosen);
            }
        };
        std::thread::spawn(inside).join().unwrap();
    }
}
