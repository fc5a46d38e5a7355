//! Running in the background where there is no init: start, supervise, stop.
//!
//! Strategy: a background process is this same program started anew in a session of its own (no fork of a running one, which
//! threads would make unsafe). One pid file, held locked (flock) by the living process, says who it is: a lock dies with its
//! holder, so a stale file misleads nobody.
use crate::error::{Context, Error, Result};
use crate::events;
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A pid file held by this process until it ends or drops it. The file stays; the lock is what counts.
#[derive(Debug)]
pub struct PidFile {
    _file: File,
}

impl PidFile {
    /// Takes the file, made with mode 0644 when missing, and writes this process's id. `None`: another living process holds it.
    pub fn acquire(path: &Path) -> Result<Option<Self>> {
        let what = || format!("take the pid file {}", path.display());
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644);
        let mut file = options.open(path).context(what)?;
        if !lock(&file).context(what)? {
            return Ok(None);
        }
        file.set_len(0).context(what)?;
        writeln!(file, "{}", std::process::id()).context(what)?;
        Ok(Some(Self { _file: file }))
    }

    /// The process that holds the file now; `None` when nobody does.
    pub fn holder(path: &Path) -> Result<Option<u32>> {
        let what = || format!("read the pid file {}", path.display());
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::new(what(), e)),
        };
        if lock(&file).context(what)? {
            return Ok(None);
        }
        let mut text = String::new();
        file.rewind().context(what)?;
        file.read_to_string(&mut text).context(what)?;
        text.trim()
            .parse()
            .map(Some)
            .map_err(|_| Error::malformed(what()))
    }
}

/// Takes an exclusive lock without waiting; false when somebody has it.
fn lock(file: &File) -> io::Result<bool> {
    // SAFETY: integers only.
    match sys::check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// Starts `command` as a background process: a session of its own without terminal, `/` as its directory, nothing on stdin,
/// what it says appended to `log` (made with mode 0640).
pub fn start_in_background(mut command: Command, log: &Path) -> Result<Child> {
    let what = || format!("open the log {}", log.display());
    let out = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(log)
        .context(what)?;
    let err = out.try_clone().context(what)?;
    command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .current_dir("/");
    // SAFETY: setsid is async-signal-safe, as what runs between fork and exec must be, and touches no memory.
    unsafe { command.pre_exec(|| sys::check(libc::setsid()).map(drop)) };
    command.spawn().context(|| "start a background process")
}

/// Lets `command`'s process be ended (SIGTERM) when this one dies, however it dies: a supervisor's child must not outlive it.
pub fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let tie = move || {
        // SAFETY: prctl and getppid are async-signal-safe and take integers only.
        unsafe {
            sys::check(libc::prctl(
                libc::PR_SET_PDEATHSIG,
                libc::SIGTERM as libc::c_ulong,
                0,
                0,
                0,
            ))?;
            // The parent may have died before the tie was made.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes two async-signal-safe calls and allocates nothing.
    unsafe { command.pre_exec(tie) };
}

/// Asks a child to end (SIGTERM). It must not have been waited for yet, or its number may mean somebody else.
pub fn ask_to_end(child: &Child) -> Result<()> {
    // SAFETY: integers only.
    sys::check(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) })
        .context(|| format!("end process {}", child.id()))?;
    Ok(())
}

/// Asks a process to end (SIGTERM) and waits at most `timeout` until it has; says whether it has. A process that is already
/// gone has ended. The id must be that of a live pid file's holder or a child, or it may by now mean somebody else.
pub fn terminate(pid: u32, timeout: Duration) -> Result<bool> {
    let what = || format!("end process {pid}");
    // SAFETY: integers only. A descriptor, unlike a number, keeps meaning the same process.
    let fd = match sys::own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int) {
        Ok(fd) => fd,
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(true),
        Err(e) => return Err(Error::new(what(), e)),
    };
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the signal's details are left to the kernel (null), everything else is integers.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            libc::SIGTERM,
            none,
            0,
        )
    };
    match sys::check(sent as libc::c_int) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(true),
        other => other.context(what)?,
    };
    let [ended] = events::wait_readable([fd.as_fd()], Some(timeout)).context(what)?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn temporary(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("meshd-os-{}-{name}", std::process::id()))
    }

    #[test]
    fn one_holder_at_a_time_and_the_dead_hold_nothing() {
        let path = temporary("pid");
        assert_eq!(PidFile::holder(&path).unwrap(), None);
        let held = PidFile::acquire(&path).unwrap().unwrap();
        assert_eq!(PidFile::holder(&path).unwrap(), Some(std::process::id()));
        assert!(PidFile::acquire(&path).unwrap().is_none());
        drop(held);
        assert_eq!(
            PidFile::holder(&path).unwrap(),
            None,
            "the file is there, its holder is gone"
        );
        assert!(PidFile::acquire(&path).unwrap().is_some());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_background_process_has_its_own_session_logs_and_ends() {
        let log = temporary("log");
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "cut -d' ' -f6 /proc/self/stat; echo $$; pwd; exec sleep 60",
        ]);
        let mut child = start_in_background(command, &log).unwrap();
        let mut text = String::new();
        for _ in 0..500 {
            text = std::fs::read_to_string(&log).unwrap();
            if text.lines().count() == 3 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], child.id().to_string(), "it leads its session");
        assert_eq!(lines[2], "/");
        assert!(terminate(child.id(), Duration::from_secs(5)).unwrap());
        assert!(!child.wait().unwrap().success());
        assert!(
            terminate(child.id(), Duration::ZERO).unwrap(),
            "a gone process has ended"
        );
        std::fs::remove_file(log).unwrap();
    }
}
