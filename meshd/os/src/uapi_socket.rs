//! The UNIX sockets people talk to: `/run/wireguard/NAME.sock` and meshd's own.
//!
//! Strategy: bound with mode 0600 from the first moment, under another name until it listens: between the two the kernel refuses
//! connections, and wg(8) takes the file of a socket that refuses for a dead daemon's and deletes it (wireguard-tools,
//! ipc-uapi-unix.h, userspace_has_wireguard_interface). A socket file left by a dead daemon is replaced, one that answers is
//! not; removed again on drop if it is still the file made here. Each connection comes with its peer's credentials.
use crate::error::{Context, Error, Result};
use crate::events::Event;
use crate::sys::{self, Zeroed};
use std::ffi::CString;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Who is at the other end of a connection, as the kernel saw it connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id in this process's namespace; 0 when it is not visible there.
    pub pid: i32,
}

/// A listening socket bound to a path. Accepting does not block.
#[derive(Debug)]
pub struct Listener {
    inner: UnixListener,
    path: PathBuf,
    /// Device and inode of the file made here.
    file: Option<(u64, u64)>,
    /// Holds a descriptor's place for when there are no more.
    spare: Option<Event>,
}

impl Listener {
    /// Binds `path`, mode 0600. `AddrInUse` when a living process answers there; the file of a dead one is replaced. The
    /// directory must exist.
    pub fn bind(path: &Path) -> Result<Self> {
        let what = || format!("listen on {}", path.display());
        address(path).map_err(|e| Error::new(what(), e))?;
        let fd =
            sys::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0).context(what)?;
        // On Linux the file gets the socket inode's mode: setting it before bind leaves no moment with a wider one.
        // SAFETY: integers only.
        sys::check(unsafe { libc::fchmod(fd.as_raw_fd(), 0o600) }).context(what)?;
        let draft = Draft::new(path);
        // Left by a dead one of our number.
        remove_socket(&draft.0).context(what)?;
        let address = address(&draft.0).map_err(|e| Error::new(what(), e))?;
        bind(fd.as_fd(), &address).context(what)?;
        // SAFETY: integers only.
        sys::check(unsafe { libc::listen(fd.as_raw_fd(), 64) }).context(what)?;
        let mut tries = 0;
        while let Err(e) = rename_new(&draft.0, path) {
            let there = e.raw_os_error() == Some(libc::EEXIST);
            if !there || tries == TRIES || UnixStream::connect(path).is_ok() {
                let in_use = io::Error::from_raw_os_error(libc::EADDRINUSE);
                return Err(Error::new(what(), if there { in_use } else { e }));
            }
            tries += 1;
            remove_socket(path).context(what)?;
        }
        let file = fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()));
        Ok(Self {
            inner: UnixListener::from(fd),
            path: path.to_owned(),
            file,
            spare: Event::new().ok(),
        })
    }

    /// Takes over a listening socket handed in by a service manager; its file is not removed on drop.
    pub fn adopt(fd: OwnedFd, path: &Path) -> Result<Self> {
        let inner = UnixListener::from(fd);
        inner
            .set_nonblocking(true)
            .context(|| format!("adopt {}", path.display()))?;
        Ok(Self {
            inner,
            path: path.to_owned(),
            file: None,
            spare: Event::new().ok(),
        })
    }

    /// The next waiting connection, blocking like any stream, and who made it; `None` when nobody waits.
    ///
    /// When there is no descriptor for it, a spare one lets it be taken up and hung up on, and so with all that wait: they are
    /// told, and nothing stays behind that would wake the caller again and again. After an error something may stay behind
    /// (the kernel gave the spare's place to somebody else), so wait by [`crate::events::Poller::add_edge`], and ask again when
    /// a descriptor was closed.
    pub fn accept(&mut self) -> Result<Option<(UnixStream, Credentials)>> {
        let failed = |path: &Path, e| Error::new(format!("accept on {}", path.display()), e);
        if self.spare.is_none() {
            self.spare = Event::new().ok();
        }
        loop {
            let full = match self.inner.accept() {
                Ok((stream, _)) => match served(&stream) {
                    Ok(who) => return Ok(Some((stream, who))),
                    Err(_) => continue,
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) => e,
            };
            let errno = full.raw_os_error();
            if !matches!(errno, Some(libc::EMFILE | libc::ENFILE)) || self.spare.take().is_none() {
                return Err(failed(&self.path, full));
            }
            // The kernel wants a descriptor before it looks whether anybody waits.
            let hung_up = self.inner.accept().map(drop);
            self.spare = Event::new().ok();
            match hung_up {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(failed(&self.path, e)),
            }
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file at the path is still the one made here (somebody may have removed or replaced it).
    pub fn in_place(&self) -> bool {
        let now = fs::symlink_metadata(&self.path)
            .ok()
            .map(|m| (m.dev(), m.ino()));
        self.file.is_some() && now == self.file
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.in_place() {
            // Nothing can be done about a file that cannot be removed; the next daemon replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn served(stream: &UnixStream) -> io::Result<Credentials> {
    stream.set_nonblocking(false)?;
    credentials(stream.as_fd())
}

/// Others who start at the same time, or delete what is dead at the same time, come in between at most so often.
const TRIES: u32 = 8;

/// Where a socket is until it listens: beside its place, with no `.sock` at the end, since such names are taken for interfaces.
struct Draft(PathBuf);

impl Draft {
    fn new(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self(path.with_file_name(format!(".{name}.{}", std::process::id())))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is there only after a failure, which has been said.
        let _ = remove_socket(&self.0);
    }
}

/// renameat2(2) with RENAME_NOREPLACE: EEXIST when something is at `to`.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (from, to) = (text(from)?, text(to)?);
    // SAFETY: both strings are live and end in zero. Not by libc's function: musl has none.
    sys::check_len(unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        ) as isize
    })
    .map(drop)
}

