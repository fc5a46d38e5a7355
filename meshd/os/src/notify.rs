//! The service manager's two doors: descriptors it hands in (LISTEN_FDS) and messages to it (sd_notify).
//!
//! Strategy: the plain datagram protocol, written out; no library. Descriptors put into its store (`FDSTORE=1`) outlive this
//! process and come back by name at the next start. Without a service manager every call does nothing.
//!
//! Source: sd_notify(3), sd_listen_fds(3), systemd.io/FILE_DESCRIPTOR_STORE.
use crate::error::{Context, Error, Result};
use crate::passing;
use crate::sys;
use std::env;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// First descriptor a service manager hands in (SD_LISTEN_FDS_START).
const FIRST_FD: i32 = 3;

/// Where a [`crate::keeper::Keeper`] names what it hands in: its process id, then `:NUMBER=NAME` for each descriptor.
pub(crate) const KEPT: &str = "MESHD_KEPT";

/// A line to the service manager, or to nobody.
#[derive(Debug)]
pub struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// Connects to `$NOTIFY_SOCKET`. Not set: a notifier that does nothing.
    pub fn from_env() -> Result<Self> {
        match env::var("NOTIFY_SOCKET") {
            Ok(address) => Self::connect(&address),
            Err(_) => Ok(Self(None)),
        }
    }

    /// Connects to `address`: an absolute path, or `@` and an abstract name.
    pub fn connect(address: &str) -> Result<Self> {
        let what = || format!("connect to the service manager at {address}");
        let address = match address.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(address),
        }
        .context(what)?;
        let socket = UnixDatagram::unbound().context(what)?;
        socket.connect_addr(&address).context(what)?;
        Ok(Self(Some(socket)))
    }

    /// Whether anybody listens.
    pub fn is_connected(&self) -> bool {
        self.0.is_some()
    }

    /// Ready to serve.
    pub fn ready(&self) -> Result<()> {
        self.send("READY=1\n", None)
    }

    /// About to end.
    pub fn stopping(&self) -> Result<()> {
        self.send("STOPPING=1\n", None)
    }

    /// Alive: due every [`watchdog_interval`].
    pub fn watchdog(&self) -> Result<()> {
        self.send("WATCHDOG=1\n", None)
    }

    /// A sentence for people who ask for the unit's status; line ends are replaced by spaces.
    pub fn status(&self, sentence: &str) -> Result<()> {
        self.send(
            &format!("STATUS={}\n", sentence.replace(['\n', '\r'], " ")),
            None,
        )
    }

    /// Keeps a copy of `fd` under `name` beyond this process. Polling is off: one error on a socket would drop it from the
    /// store. `name` has 1 to 255 printable ASCII characters without a colon.
    pub fn store(&self, fd: BorrowedFd<'_>, name: &str) -> Result<()> {
        let name = fd_name(name)?;
        self.send(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"), Some(fd))
    }

    /// Drops every stored descriptor called `name`.
    pub fn forget(&self, name: &str) -> Result<()> {
        let name = fd_name(name)?;
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), None)
    }

    /// Waits at most `timeout` until the manager has handled everything sent before; says whether it has.
    pub fn barrier(&self, timeout: Duration) -> Result<bool> {
        if self.0.is_none() {
            return Ok(true);
        }
        let (ours, theirs) = pipe().context(|| "make a pipe")?;
        self.send("BARRIER=1\n", Some(theirs.as_fd()))?;
        drop(theirs);
        // The manager closes its copy when it gets there, and the pipe hangs up.
        let [done] = crate::events::wait_readable([ours.as_fd()], Some(timeout))
            .context(|| "wait for the barrier")?;
        Ok(done)
    }

    fn send(&self, text: &str, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let Some(socket) = &self.0 else { return Ok(()) };
        let fds = fd.as_slice();
        passing::send_to(socket.as_fd(), text.as_bytes(), fds)
            .context(|| "notify the service manager")?;
        Ok(())
    }
}

pub(crate) fn fd_name(name: &str) -> Result<&str> {
    let good = |b: u8| b != b':' && (b' '..0x7f).contains(&b);
    if name.is_empty() || name.len() > 255 || !name.bytes().all(good) {
        return Err(Error::new(
            format!("name a stored descriptor {name:?}"),
            io::ErrorKind::InvalidInput.into(),
        ));
    }
    Ok(name)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: the pointer is to two live ints, as pipe2 wants.
    sys::check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((sys::own(fds[0])?, sys::own(fds[1])?))
}

/// How often the manager wants to hear [`Notifier::watchdog`]: half of what it allows. `None`: not at all.
pub fn watchdog_interval() -> Option<Duration> {
    let ours = env::var("WATCHDOG_PID").map_or(true, |pid| pid.parse() == Ok(std::process::id()));
    let limit: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (ours && limit > 1).then(|| Duration::from_micros(limit / 2))
}

/// The descriptors handed in at the start of this process, with their names, CLOEXEC set. The second call returns none: each
/// has one owner.
pub fn received_fds() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if is_supervised() && !TAKEN.swap(true, Ordering::SeqCst) {
        return take_kept(&env::var(KEPT).unwrap_or_default());
    }
    let ours = env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
    if !ours || TAKEN.swap(true, Ordering::SeqCst) {
        return Vec::new();
    }
    let count: i32 = env::var("LISTEN_FDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    take_fds(FIRST_FD, count, &names)
}

