//! A filter of system calls: what the daemon's threads never need ends the process.
//!
//! Strategy: an allow-list as a classic BPF program, written by hand, so that nothing is linked in for it. What is
//! dangerous in some forms only is looked at more closely: sockets of other families, new processes (threads pass),
//! memory that is both written and run, devices' controls other than the TUN's, modes of files (Landlock doesn't look at
//! them), signals to other processes and their limits. What is not on the list raises SIGSYS;
//! the handler says which call it was and lets the signal do its work. What a library tries and can do without gets an
//! error. The filter belongs to the calling thread and those it starts, for good: put it there before there are others.
//!
//! What it does not do: look at paths (the kernel can't from here, see `landlock.rs`), or know a call's purpose.
//!
//! Source: Linux Documentation/userspace-api/seccomp_filter.rst, seccomp(2), include/uapi/linux/{seccomp,filter,audit}.h.
mod calls;
mod program;

use crate::error::{Context, Result};
use crate::sys::{self, Zeroed};
use program::program;
use std::io;
use std::mem;

/// Puts the filter on the calling thread and on all that it starts. Needs no_new_privs, or CAP_SYS_ADMIN.
pub fn confine() -> Result<()> {
    let what = || "filter system calls";
    on_violation().context(what)?;
    let mut program = program();
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // Without this flag kernels before 5.16 slow the process down by a mitigation meant for untrusted code.
    let flags = [libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0];
    let mut done = Ok(0);
    for flags in flags {
        // SAFETY: the program is live and of the length it says; the kernel copies it.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        done = sys::check(ret as libc::c_int);
        if !matches!(&done, Err(e) if e.raw_os_error() == Some(libc::EINVAL)) {
            break;
        }
    }
    done.map(drop).context(what)
}

fn on_violation() -> io::Result<()> {
    let mut action = libc::sigaction::zeroed();
    action.sa_sigaction = violated as extern "C" fn(_, _, _) as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the structure is live, and the handler makes async-signal-safe calls only.
    sys::check(unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) })?;
    Ok(())
}

/// Says which call it was, and dies of the signal.
extern "C" fn violated(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    /// Where siginfo_t has the number of the call (include/uapi/asm-generic/siginfo.h, struct _sigsys, 64 bits).
    const SYSCALL: usize = 24;
    // SAFETY: the kernel hands in a siginfo_t of 128 bytes.
    let number = unsafe {
        info.cast::<u8>()
            .add(SYSCALL)
            .cast::<libc::c_int>()
            .read_unaligned()
    };
    let mut line = [0u8; 96];
    let len = sentence(number.unsigned_abs(), &mut line);
    // SAFETY: the pointer and length describe `line`; all calls here are async-signal-safe.
    unsafe {
        libc::write(2, line.as_ptr().cast(), len);
        let mut action = libc::sigaction::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut());
        // Blocked while this runs; it comes when the handler returns. Not by `raise`, which is another call in each libc.
        libc::syscall(
            libc::SYS_tgkill,
            libc::getpid(),
            libc::gettid(),
            libc::SIGSYS,
        );
    }
}

/// The line to be said, written without allocating; its length.
fn sentence(mut number: u32, line: &mut [u8; 96]) -> usize {
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let parts: [&[u8]; 3] = [
        b"meshd: system call ",
        &digits[at..],
        b" is not one that it needs: ending here (please report this)\n",
    ];
    let mut len = 0;
    for byte in parts.into_iter().flatten() {
        line[len] = *byte;
        len += 1;
    }
    len
}

const _: () = assert!(mem::size_of::<libc::siginfo_t>() == 128);

#[cfg(test)]
mod tests;
