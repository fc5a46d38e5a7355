//! Waiting: an epoll set, a wake-up (eventfd), an alarm (timerfd on CLOCK_BOOTTIME) and signals (signalfd).
//!
//! Strategy: each is one descriptor with a safe face; the control thread sleeps in `Poller::wait`, packet threads in
//! `wait_readable`. Level-triggered, so that a reader which leaves something behind is woken again; but for listening sockets,
//! where there may be nothing to take it up with ([`crate::uapi_socket::Listener::accept`]).
use crate::error::{Context, Error, Result};
use crate::sys::{self, Zeroed};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A wake-up that any thread can raise and one waits for (eventfd).
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// A wake-up not yet raised.
    pub fn new() -> Result<Self> {
        // SAFETY: no pointers are passed.
        sys::own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
            .map(Self)
            .context(|| "create an eventfd")
    }

    /// Raises it. Raising what is already raised does nothing more.
    pub fn raise(&self) {
        // The one possible error is EAGAIN when the counter is full, and then it is raised already.
        let _ = sys::write(self.0.as_fd(), &1u64.to_ne_bytes());
    }

    /// Lowers it; says whether it was raised.
    pub fn lower(&self) -> bool {
        sys::read(self.0.as_fd(), &mut [0u8; 8]).is_ok()
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An alarm clock (timerfd), on CLOCK_BOOTTIME unless made otherwise: that one also counts time slept in suspend.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// An alarm that is not set.
    pub fn new() -> Result<Self> {
        Self::on(libc::CLOCK_BOOTTIME)
    }

    /// One on CLOCK_REALTIME, set in nanoseconds since 1970. It follows the clock when that is set: where it jumps past the
    /// time, it rings (timerfd_create(2), TFD_TIMER_ABSTIME).
    pub fn on_calendar() -> Result<Self> {
        Self::on(libc::CLOCK_REALTIME)
    }

    fn on(clock: libc::clockid_t) -> Result<Self> {
        // SAFETY: no pointers are passed.
        sys::own(unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })
            .map(Self)
            .context(|| "create a timerfd")
    }

    /// Rings once at `at_ns` on its clock ([`crate::clock::boottime_ns`]); at once when that has passed; `None` turns it off.
    pub fn set(&self, at_ns: Option<u64>) -> Result<()> {
        let value = match at_ns {
            None => libc::timespec::zeroed(),
            // Zero would turn the alarm off: the earliest time is 1 ns.
            Some(at) => {
                let at = at.max(1);
                let mut ts = libc::timespec::zeroed();
                // 2^64 ns are 584 years of seconds, which every time_t of a 64-bit system holds.
                ts.tv_sec = (at / 1_000_000_000) as _;
                ts.tv_nsec = (at % 1_000_000_000) as _;
                ts
            }
        };
        let spec = libc::itimerspec {
            it_interval: libc::timespec::zeroed(),
            it_value: value,
        };
        // SAFETY: `spec` is live and only read; the old value is not asked for.
        sys::check(unsafe {
            libc::timerfd_settime(
                self.0.as_raw_fd(),
                libc::TFD_TIMER_ABSTIME,
                &spec,
                std::ptr::null_mut(),
            )
        })
        .context(|| "set the alarm")?;
        Ok(())
    }

    /// Silences a ringing alarm; says whether it rang.
    pub fn clear(&self) -> bool {
        sys::read(self.0.as_fd(), &mut [0u8; 8]).is_ok()
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Signals as readable events (signalfd). The signals are blocked in the calling thread and all threads it starts later,
/// so make it before any thread.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks `signals` (`libc::SIGTERM`, …) and delivers them here instead.
    pub fn new(signals: &[i32]) -> Result<Self> {
        let mut set = libc::sigset_t::zeroed();
        // SAFETY: `set` is live for the three calls, which read or write nothing else.
        let fd = unsafe {
            libc::sigemptyset(&mut set);
            for &signal in signals {
                libc::sigaddset(&mut set, signal);
            }
            let ret = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            if ret != 0 {
                return Err(Error::new(
                    "block signals",
                    io::Error::from_raw_os_error(ret),
                ));
            }
            libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        sys::own(fd).map(Self).context(|| "create a signalfd")
    }

    /// The next signal that has arrived, or `None`.
    pub fn next(&self) -> Option<i32> {
        let mut info = [0u8; std::mem::size_of::<libc::signalfd_siginfo>()];
        match sys::read(self.0.as_fd(), &mut info) {
            // The number is the structure's first field, a u32.
            Ok(n) if n >= 4 => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a descriptor became, with the token it was added under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The caller's name for the descriptor.
    pub token: u64,
    /// There is something to read, or the other end closed.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The descriptor failed or hung up (a deleted TUN, a closed peer).
    pub failed: bool,
}

/// An epoll set.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// An empty set.
    pub fn new() -> Result<Self> {
        // SAFETY: no pointers are passed.
        sys::own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
            .map(Self)
            .context(|| "create an epoll set")
    }

    fn control(&self, op: libc::c_int, fd: BorrowedFd<'_>, token: u64, bits: i32) -> Result<()> {
        let mut event = libc::epoll_event {
            events: bits as u32,
            u64: token,
        };
        // SAFETY: `event` is live; the kernel copies it.
        sys::check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd.as_raw_fd(), &mut event) })
            .context(|| "change an epoll set")?;
        Ok(())
    }

    /// Waits for `fd` to become readable from now on.
    pub fn add(&self, fd: impl AsFd, token: u64) -> Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), token, libc::EPOLLIN)
    }

    /// The same, but what was left behind wakes nobody again: only more that comes does.
    pub fn add_edge(&self, fd: impl AsFd, token: u64) -> Result<()> {
        let bits = libc::EPOLLIN | libc::EPOLLET;
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), token, bits)
    }

    /// From now on waits for `fd` to become readable, or to have room to write, or both; a failure is told in any case.
    pub fn watch(&self, fd: impl AsFd, token: u64, read: bool, write: bool) -> Result<()> {
        let read = if read { libc::EPOLLIN } else { 0 };
        let write = if write { libc::EPOLLOUT } else { 0 };
        self.control(libc::EPOLL_CTL_MOD, fd.as_fd(), token, read | write)
    }

    /// Forgets `fd`. Closing the last copy of a descriptor forgets it too.
    pub fn remove(&self, fd: impl AsFd) -> Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd.as_fd(), 0, 0)
    }

    /// Sleeps until something is ready or `timeout` has passed (`None`: for ever); fills `ready`, which is cleared first. A
    /// signal that interrupts the sleep ends it with nothing ready.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 32];
        // SAFETY: the pointer and count describe `events`.
        let n = match sys::check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as i32,
                millis(timeout),
            )
        }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            other => other.context(|| "wait for events")?,
        };
        ready.extend(events.iter().take(n as usize).map(|event| {
            let bits = event.events as i32;
            Ready {
                token: event.u64,
                readable: bits & (libc::EPOLLIN | libc::EPOLLHUP) != 0,
                writable: bits & libc::EPOLLOUT != 0,
                failed: bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0,
            }
        }));
        Ok(())
    }
}

