//! A kernel without nf_tables, for one process: a filter of system calls that knows no netlink protocol of that number,
//! which is how such a kernel answers (net/netlink/af_netlink.c, netlink_create).
use crate::common::{Host, MESHD};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Runs `meshd` there in the background.
pub fn start(host: &mut Host, args: &[&str]) {
    let mut command = host.command(MESHD, args);
    host.adopt(cut_off(&mut command).spawn().unwrap());
}

/// Runs `meshd` there with something on stdin; what it says on stderr.
pub fn output(host: &Host, args: &[&str], stdin: &str) -> String {
    let mut command = host.command(MESHD, args);
    let mut child = cut_off(&mut command)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(stdin.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn cut_off(command: &mut Command) -> &mut Command {
    let refuse = || {
        // Struct seccomp_data: the number at 0, the lower half of the third argument at 32.
        let statement = |code: u32, k: u32| libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf: 0,
            k,
        };
        let unless = |k: u32, skip: u8| libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: skip,
            k,
        };
        let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        let give = libc::BPF_RET | libc::BPF_K;
        let mut program = [
            statement(load, 0),
            unless(libc::SYS_socket as u32, 5),
            statement(load, 16),
            unless(libc::AF_NETLINK as u32, 3),
            statement(load, 32),
            unless(libc::NETLINK_NETFILTER as u32, 1),
            statement(give, libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT as u32),
            statement(give, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: the program is live and of the length it says; the call is async-signal-safe.
        let done = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the closure makes one async-signal-safe call and allocates nothing.
    unsafe { command.pre_exec(refuse) }
}
