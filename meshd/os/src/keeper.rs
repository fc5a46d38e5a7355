//! The other side of [`crate::notify`], for where there is no service manager: whoever supervises a process keeps descriptors
//! for it, and hands them to the next one.
//!
//! Strategy: the same datagrams that systemd understands (FDSTORE, FDSTOREREMOVE, BARRIER, READY) come to a socket of mode
//! 0600, and count only when the kernel says that the supervised process sent them. The next process inherits the
//! descriptors under the numbers they have here, named in `$MESHD_KEPT`; nothing is renumbered, so nothing can be overwritten
//! between fork and exec. A connection lives as long as somebody holds it: dropping the keeper closes everything.
//!
//! What it does not do: start, watch or end processes.
//!
//! Source: sd_notify(3), unix(7).
use crate::error::{Context, Error, Result};
use crate::notify::{fd_name, KEPT};
use crate::passing;
use crate::sys;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// More descriptors than any mesh has queues are a mistake.
const MOST: usize = 512;

/// Longest message; ours are a few lines.
const LONGEST: usize = 4096;

/// Keeps descriptors for a supervised process.
#[derive(Debug)]
pub struct Keeper {
    socket: UnixDatagram,
    path: PathBuf,
    kept: Vec<(String, OwnedFd)>,
}

/// What came in one message.
#[derive(Debug, Default)]
struct Message {
    text: String,
    fds: Vec<OwnedFd>,
    sender: Option<i32>,
}

impl Keeper {
    /// Listens at `path`, mode 0600; what a dead keeper left there is replaced. The caller makes sure that there is no living
    /// one.
    pub fn bind(path: &Path) -> Result<Self> {
        let what = || format!("listen on {}", path.display());
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::new(what(), e)),
            _ => {}
        }
        let socket = UnixDatagram::bind(path).context(what)?;
        // Until this is done only the mode of the folder protects it; what came in by then has the wrong sender anyway.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(path, mode).context(what)?;
        socket.set_nonblocking(true).context(what)?;
        sys::setsockopt(socket.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 1i32).context(what)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            kept: Vec::new(),
        })
    }

    /// Names of what is kept.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().map(|(name, _)| name.as_str())
    }

    /// Lets `command`'s process inherit what is kept, and tells it where to send more.
    pub fn hand_in(&self, command: &mut Command) {
        let fds: Vec<RawFd> = self.kept.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
        let mut list = std::process::id().to_string();
        for (name, fd) in &self.kept {
            list.push_str(&format!(":{}={name}", fd.as_raw_fd()));
        }
        command.env("NOTIFY_SOCKET", &self.path).env(KEPT, list);
        let inherit = move || {
            for &fd in &fds {
                // SAFETY: fcntl is async-signal-safe and takes integers only.
                sys::check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
            }
            Ok(())
        };
        // SAFETY: the closure makes async-signal-safe calls and allocates nothing.
        unsafe { command.pre_exec(inherit) };
    }

    /// Does what process `child` has asked for since the last time; says whether it has said that it is ready. Messages of
    /// anybody else are thrown away.
    pub fn serve(&mut self, child: u32) -> Result<bool> {
        let mut ready = false;
        while let Some(message) = self
            .receive()
            .context(|| format!("receive on {}", self.path.display()))?
        {
            if message.sender.is_some_and(|pid| pid as u32 == child) {
                ready |= self.heed(message);
            }
        }
        Ok(ready)
    }

    /// A BARRIER needs nothing done: its descriptor is closed with the message, which is the answer.
    fn heed(&mut self, message: Message) -> bool {
        let has = |line: &str| message.text.lines().any(|l| l == line);
        let name = message
            .text
            .lines()
            .find_map(|l| l.strip_prefix("FDNAME="))
            .unwrap_or("stored");
        // Another name would change what the list in MESHD_KEPT says, which the next process believes while it is still root.
        if fd_name(name).is_err() {
            return has("READY=1");
        }
        if has("FDSTORE=1") {
            for fd in message.fds {
                if self.kept.len() < MOST {
                    self.kept.push((name.to_owned(), fd));
                }
            }
        } else if has("FDSTOREREMOVE=1") {
            self.kept.retain(|(kept, _)| kept != name);
        }
        has("READY=1")
    }

    fn receive(&self) -> io::Result<Option<Message>> {
        let mut buf = [0u8; LONGEST];
        match passing::receive_from(self.socket.as_fd(), &mut buf, libc::MSG_DONTWAIT) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
            Ok(received) => Ok(Some(Message {
                text: String::from_utf8_lossy(&buf[..received.len]).into_owned(),
                fds: received.fds,
                sender: received.sender,
            })),
        }
    }
}