/// Milliseconds for poll and epoll, rounded up so that a short timeout does not spin.
fn millis(timeout: Option<Duration>) -> libc::c_int {
    match timeout {
        None => -1,
        Some(t) => {
            libc::c_int::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
        }
    }
}

/// Sleeps until one of `fds` is readable or failed (poll(2)), or `timeout` passed. Entry i of the answer says so of `fds[i]`.
pub fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polls = fds.map(|fd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    sys::retry(|| {
        // SAFETY: the pointer and count describe `polls`.
        sys::check(unsafe { libc::poll(polls.as_mut_ptr(), N as libc::nfds_t, millis(timeout)) })
    })?;
    Ok(polls.map(|p| p.revents != 0))
}

/// Sleeps until `fd` has room to write, or `stop` is readable, or `timeout` passed. True when there is room.
pub fn wait_writable(
    fd: BorrowedFd<'_>,
    stop: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let mut polls = [
        libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        },
        libc::pollfd {
            // poll(2) passes over negative numbers.
            fd: stop.map_or(-1, |stop| stop.as_raw_fd()),
            events: libc::POLLIN,
            revents: 0,
        },
    ];
    sys::retry(|| {
        // SAFETY: the pointer and count describe `polls`.
        sys::check(unsafe { libc::poll(polls.as_mut_ptr(), 2, millis(timeout)) })
    })?;
    Ok(polls[0].revents & libc::POLLOUT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn event_raises_once_and_lowers() {
        let event = Event::new().unwrap();
        assert!(!event.lower());
        event.raise();
        event.raise();
        assert_eq!(wait_readable([event.as_fd()], None).unwrap(), [true]);
        assert!(event.lower());
        assert!(!event.lower());
    }

    #[test]
    fn an_alarm_on_the_calendar_counts_from_1970() {
        let alarm = Alarm::on_calendar().unwrap();
        let now = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.unwrap().as_nanos() as u64
        };
        let rings = |wait| wait_readable([alarm.as_fd()], Some(wait)).unwrap();
        alarm.set(Some(now() + 3_600_000_000_000)).unwrap();
        assert_eq!(rings(Duration::from_millis(20)), [false]);
        for at in [now() + 20_000_000, now() - 3_600_000_000_000] {
            alarm.set(Some(at)).unwrap();
            assert_eq!(rings(Duration::from_secs(5)), [true]);
            assert!(now() >= at && alarm.clear());
        }
    }

    #[test]
    fn alarm_rings_at_its_time_and_can_be_turned_off() {
        let alarm = Alarm::new().unwrap();
        let at = clock::boottime_ns() + 20_000_000;
        alarm.set(Some(at)).unwrap();
        assert_eq!(
            wait_readable([alarm.as_fd()], Some(Duration::from_secs(5))).unwrap(),
            [true]
        );
        assert!(clock::boottime_ns() >= at);
        assert!(alarm.clear());
        alarm.set(Some(clock::boottime_ns() + 5_000_000)).unwrap();
        alarm.set(None).unwrap();
        assert_eq!(
            wait_readable([alarm.as_fd()], Some(Duration::from_millis(20))).unwrap(),
            [false]
        );
        alarm.set(Some(0)).unwrap();
        assert_eq!(
            wait_readable([alarm.as_fd()], Some(Duration::from_secs(5))).unwrap(),
            [true],
            "the past rings at once"
        );
    }

    #[test]
    fn poller_names_what_is_ready() {
        let (a, b, poller) = (
            Event::new().unwrap(),
            Event::new().unwrap(),
            Poller::new().unwrap(),
        );
        poller.add(&a, 1).unwrap();
        poller.add(&b, 2).unwrap();
        let mut ready = Vec::new();
        poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
        b.raise();
        poller.wait(&mut ready, None).unwrap();
        assert_eq!(
            ready
                .iter()
                .map(|r| (r.token, r.readable))
                .collect::<Vec<_>>(),
            [(2, true)]
        );
        poller.remove(&b).unwrap();
        poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
    }

    #[test]
    fn signals_arrive_as_events() {
        let signals = Signals::new(&[libc::SIGUSR2]).unwrap();
        // SAFETY: raises a signal this thread has just blocked, so it is queued for the signalfd and interrupts nothing.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
        assert_eq!(signals.next(), Some(libc::SIGUSR2));
        assert_eq!(signals.next(), None);
    }
}
