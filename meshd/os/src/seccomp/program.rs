//! The filter as a classic BPF program: a comparison for each call, and a closer look at the arguments of some.
//!
//! Of an argument the lower half is looked at: the kernel takes no more of those that are here, or has no meaning for a bit
//! above (`mmap`, `clone`). On x86_64 a call of the x32 ABI has bit 30 in its number and is on no list.
use super::calls::{ALLOWED, FAMILIES, HOT, IOCTLS, PRCTLS};

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

pub(super) fn program() -> Vec<libc::sock_filter> {
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
    // musl's abort(): it names no process, so it can't be kept to ours. Without it abort() ends by a fault (SIGSEGV).
    program.when(libc::SYS_tkill, &[give(refuse(libc::EPERM))]);
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
