//! Landlock: nothing is written, made or deleted outside a few folders, and no program is started.
//!
//! Strategy: one rule a folder; everything may be read as before. What is open already stays open. Kernels before 5.13,
//! and those that have it turned off, say so: the caller decides. Needs no_new_privs or CAP_SYS_ADMIN.
//!
//! What it does not do: guard sockets (connecting to one is no writing), modes and owners of files (seccomp does), what other
//! processes write; before Linux 6.2 (the third version), what is only emptied by opening it for reading (O_TRUNC).
//!
//! Source: Linux Documentation/userspace-api/landlock.rst, include/uapi/linux/landlock.h.
use crate::error::{Context, Error, Result};
use crate::sys;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// LANDLOCK_ACCESS_FS_EXECUTE, _WRITE_FILE.
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
/// _REMOVE_DIR, _REMOVE_FILE, and _MAKE_… of every kind of file: bits 4 to 12.
const MAKE_AND_REMOVE: u64 = 0x1ff0;
/// _TRUNCATE, known from the third version on.
const TRUNCATE: u64 = 1 << 14;

const CREATE_RULESET_VERSION: libc::c_uint = 1;
const RULE_PATH_BENEATH: libc::c_int = 1;

/// struct landlock_ruleset_attr, as of its first version.
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
}

/// struct landlock_path_beneath_attr.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Keeps the calling thread, and those it starts, from writing outside `folders` and `files`. Those that aren't there
/// are left out. False: this kernel has no Landlock.
pub fn write_only<'a>(
    folders: impl IntoIterator<Item = &'a Path>,
    files: impl IntoIterator<Item = &'a Path>,
) -> Result<bool> {
    let what = || "restrict what is written (Landlock)";
    let version = match version() {
        Ok(version) => version,
        Err(e) if [Some(libc::ENOSYS), Some(libc::EOPNOTSUPP)].contains(&e.raw_os_error()) => {
            return Ok(false)
        }
        Err(e) => return Err(Error::new(what(), e)),
    };
    let truncate = if version >= 3 { TRUNCATE } else { 0 };
    let writing = WRITE_FILE | MAKE_AND_REMOVE | truncate;
    let ruleset = create(writing | EXECUTE).context(what)?;
    let rules = folders.into_iter().map(|path| (path, writing));
    let rules = rules.chain(files.into_iter().map(|path| (path, WRITE_FILE | truncate)));
    for (path, allowed) in rules {
        let place = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path);
        match place {
            Ok(place) => allow(&ruleset, &place, allowed).context(what)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::new(format!("open {}", path.display()), e)),
        }
    }
    // SAFETY: integers only.
    let ret = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    sys::check(ret as libc::c_int).context(what)?;
    Ok(true)
}

fn version() -> io::Result<i32> {
    let none = std::ptr::null::<Ruleset>();
    // SAFETY: with this flag the kernel takes no pointer.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            none,
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    sys::check(ret as libc::c_int)
}

fn create(handled_access_fs: u64) -> io::Result<OwnedFd> {
    let ruleset = Ruleset { handled_access_fs };
    // SAFETY: the structure is live and its true size is passed; the kernel only reads it.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            std::mem::size_of::<Ruleset>(),
            0,
        )
    };
    sys::own(ret as libc::c_int)
}

fn allow(ruleset: &OwnedFd, place: &File, allowed_access: u64) -> io::Result<()> {
    let rule = PathBeneath {
        allowed_access,
        parent_fd: place.as_fd().as_raw_fd(),
    };
    // SAFETY: the structure is live and of the kernel's layout; the kernel only reads it.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0,
        )
    };
    sys::check(ret as libc::c_int).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn writing_stays_inside() {
        let top = std::env::temp_dir().join(format!("meshd-landlock-{}", std::process::id()));
        let (own, other) = (top.join("own"), top.join("other"));
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("file"), "x").unwrap();
        // In a thread of its own: the restriction is the thread's.
        let done = std::thread::spawn(move || {
            crate::sandbox::no_new_privileges().unwrap();
            if !write_only(
                [own.as_path(), Path::new("/nowhere")],
                [Path::new("/dev/null")],
            )
            .unwrap()
            {
                eprintln!("skipped: this kernel has no Landlock");
                return;
            }
            fs::write(own.join("new"), "y").unwrap();
            fs::rename(own.join("new"), own.join("file")).unwrap();
            fs::write("/dev/null", "z").unwrap();
            assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "x");
            let denied =
                |done: io::Result<()>| done.unwrap_err().kind() == io::ErrorKind::PermissionDenied;
            assert!(denied(fs::write(other.join("file"), "y")));
            assert!(denied(fs::write(other.join("new"), "y")));
            assert!(denied(fs::remove_file(other.join("file"))));
            assert!(denied(fs::create_dir(other.join("folder"))));
        });
        done.join().unwrap();
        fs::remove_dir_all(top).unwrap();
    }
}