fn address(path: &Path) -> io::Result<libc::sockaddr_un> {
    let mut address = libc::sockaddr_un::zeroed();
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a socket path has 1 to 107 bytes",
        ));
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(address)
}

fn bind(fd: BorrowedFd<'_>, address: &libc::sockaddr_un) -> io::Result<()> {
    let len = mem::size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` is live and zero-terminated within the length passed.
    sys::check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const *address).cast(), len) }).map(drop)
}

/// Removes what is at `path` if it is a socket, and refuses to remove anything else. Fine if nothing is there (any more).
fn remove_socket(path: &Path) -> io::Result<()> {
    let done = fs::symlink_metadata(path).and_then(|file| {
        if file.mode() & libc::S_IFMT == libc::S_IFSOCK {
            return fs::remove_file(path);
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket is in the way",
        ))
    });
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// SO_PEERCRED of a connected UNIX socket.
pub fn credentials(fd: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut cred = libc::ucred::zeroed();
    let mut len = mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `cred` and `len` are live and the length passed is the size of `cred`.
    sys::check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &mut len,
        )
    })?;
    Ok(Credentials {
        uid: cred.uid,
        gid: cred.gid,
        pid: cred.pid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Barrier;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("meshd-os-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn serves_with_mode_0600_and_credentials_and_cleans_up() {
        let dir = folder("serve");
        let path = dir.join("x.sock");
        let mut listener = Listener::bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(listener.accept().unwrap().is_none());
        let mut client = UnixStream::connect(&path).unwrap();
        let (mut server, who) = listener.accept().unwrap().unwrap();
        assert_eq!(who.pid as u32, std::process::id());
        // SAFETY: takes no arguments.
        assert_eq!(who.uid, unsafe { libc::geteuid() });
        client.write_all(b"hi").unwrap();
        drop(client);
        let mut got = String::new();
        server.read_to_string(&mut got).unwrap();
        assert_eq!(got, "hi");
        drop(listener);
        assert!(!path.exists());
        fs::remove_dir(dir).unwrap();
    }

    #[test]
    fn replaces_the_dead_but_not_the_living_nor_a_file() {
        let dir = folder("stale");
        let path = dir.join("x.sock");
        drop(UnixListener::bind(&path).unwrap());
        let living = Listener::bind(&path).expect("a dead daemon's file is replaced");
        let refused = Listener::bind(&path).unwrap_err();
        assert_eq!(refused.errno(), Some(libc::EADDRINUSE));
        assert!(living.in_place(), "the refused one took nothing away");
        drop(living);
        fs::write(&path, "precious").unwrap();
        assert_eq!(
            Listener::bind(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_dir_all(dir).unwrap();
    }

    /// What wg(8) does to find an interface.
    fn look_like_wg(path: &Path) {
        let refused = |e: io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
        if UnixStream::connect(path).is_err_and(refused) {
            let _ = fs::remove_file(path);
        }
    }

    #[test]
    fn who_deletes_dead_sockets_finds_none_in_the_making() {
        let dir = folder("race");
        let path = dir.join("x.sock");
        let (start, done) = (Barrier::new(2), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                while !done.load(Ordering::Relaxed) {
                    look_like_wg(&path);
                }
            });
            start.wait();
            for _ in 0..2000 {
                let listener = Listener::bind(&path);
                done.store(listener.is_err(), Ordering::Relaxed);
                let there = listener.unwrap().in_place();
                done.store(!there, Ordering::Relaxed);
                assert!(there, "the file of a living socket was deleted");
            }
            done.store(true, Ordering::Relaxed);
        });
        let left = fs::read_dir(&dir).unwrap().count();
        assert_eq!(left, 0, "no draft stays");
        fs::remove_dir(dir).unwrap();
    }

    #[test]
    fn a_path_too_long_is_an_error() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        assert_eq!(
            Listener::bind(&long).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
