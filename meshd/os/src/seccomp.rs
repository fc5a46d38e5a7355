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
use crate::error::{Context, Result};
use crate::sys::{self, Zeroed};
use std::io;
use std::mem;

/// AUDIT_ARCH_… of this build.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Where struct seccomp_data has the number, the architecture, and the lower half of an argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(n: u32) -> u32 {
    16 + 8 * n
}

/// Called for every packet or nearly so: first in the list.
const HOT: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_ppoll,
    libc::SYS_epoll_pwait,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];

/// Everything else that passes whatever its arguments are.
const ALLOWED: &[libc::c_long] = &[
    // Files and descriptors.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_memfd_create,
    MEMFD_SECRET,
    // Sockets; `socket` itself is looked at below.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_accept,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    // Memory; `mmap` and `mprotect` are looked at below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_msync,
    // Threads, time, signals, and what a process may know of itself.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_setpriority,
    libc::SYS_membarrier,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Giving up more.
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_seccomp,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
    // What glibc calls on x86_64 by its older names.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// memfd_secret(2), by its number: some targets of the libc crate lack it.
const MEMFD_SECRET: libc::c_long = 447;

/// What the daemon asks of devices: TUN queues, and a link's number by its name. TCGETS is a library's look whether it
/// writes to a terminal; FIONBIO and FIONREAD are plain sockets.
const IOCTLS: &[u32] = &[
    libc::TUNSETIFF as u32,
    libc::TUNGETIFF as u32,
    libc::TUNSETOFFLOAD as u32,
    libc::TUNGETFEATURES as u32,
    libc::TUNSETVNETHDRSZ as u32,
    libc::TUNGETVNETHDRSZ as u32,
    libc::TUNSETSNDBUF as u32,
    libc::TUNSETQUEUE as u32,
    libc::TUNSETPERSIST as u32,
    libc::SIOCGIFINDEX as u32,
    libc::FIONBIO as u32,
    libc::FIONREAD as u32,
    libc::TCGETS as u32,
];

const FAMILIES: &[u32] = &[
    libc::AF_UNIX as u32,
    libc::AF_INET as u32,
    libc::AF_INET6 as u32,
    libc::AF_NETLINK as u32,
];

/// Giving up, naming threads, tying a process's life to its parent's. PR_SET_VMA is how glibc names memory.
const PRCTLS: &[u32] = &[
    libc::PR_SET_NO_NEW_PRIVS as u32,
    libc::PR_GET_NO_NEW_PRIVS as u32,
    libc::PR_SET_DUMPABLE as u32,
    libc::PR_GET_DUMPABLE as u32,
    libc::PR_SET_NAME as u32,
    libc::PR_CAPBSET_DROP as u32,
    libc::PR_CAPBSET_READ as u32,
    libc::PR_CAP_AMBIENT as u32,
    0x5356_4d41,
];

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: (libc::BPF_JMP | test | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    }
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn give(action: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

fn refuse(errno: libc::c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// The program being written; the number of the call is loaded at the beginning of each part.
struct Program(Vec<libc::sock_filter>);

impl Program {
    fn when(&mut self, call: libc::c_long, then: &[libc::sock_filter]) {
        self.0
            .push(jump(libc::BPF_JEQ, call as u32, 0, then.len() as u8));
        self.0.extend_from_slice(then);
    }

    /// The call passes when an argument is one of `values`; else it is answered with `otherwise`.
    fn when_among(&mut self, call: libc::c_long, n: u32, values: &[u32], otherwise: u32) {
        let mut then = vec![load(argument(n))];
        for (at, value) in values.iter().enumerate() {
            // To the `allow` behind them all.
            then.push(jump(libc::BPF_JEQ, *value, (values.len() - at) as u8, 0));
        }
        then.extend([give(otherwise), give(libc::SECCOMP_RET_ALLOW)]);
        self.when(call, &then);
    }

    /// The call passes when none of `bits` is set in an argument (`wanted`: when any is); else it is answered so.
    fn when_bits(&mut self, call: libc::c_long, n: u32, bits: i32, wanted: bool, otherwise: u32) {
        let (set, clear) = (u8::from(!wanted), u8::from(wanted));
        let then = [
            load(argument(n)),
            jump(libc::BPF_JSET, bits as u32, set, clear),
            give(libc::SECCOMP_RET_ALLOW),
            give(otherwise),
        ];
        self.when(call, &then);
    }
}

fn program() -> Vec<libc::sock_filter> {
    let allow = [give(libc::SECCOMP_RET_ALLOW)];
    let mut program = Program(vec![
        load(ARCHITECTURE),
        jump(libc::BPF_JEQ, ARCH, 1, 0),
        give(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ]);
    for call in HOT.iter().chain(ALLOWED) {
        program.when(*call, &allow);
    }
    program.when_among(libc::SYS_socket, 0, FAMILIES, refuse(libc::EAFNOSUPPORT));
    program.when_among(libc::SYS_ioctl, 1, IOCTLS, refuse(libc::EPERM));
    program.when_among(libc::SYS_prctl, 0, PRCTLS, refuse(libc::EPERM));
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        program.when_bits(call, 2, libc::PROT_EXEC, false, libc::SECCOMP_RET_TRAP);
    }
    // Sockets are made 0600 before they have a name; nothing becomes readable by others, or set-user-ID, from here.
    program.when_among(libc::SYS_fchmod, 1, &[0o600], refuse(libc::EPERM));
    // Of this process alone; the number stays, since no other can come of it.
    let own = [0, std::process::id()];
    program.when_among(libc::SYS_tgkill, 0, &own[1..], refuse(libc::EPERM));
    for call in [libc::SYS_prlimit64, libc::SYS_sched_setaffinity] {
        program.when_among(call, 0, &own, refuse(libc::EPERM));
    }
    // Threads, but no processes. clone3 hides its flags behind a pointer: glibc goes on with clone when it is missing.
    program.when_bits(
        libc::SYS_clone,
        0,
        libc::CLONE_THREAD,
        true,
        libc::SECCOMP_RET_TRAP,
    );
    program.when(libc::SYS_clone3, &[give(refuse(libc::ENOSYS))]);
    program.0.push(give(libc::SECCOMP_RET_TRAP));
    program.0
}

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
        // Blocked while this runs; it comes when the handler returns.
        libc::raise(libc::SIGSYS);
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
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Output};

    /// Runs this test program again, with only the test `name` in it and the filter on.
    fn child(name: &str) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            &format!("seccomp::tests::{name}"),
            "--ignored",
            "--nocapture",
        ]);
        command.args(["--test-threads", "1"]).env("CONFINED", "1");
        // SAFETY: nothing is done between fork and exec but a system call.
        unsafe {
            command.pre_exec(|| {
                sys::check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).map(drop)
            })
        };
        command.output().unwrap()
    }

    #[test]
    #[ignore = "run by `a_violation_is_said_and_deadly` in a process of its own"]
    fn starts_a_program() {
        confine().unwrap();
        let _ = Command::new("true").status();
    }

    #[test]
    #[ignore = "run by `a_violation_is_said_and_deadly` in a process of its own"]
    fn changes_a_mode() {
        let path = std::env::current_exe().unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions();
        confine().unwrap();
        let _ = std::fs::set_permissions(path, mode);
    }

    #[test]
    #[ignore = "run by `what_is_needed_passes` in a process of its own"]
    fn lives_on() {
        confine().unwrap();
        std::thread::spawn(|| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .join()
            .unwrap();
        // SAFETY: no pointers are passed, and a page of nobody's is asked for.
        unsafe {
            assert_eq!(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0), -1);
            assert_eq!(
                io::Error::last_os_error().raw_os_error(),
                Some(libc::EAFNOSUPPORT)
            );
            let fails = |ret: libc::c_long| {
                assert_eq!(ret, -1);
                assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
            };
            fails(libc::ioctl(0, libc::TIOCSTI as _, 0).into());
            let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
            assert_eq!(libc::fchmod(socket, 0o600), 0);
            fails(libc::fchmod(socket, 0o666).into());
            fails(libc::fchmod(socket, 0o4755).into());
            let (own, parent) = (libc::getpid(), libc::getppid());
            assert_eq!(libc::syscall(libc::SYS_tgkill, own, libc::gettid(), 0), 0);
            fails(libc::syscall(libc::SYS_tgkill, parent, parent, 0));
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            assert_eq!(libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit), 0);
            let none = std::ptr::null::<libc::rlimit>();
            fails(libc::prlimit(parent, libc::RLIMIT_CORE, none, &raw mut limit).into());
        }
        println!("lived");
    }

    #[test]
    #[ignore = "run by `a_violation_is_said_and_deadly` in a process of its own"]
    fn runs_what_it_wrote() {
        confine().unwrap();
        let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        // SAFETY: a page of nobody's is asked for.
        unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                prot,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
    }

    #[test]
    fn a_violation_is_said_and_deadly() {
        for name in ["starts_a_program", "runs_what_it_wrote", "changes_a_mode"] {
            let output = child(name);
            assert_eq!(
                output.status.signal(),
                Some(libc::SIGSYS),
                "{name}: {output:?}"
            );
            // glibc blocks all signals while it starts a program, and a signal that can't be handled kills at once.
            let said = String::from_utf8(output.stderr).unwrap();
            let heard =
                said.contains("meshd: system call ") && said.contains("is not one that it needs");
            assert!(heard || name == "starts_a_program", "{name}: {said}");
        }
    }

    #[test]
    fn what_is_needed_passes() {
        let output = child("lives_on");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("lived"));
    }

    #[test]
    fn no_call_is_named_twice_and_jumps_stay_inside() {
        let mut all: Vec<_> = HOT.iter().chain(ALLOWED).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        let program = program();
        assert!(program.len() < 4096, "BPF_MAXINSNS");
        let is_jump = |s: &libc::sock_filter| u32::from(s.code) & 7 == libc::BPF_JMP;
        for (at, statement) in program.iter().enumerate().filter(|(_, s)| is_jump(s)) {
            let furthest = at + 1 + usize::from(statement.jt.max(statement.jf));
            assert!(furthest < program.len(), "{at}");
        }
    }
}
