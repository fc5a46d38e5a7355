//! Network namespaces: of the calling thread, and those with a name.
//!
//! A TUN, a socket or a netlink conversation belongs to the namespace it was made in and stays usable from any other. Named
//! ones are iproute2's (ip-netns(8)): a file in /run/netns that the namespace is mounted on, which keeps it alive. A program
//! that is run in one gets files of /etc/netns/NAME in the place of those of /etc, and a /sys that shows the namespace's links.
//!
//! Source: network_namespaces(7), mount_namespaces(7), mount(2); iproute2's lib/namespace.c, ip/ipnetns.c.
use crate::error::{Context, Error, Result};
use crate::sys;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where named namespaces are.
const NAMED: &str = "/run/netns";

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

/// Where the name lies. It is a file's name and nothing else: root mounts, unmounts and deletes there.
fn path_of(name: &str) -> Result<PathBuf> {
    let names_a_file = Path::new(name).file_name() == Some(name.as_ref());
    if !names_a_file || name.contains('\0') {
        return Err(Error::new(
            format!("name a network namespace {name:?}"),
            io::ErrorKind::InvalidInput.into(),
        ));
    }
    Ok(Path::new(NAMED).join(name))
}

/// The namespace called `name`; NotFound when there is none.
pub fn named(name: &str) -> Result<OwnedFd> {
    File::open(path_of(name)?)
        .map(OwnedFd::from)
        .context(|| format!("open the network namespace {name}"))
}

/// The namespace called `name`, made when there is none, as `ip netns add` makes it (CAP_SYS_ADMIN); whether it was made.
pub fn named_or_new(name: &str) -> Result<(OwnedFd, bool)> {
    let what = || format!("make the network namespace {name}");
    let path = path_of(name)?;
    if is_namespace(&path) {
        return Ok((named(name)?, false));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(NAMED)
        .context(what)?;
    // Whatever the umask is: others look here too.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(NAMED, mode).context(what)?;
    share(Path::new(NAMED)).context(what)?;
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o000)
        .open(&path);
    match file {
        // Nothing is mounted on it: somebody failed half-way.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => drop(other.context(what)?),
    }
    // In a thread of its own, which ends there: this one stays where it is.
    let mounted = path.clone();
    let make = move || -> io::Result<()> {
        sys::check(unsafe_unshare(libc::CLONE_NEWNET))?;
        mount(
            Path::new("/proc/thread-self/ns/net"),
            &mounted,
            None,
            libc::MS_BIND,
        )
    };
    let made = std::thread::spawn(make).join();
    let made = made.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
    if let Err(error) = made {
        let _ = fs::remove_file(&path);
        return Err(Error::new(what(), error));
    }
    Ok((named(name)?, true))
}

/// Whether a namespace is mounted there: it is a file of the same file system as those in /proc are.
fn is_namespace(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|data| data.dev());
    device(path).is_some() && device(path) == device(Path::new("/proc/thread-self/ns/net"))
}

/// Moves this process, of one thread, to the mounts of process 1 (CAP_SYS_ADMIN, CAP_SYS_CHROOT): what a service mounts may be
/// its own affair, and a name is everybody's.
pub fn use_mounts_of_init() -> Result<()> {
    let what = || "use the mounts of process 1";
    let mounts = File::open("/proc/1/ns/mnt").context(what)?;
    // SAFETY: integers only.
    sys::check(unsafe { libc::setns(mounts.as_raw_fd(), libc::CLONE_NEWNS) }).context(what)?;
    Ok(())
}

/// Takes the name away, as `ip netns delete` does; the namespace goes when nobody is in it. It is no error when there is none.
pub fn delete_named(name: &str) -> Result<()> {
    let what = || format!("delete the network namespace {name}");
    let path = path_of(name)?;
    let mounted = c_path(&path).context(what)?;
    // SAFETY: the path is live and ends with a zero. What isn't mounted is only a file.
    unsafe { libc::umount2(mounted.as_ptr(), libc::MNT_DETACH) };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::new(what(), error))
        }
        _ => {}
    }
    // The folder goes with the last name: it was mounted on itself to be shared.
    if fs::read_dir(NAMED).is_ok_and(|mut names| names.next().is_none()) {
        let folder = c_path(Path::new(NAMED)).context(what)?;
        // SAFETY: as above.
        unsafe { libc::umount2(folder.as_ptr(), libc::MNT_DETACH) };
        let _ = fs::remove_dir(NAMED);
    }
    Ok(())
}

fn unsafe_unshare(flags: libc::c_int) -> libc::c_int {
    // SAFETY: integers only.
    unsafe { libc::unshare(flags) }
}

