//! The filter at work, each time in a process of its own; and the program as a list.
use super::calls::{ALLOWED, HOT};
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
        command
            .pre_exec(|| sys::check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).map(drop))
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
        fails(libc::syscall(libc::SYS_tkill, parent, 0));
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
