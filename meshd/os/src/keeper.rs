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
use crate::notify::KEPT;
use crate::sys::{self, Zeroed};
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
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
        if has("FDSTORE=1") {
            for fd in message.fds {
                if self.kept.len() < MOST {
                    self.kept.push((name.to_owned(), fd));
                }
            }
        } else if has("FDSTOREREMOVE=1") {
            self.kept.retain(|(kept, _)| kept != name);
        }
        message.text.lines().any(|l| l == "READY=1")
    }

    fn receive(&self) -> io::Result<Option<Message>> {
        let mut buf = [0u8; LONGEST];
        let mut iov = libc::iovec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        };
        // Room for the credentials and some descriptors, aligned as control messages are.
        let mut control = [0u64; 32];
        let mut msg = libc::msghdr::zeroed();
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = mem::size_of_val(&control) as _;
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        let received = sys::retry(|| {
            // SAFETY: `msg` points at live buffers of the lengths given.
            sys::check_len(unsafe { libc::recvmsg(self.socket.as_raw_fd(), &mut msg, flags) })
        });
        let len = match received {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            other => other?,
        };
        let mut message = Message {
            text: String::from_utf8_lossy(&buf[..len]).into_owned(),
            ..Message::default()
        };
        // SAFETY: the kernel has written whole control messages into `control`, and CMSG_FIRSTHDR and CMSG_NXTHDR stay within
        // msg_controllen; data is read unaligned, and each descriptor is new and taken once.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&msg);
            while !header.is_null() {
                let data = libc::CMSG_DATA(header);
                let len = (*header).cmsg_len as usize - (data as usize - header as usize);
                match ((*header).cmsg_level, (*header).cmsg_type) {
                    (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                        for i in 0..len / mem::size_of::<RawFd>() {
                            let fd = data.cast::<RawFd>().add(i).read_unaligned();
                            message.fds.push(OwnedFd::from_raw_fd(fd));
                        }
                    }
                    (libc::SOL_SOCKET, libc::SCM_CREDENTIALS)
                        if len >= mem::size_of::<libc::ucred>() =>
                    {
                        message.sender = Some(data.cast::<libc::ucred>().read_unaligned().pid);
                    }
                    _ => {}
                }
                header = libc::CMSG_NXTHDR(&msg, header);
            }
        }
        Ok(Some(message))
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
