//! Network namespaces of the calling thread.
//!
//! A TUN, a socket or a netlink conversation belongs to the namespace it was made in and stays usable from any other.
use crate::error::{Context, Result};
use crate::sys;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A handle on the calling thread's network namespace; the namespace lives as long as the handle.
pub fn current() -> Result<OwnedFd> {
    File::open("/proc/thread-self/ns/net")
        .map(OwnedFd::from)
        .context(|| "open this network namespace")
}

/// Moves the calling thread into another network namespace (CAP_SYS_ADMIN).
pub fn enter(namespace: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: integers only.
    sys::check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
        .context(|| "enter a network namespace")?;
    Ok(())
}

/// Moves the calling thread into a new, empty network namespace (CAP_SYS_ADMIN).
pub fn unshare() -> Result<()> {
    // SAFETY: integers only; threads started before are not concerned.
    sys::check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
        .context(|| "make a network namespace")?;
    Ok(())
}

/// Runs `f` in `namespace` and returns to where the thread was. When the way back fails the thread must not go on, so that is
/// the error returned even though `f` ran.
pub fn within<T>(namespace: &impl AsFd, f: impl FnOnce() -> T) -> Result<T> {
    let home = current()?;
    enter(namespace.as_fd())?;
    let answer = f();
    enter(home.as_fd())?;
    Ok(answer)
}