/// Lets what is mounted below `folder` from now on be seen by others (as `ip netns add` does), which takes a mount there.
fn share(folder: &Path) -> io::Result<()> {
    let none = Path::new("none");
    let shared = |folder| mount(none, folder, None, libc::MS_SHARED | libc::MS_REC);
    match shared(folder) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            mount(folder, folder, None, libc::MS_BIND | libc::MS_REC)?;
            shared(folder)
        }
        other => other,
    }
}

/// What a program that is run in a namespace finds in place of the host's files.
#[derive(Debug, Default)]
pub struct View {
    /// The text of /etc/resolv.conf, unless /etc/netns has one.
    pub resolver: Option<String>,
    /// Folders whose sockets lead out of the namespace whatever the network: they are empty there.
    pub emptied: Vec<PathBuf>,
}

/// Moves this process, of one thread, into the namespace `name` and a mount namespace of its own, for good
/// (CAP_SYS_ADMIN). The working folder stays. Files of /etc/netns/NAME that have no counterpart in /etc are left out, and
/// returned.
pub fn move_in(name: &str, view: &View) -> Result<Vec<PathBuf>> {
    let what = || format!("enter the network namespace {name}");
    let own_files = Path::new("/etc/netns").join(name);
    let resolver =
        fs::canonicalize("/etc/resolv.conf").unwrap_or_else(|_| "/etc/resolv.conf".into());
    enter(named(name)?.as_fd())?;
    sys::check(unsafe_unshare(libc::CLONE_NEWNS)).context(what)?;
    let none = Path::new("none");
    // What is mounted here from now on is nobody else's business; what others mount is seen.
    mount(none, Path::new("/"), None, libc::MS_SLAVE | libc::MS_REC).context(what)?;
    // Links are shown by the namespace that sysfs was mounted from. In a container it may not be allowed, and isn't needed.
    let sys = Path::new("/sys");
    let sysfs = |flags| mount(Path::new(name), sys, Some("sysfs"), flags);
    let _ = sysfs(0).or_else(|_| sysfs(libc::MS_RDONLY));
    for folder in view.emptied.iter().filter(|folder| folder.is_dir()) {
        mount(
            none,
            folder,
            Some("tmpfs"),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        )
        .context(what)?;
    }
    let (mut has_resolver, mut left_out) = (false, Vec::new());
    for entry in fs::read_dir(&own_files).into_iter().flatten().flatten() {
        let target = Path::new("/etc").join(entry.file_name());
        has_resolver |= entry.file_name() == "resolv.conf";
        let target = if entry.file_name() == "resolv.conf" {
            &resolver
        } else {
            &target
        };
        if target == &resolver {
            make_resolver(target);
        }
        // What isn't there has no place to be put in, as for `ip netns exec`: to make one would be to change the host.
        if !target.exists() {
            left_out.push(entry.path());
            continue;
        }
        mount(&entry.path(), target, None, libc::MS_BIND)
            .context(|| format!("put {} in its place", entry.path().display()))?;
    }
    if let Some(text) = view.resolver.as_ref().filter(|_| !has_resolver) {
        make_resolver(&resolver);
        put(text, &resolver)
            .context(|| format!("put another {} in its place", resolver.display()))?;
    }
    Ok(left_out)
}

/// A resolv.conf to mount on: it may be a link into a folder that was emptied. On a host that has none, an empty one says the
/// same as none (resolv.conf(5)).
fn make_resolver(path: &Path) {
    if !path.exists() {
        let _ = path.parent().map(fs::create_dir_all);
        let _ = File::create(path);
    }
}

/// Lets `path` be a file with that text, for this mount namespace alone: a file of a file system that is in no folder.
fn put(text: &str, path: &Path) -> io::Result<()> {
    let place = Path::new("/tmp");
    mount(
        Path::new("none"),
        place,
        Some("tmpfs"),
        libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
    )?;
    let file = place.join("resolv.conf");
    let done = fs::write(&file, text).and_then(|()| {
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        mount(&file, path, None, libc::MS_BIND)
    });
    let place = c_path(place)?;
    // SAFETY: the path is live and ends with a zero.
    sys::check(unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) })?;
    done
}

fn mount(from: &Path, to: &Path, kind: Option<&str>, flags: libc::c_ulong) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    let kind = CString::new(kind.unwrap_or_default())?;
    // SAFETY: all three are live and end with a zero; there are no options.
    let done = unsafe {
        libc::mount(
            from.as_ptr(),
            to.as_ptr(),
            kind.as_ptr(),
            flags,
            std::ptr::null(),
        )
    };
    sys::check(done).map(drop)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_way_to_elsewhere() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "../../etc/passwd",
            "/etc/passwd",
            "a/",
            "a\0",
        ] {
            let refused = [named(name).err(), delete_named(name).err()];
            for error in refused.into_iter().map(Option::unwrap) {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
            }
        }
        assert_eq!(path_of("work").unwrap(), Path::new("/run/netns/work"));
    }
}
