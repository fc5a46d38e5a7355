//! Running in the background where there is no init: start, supervise, stop.
//!
//! Strategy: a background process is this same program started anew in a session of its own (no fork of a running one, which
//! threads would make unsafe). One pid file, held locked by the living process, says who it is: a lock dies with its holder,
//! so a stale file misleads nobody. The lock is one that the kernel names the holder of (fcntl(2), F_GETLK): looking takes no
//! lock, which could be in the way of who starts just now, and nobody has to believe the number in the file, which is for
//! people and scripts.
use crate::error::{Context, Error, Result};
use crate::events;
use crate::sys::{self, Zeroed};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A pid file held by this process until it ends or drops it. The file stays; the lock is what counts. The lock is the
/// process's, and goes when it closes *any* descriptor of that file: it must not open it once more.
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
        match lock(&file, libc::F_SETLK) {
            Ok(_) => {}
            Err(e) if [Some(libc::EACCES), Some(libc::EAGAIN)].contains(&e.raw_os_error()) => {
                return Ok(None)
            }
            Err(e) => return Err(Error::new(what(), e)),
        }
        file.set_len(0).context(what)?;
        writeln!(file, "{}", std::process::id()).context(what)?;
        Ok(Some(Self { _file: file }))
    }

    /// The process that holds the file now; `None` when nobody does. An error when it isn't seen from this PID namespace.
    pub fn holder(path: &Path) -> Result<Option<u32>> {
        let what = || format!("see who holds the pid file {}", path.display());
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::new(what(), e)),
        };
        let seen = lock(&file, libc::F_GETLK).context(what)?;
        if seen.l_type == libc::F_UNLCK as libc::c_short {
            return Ok(None);
        }
        match u32::try_from(seen.l_pid) {
            Ok(pid) if pid != 0 => Ok(Some(pid)),
            _ => Err(Error::malformed(what())),
        }
    }
}

/// Takes the lock for writing on the whole file without waiting, or looks who would be in the way.
fn lock(file: &File, command: libc::c_int) -> io::Result<libc::flock> {
    let mut lock = libc::flock::zeroed();
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: `lock` is live; both commands take a pointer to such a structure.
    sys::check(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) })?;
    Ok(lock)
}

/// Starts `command` as a background process: a session of its own without terminal, `/` as its directory, nothing on stdin,
/// what it says appended to `log` (made with mode 0640; not through a link, for others than root may write to its folder).
pub fn start_in_background(mut command: Command, log: &Path) -> Result<Child> {
    let what = || format!("open the log {}", log.display());
    let out = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW)
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

/// Asks who holds the pid file to end (SIGTERM) and waits at most `timeout` until it has; says whether it has. When nobody
/// does, it has ended.
pub fn end_holder(path: &Path, timeout: Duration) -> Result<bool> {
    while let Some(pid) = PidFile::holder(path)? {
        let what = || format!("end process {pid}");
        // A descriptor, unlike a number, keeps meaning the same process; what it means is the holder if that one still
        // holds the file now.
        let Some(process) = descriptor_of(pid).context(what)? else {
            continue;
        };
        if PidFile::holder(path)? != Some(pid) {
            continue;
        }
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the signal's details are left to the kernel (null), everything else is integers.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                process.as_raw_fd(),
                libc::SIGTERM,
                none,
                0,
            )
        };
        match sys::check(sent as libc::c_int) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(true),
            other => other.context(what)?,
        };
        let [ended] = events::wait_readable([process.as_fd()], Some(timeout)).context(what)?;
        return Ok(ended);
    }
    Ok(true)
}

/// A descriptor of the process that has this number now; `None` when there is none.
fn descriptor_of(pid: u32) -> io::Result<Option<OwnedFd>> {
    // SAFETY: integers only.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match sys::own(opened as libc::c_int) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn temporary(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("meshd-os-{}-{name}", std::process::id()))
    }

    #[test]
    #[ignore = "run by `the_holder_is_who_holds_it_whatever_the_file_says` in a process of its own"]
    fn holds() {
        let path = std::env::var_os("HELD").unwrap();
        let _held = PidFile::acquire(Path::new(&path)).unwrap().unwrap();
        println!("held");
        let _ = io::stdin().read_line(&mut String::new());
    }

    #[test]
    fn the_holder_is_who_holds_it_whatever_the_file_says() {
        let path = temporary("pid");
        assert_eq!(PidFile::holder(&path).unwrap(), None);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "process::tests::holds",
                "--ignored",
                "--nocapture",
            ])
            .env("HELD", &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
        assert!(lines.any(|line| line.unwrap().ends_with("held")));
        let told = std::fs::read_to_string(&path).unwrap();
        assert_eq!(told, format!("{}\n", child.id()));
        // As the file of an earlier life is, until its next holder has written it.
        std::fs::write(&path, "1\n").unwrap();
        assert_eq!(PidFile::holder(&path).unwrap(), Some(child.id()));
        assert!(PidFile::acquire(&path).unwrap().is_none());
        assert!(end_holder(&path, Duration::from_secs(5)).unwrap());
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
            Some(libc::SIGTERM)
        );
        assert_eq!(
            PidFile::holder(&path).unwrap(),
            None,
            "the file is there, its holder is gone"
        );
        assert!(end_holder(&path, Duration::ZERO).unwrap());
        assert!(PidFile::acquire(&path).unwrap().is_some());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_log_is_no_way_to_elsewhere() {
        let (log, other) = (temporary("link"), temporary("other"));
        std::os::unix::fs::symlink(&other, &log).unwrap();
        let error = start_in_background(Command::new("true"), &log).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ELOOP));
        assert!(!other.exists());
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_background_process_has_its_own_session_and_logs() {
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
        ask_to_end(&child).unwrap();
        assert!(!child.wait().unwrap().success());
        std::fs::remove_file(log).unwrap();
    }
}