/// Whether a supervisor of ours is this process's parent, rather than a service manager or nobody.
pub fn is_supervised() -> bool {
    let by = env::var(KEPT).unwrap_or_default();
    let parent = by.split(':').next().and_then(|pid| pid.parse().ok());
    // The variable may have been inherited by a grandchild, for which the numbers mean nothing.
    parent == Some(std::os::unix::process::parent_id())
}

fn take_kept(list: &str) -> Vec<(String, OwnedFd)> {
    let named = list.split(':').skip(1).filter_map(|one| {
        let (number, name) = one.split_once('=')?;
        Some((number.parse::<i32>().ok()?, name))
    });
    let mut taken: Vec<(String, OwnedFd)> = Vec::new();
    for (raw, name) in named {
        // Named twice it would have two owners.
        if taken.iter().all(|(_, fd)| fd.as_raw_fd() != raw) {
            taken.extend(take_fd(raw).map(|fd| (name.to_owned(), fd)));
        }
    }
    taken
}

/// Takes one descriptor that was handed in; `None` when the number is none.
fn take_fd(raw: i32) -> Option<OwnedFd> {
    // SAFETY: integers only; a number that is no open descriptor fails here and is skipped.
    if raw < FIRST_FD || unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return None;
    }
    // SAFETY: the protocol gives these numbers to this process alone; they are open (just checked), and `received_fds` runs
    // once, so each has this one owner.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn take_fds(first: i32, count: i32, names: &str) -> Vec<(String, OwnedFd)> {
    let mut names = names.split(':');
    let mut taken = Vec::new();
    // More than the store can hold is a forged environment.
    for raw in first..first.saturating_add(count.clamp(0, 4096)) {
        let name = names
            .next()
            .filter(|n| !n.is_empty())
            .unwrap_or("unknown")
            .to_owned();
        taken.extend(take_fd(raw).map(|fd| (name, fd)));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::IntoRawFd;

    /// Receives one message and at most one descriptor, as a service manager does.
    fn receive(socket: &UnixDatagram) -> (String, Option<OwnedFd>) {
        let mut buf = [0u8; 1024];
        let mut received = passing::receive_from(socket.as_fd(), &mut buf, 0).unwrap();
        let text = String::from_utf8(buf[..received.len].to_vec()).unwrap();
        (text, received.fds.pop())
    }

    fn manager(name: &str) -> (UnixDatagram, Notifier) {
        let name = format!("meshd-os-{}-{name}", std::process::id());
        let socket =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        (socket, Notifier::connect(&format!("@{name}")).unwrap())
    }

    #[test]
    fn messages_arrive_to_the_letter() {
        let (socket, notifier) = manager("text");
        notifier.ready().unwrap();
        notifier.status("a\nb").unwrap();
        notifier.watchdog().unwrap();
        notifier.forget("tun").unwrap();
        let got: Vec<_> = (0..4).map(|_| receive(&socket).0).collect();
        assert_eq!(
            got,
            [
                "READY=1\n",
                "STATUS=a b\n",
                "WATCHDOG=1\n",
                "FDSTOREREMOVE=1\nFDNAME=tun\n"
            ]
        );
    }

    #[test]
    fn a_stored_descriptor_is_the_same_file() {
        let (socket, notifier) = manager("fd");
        let path = std::env::temp_dir().join(format!("meshd-os-store-{}", std::process::id()));
        let mut file = std::fs::File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .read(true)
            .open(&path)
            .unwrap();
        file.write_all(b"kept").unwrap();
        notifier.store(file.as_fd(), "udp4").unwrap();
        let (text, fd) = receive(&socket);
        assert_eq!(text, "FDSTORE=1\nFDNAME=udp4\nFDPOLL=0\n");
        let mut copy = std::fs::File::from(fd.unwrap());
        copy.rewind().unwrap();
        let mut got = String::new();
        copy.read_to_string(&mut got).unwrap();
        assert_eq!(got, "kept");
        std::fs::remove_file(path).unwrap();
        assert!(notifier.store(file.as_fd(), "a:b").is_err());
    }

    #[test]
    fn the_barrier_waits_for_the_manager() {
        let (socket, notifier) = manager("barrier");
        assert!(!notifier.barrier(Duration::from_millis(10)).unwrap());
        assert_eq!(receive(&socket).0, "BARRIER=1\n");
        let answer = std::thread::spawn(move || drop(receive(&socket)));
        assert!(notifier.barrier(Duration::from_secs(5)).unwrap());
        answer.join().unwrap();
    }

    #[test]
    fn handed_in_descriptors_keep_their_names() {
        let (a, b) = pipe().unwrap();
        // SAFETY: integers only; the two high numbers are free in this process.
        unsafe {
            assert_eq!(libc::dup2(a.into_raw_fd(), 700), 700);
            assert_eq!(libc::dup2(b.into_raw_fd(), 701), 701);
        }
        let taken = take_fds(700, 3, "tun:udp4");
        assert_eq!(
            taken.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
            ["tun", "udp4"]
        );
    }

    #[test]
    fn a_number_that_is_named_twice_is_taken_once() {
        let (a, _b) = pipe().unwrap();
        // SAFETY: integers only; the high number is free in this process.
        unsafe { assert_eq!(libc::dup2(a.into_raw_fd(), 710), 710) };
        let taken = take_kept("1:710=tun-0:710=udp4:x=y:2=stderr:711=closed");
        let names: Vec<_> = taken.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tun-0"]);
    }

    #[test]
    fn nobody_listening_is_no_error() {
        let notifier = Notifier(None);
        notifier.ready().unwrap();
        assert!(notifier.barrier(Duration::ZERO).unwrap());
    }
}
