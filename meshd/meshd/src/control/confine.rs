//! Giving up what the daemon doesn't need, before there are threads, keys or packets.
//!
//! Strategy: five locks, each with a file of its own in `os`: capabilities shrink to one or two; no program gains any back;
//! nobody of the same user reads this memory; nothing is written outside a few folders; and no system call passes that is
//! not on a list. They hold for every thread and can't be undone; `meshd upgrade` is a new process for that reason. The unit
//! has its own of most of these; here they hold without systemd too. Where a kernel or a container refuses one, the daemon
//! runs all the same, and says so.

use std::fs::File;
use std::path::{Path, PathBuf};

use meshd_os::{landlock, sandbox, seccomp, Result};

/// The one device that is opened for writing.
const TUN: &str = "/dev/net/tun";

/// See the file's head. `folders` are made when they are missing.
pub fn confine(folders: &[PathBuf]) {
    for folder in folders {
        // If it can't be made, who uses it says so in better words.
        let _ = std::fs::create_dir_all(folder);
    }
    // The kernel may forget a folder of /proc that nobody has open, and make another one of that name, which Landlock wouldn't
    // know: these stay open as long as the process lives.
    for folder in folders.iter().filter(|folder| folder.starts_with("/proc")) {
        std::mem::forget(File::open(folder));
    }
    let folders = folders.iter().map(PathBuf::as_path);
    let done = [
        sandbox::keep_capabilities(&[sandbox::NET_ADMIN, sandbox::NET_BIND_SERVICE]),
        sandbox::no_new_privileges(),
        sandbox::undumpable(),
        landlock::write_only(folders, [Path::new(TUN)]).and_then(there),
        seccomp::confine(),
    ];
    for error in done.into_iter().filter_map(Result::err) {
        eprintln!("meshd: warning: {error}");
    }
}

fn there(restricted: bool) -> Result<()> {
    if restricted {
        return Ok(());
    }
    let why = "this kernel has no Landlock, or has it turned off";
    let error = std::io::Error::new(std::io::ErrorKind::Unsupported, why);
    Err(meshd_os::Error::new("restrict what is written", error))
}