impl AsFd for Keeper {
    /// Readable when there is something to [`Keeper::serve`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The next keeper replaces what can't be removed.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::Notifier;
    use std::time::Duration;

    fn keeper(name: &str) -> (Keeper, Notifier) {
        let path = std::env::temp_dir().join(format!("meshd-os-{}-{name}", std::process::id()));
        let keeper = Keeper::bind(&path).unwrap();
        let notifier = Notifier::connect(path.to_str().unwrap()).unwrap();
        (keeper, notifier)
    }

    #[test]
    fn keeps_for_its_child_alone_and_forgets_by_name() {
        let (mut keeper, notifier) = keeper("keep");
        let file = fs::File::open("/dev/null").unwrap();
        notifier.store(file.as_fd(), "tun-0").unwrap();
        notifier.store(file.as_fd(), "udp4").unwrap();
        assert!(!keeper.serve(std::process::id()).unwrap());
        assert_eq!(keeper.names().collect::<Vec<_>>(), ["tun-0", "udp4"]);
        notifier.forget("tun-0").unwrap();
        notifier.ready().unwrap();
        assert!(keeper.serve(std::process::id()).unwrap());
        assert_eq!(keeper.names().collect::<Vec<_>>(), ["udp4"]);
        notifier.store(file.as_fd(), "foreign").unwrap();
        notifier.ready().unwrap();
        assert!(!keeper.serve(1).unwrap(), "this is not process 1");
        assert_eq!(keeper.names().collect::<Vec<_>>(), ["udp4"]);
    }

    #[test]
    fn a_name_can_not_say_what_else_is_kept() {
        let (mut keeper, _) = keeper("name");
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(&keeper.path).unwrap();
        let file = fs::File::open("/dev/null").unwrap();
        for name in ["a:5=memory", "", "a\u{7f}", &"x".repeat(256)] {
            let text = format!("FDSTORE=1\nFDNAME={name}\n");
            passing::send_to(socket.as_fd(), text.as_bytes(), &[file.as_fd()]).unwrap();
        }
        keeper.serve(std::process::id()).unwrap();
        assert_eq!(keeper.names().count(), 0);
    }

    #[test]
    fn a_barrier_is_answered() {
        let (mut keeper, notifier) = keeper("barrier");
        let asker = std::thread::spawn(move || notifier.barrier(Duration::from_secs(5)).unwrap());
        while !asker.is_finished() {
            keeper.serve(std::process::id()).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(asker.join().unwrap());
    }

    #[test]
    fn the_next_process_inherits_what_is_kept() {
        let (mut keeper, notifier) = keeper("inherit");
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        notifier.store(theirs.as_fd(), "line").unwrap();
        drop(theirs);
        keeper.serve(std::process::id()).unwrap();
        let mut child = Command::new("sh");
        child.args([
            "-c",
            "fd=${MESHD_KEPT#*:}; eval \"echo $MESHD_KEPT >&${fd%=*}\"",
        ]);
        keeper.hand_in(&mut child);
        assert!(child.status().unwrap().success());
        drop(keeper);
        let mut text = String::new();
        io::Read::read_to_string(&mut &ours, &mut text).unwrap();
        assert!(
            text.starts_with(&std::process::id().to_string()) && text.ends_with("=line\n"),
            "{text}"
        );
    }
}
