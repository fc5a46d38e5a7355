//! Giving up what the daemon does not need, before it reads its first packet.
//!
//! Strategy: capabilities shrink to the few named, no file gains privileges any more, and nobody of the same user may read
//! this process's memory or get its core. Capabilities belong to threads: call this before the first one is started.
//!
//! Source: capabilities(7), capset(2), prctl(2).
use crate::error::{Context, Result};
use crate::sys;

/// CAP_NET_ADMIN: addresses, routes, marks.
pub const NET_ADMIN: u32 = 12;
/// CAP_SYS_ADMIN: entering namespaces.
pub const SYS_ADMIN: u32 = 21;
/// CAP_NET_BIND_SERVICE: ports below 1024.
pub const NET_BIND_SERVICE: u32 = 10;

/// _LINUX_CAPABILITY_VERSION_3: 64 bits of capabilities in two structures.
const VERSION: u32 = 0x2008_0522;
/// CAP_LAST_CAP of any kernel to come: prctl says where it really ends.
const MAX_CAPABILITY: u32 = 63;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn read_capabilities() -> Result<[Data; 2]> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: both structures have the kernel's layout, and version 3 writes exactly two data entries.
    let ret = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    sys::check(ret as libc::c_int).context(|| "read capabilities")?;
    Ok(data)
}

fn write_capabilities(data: &[Data; 2]) -> Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    // SAFETY: both structures have the kernel's layout; the kernel only reads the data.
    let ret = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    sys::check(ret as libc::c_int).context(|| "give up capabilities")?;
    Ok(())
}

/// Whether the calling thread has `capability` now.
pub fn has_capability(capability: u32) -> bool {
    let word = (capability / 32) as usize;
    read_capabilities().is_ok_and(|data| {
        data.get(word)
            .is_some_and(|d| d.effective >> (capability % 32) & 1 != 0)
    })
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> std::io::Result<libc::c_int> {
    // SAFETY: the options used here take integers only.
    sys::check(unsafe { libc::prctl(option, argument, 0, 0, 0) })
}

/// Keeps of its capabilities only those in `keep`, for good: also out of what a program it starts could get.
pub fn keep_capabilities(keep: &[u32]) -> Result<()> {
    // The ambient set is only a convenience for children; kernels before 4.3 have none.
    // SAFETY: integers only.
    unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    for capability in (0..=MAX_CAPABILITY).filter(|c| !keep.contains(c)) {
        // Without CAP_SETPCAP the bounding set can't shrink; no_new_privs then keeps it from mattering.
        let _ = prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability));
    }
    let mut data = read_capabilities()?;
    let mut mask = [0u32; 2];
    for &capability in keep {
        if let Some(word) = mask.get_mut((capability / 32) as usize) {
            *word |= 1 << (capability % 32);
        }
    }
    for (data, mask) in data.iter_mut().zip(mask) {
        data.permitted &= mask;
        data.effective &= mask;
        data.inheritable = 0;
    }
    write_capabilities(&data)
}

/// No program started from here can gain privileges (set-user-ID bits and file capabilities are ignored).
pub fn no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).context(|| "set no_new_privs")?;
    Ok(())
}

/// No core dumps, and no ptrace or /proc/PID/mem by processes of the same user: keys stay inside.
pub fn undumpable() -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0).context(|| "forbid core dumps")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_up_is_given_up() {
        // In a thread of its own: capabilities, no_new_privs and the bounding set are the thread's.
        std::thread::spawn(|| {
            let had = has_capability(NET_ADMIN);
            keep_capabilities(&[NET_ADMIN]).unwrap();
            assert_eq!(has_capability(NET_ADMIN), had);
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let value = |key: &str| {
                let line = status.lines().find(|l| l.starts_with(key)).unwrap();
                u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
            };
            assert_eq!(value("CapPrm:") & !(1 << NET_ADMIN), 0);
            assert_eq!(value("CapEff:") & !(1 << NET_ADMIN), 0);
            assert_eq!(value("CapInh:"), 0);
            no_new_privileges().unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("NoNewPrivs:\t1"));
            keep_capabilities(&[]).unwrap();
            assert!(!has_capability(NET_ADMIN));
        })
        .join()
        .unwrap();
    }
}
