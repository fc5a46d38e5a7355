//! Fuzzing: everything in meshd that reads bytes from outside, and the whole protocol core, under any input.
//!
//! Strategy: a target is a function of bytes that panics when something is wrong; [`TARGETS`] lists them all. Three things
//! run them: `tests/replay.rs` feeds the committed corpora and some mutations of them on every `make check`; the program
//! `fuzz`, driven by libFuzzer with coverage (`meshd/fuzz/run`, `make nightly`), looks for new inputs; and an input that
//! once broke something stays in the corpus under a name that says what it broke.
//!
//! What it does not do: I/O. The doors to private parsers are the `fuzzing` modules of the crates themselves.
#![forbid(unsafe_code)]

mod aead;
mod cursor;
mod device;
mod offload;
mod uapi;

/// A target's name, which is its corpus' folder, what it does, and the longest input worth trying, in bytes.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
    /// Longest input.
    pub max_len: usize,
}

const fn target(name: &'static str, max_len: usize, run: fn(&[u8])) -> Target {
    Target { name, run, max_len }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("aead", 4096, aead::batch),
    target("coalesce", 4096, offload::coalesce),
    target("command_line", 256, meshd::fuzzing::command_line),
    target("configuration", 2048, meshd::fuzzing::configuration),
    target("control_line", 1024, meshd::fuzzing::control_line),
    target("device", 1024, device::script),
    target("dns", 600, meshd_os::fuzzing::dns),
    target("hosts_file", 512, meshd::fuzzing::hosts_file),
    target("instant", 32, meshd::fuzzing::instant),
    target("kept", 256, device::kept::script),
    target("name_files", 512, meshd_os::fuzzing::name_files),
    target("netlink", 1024, meshd_os::fuzzing::netlink),
    target("netlink_built", 1024, meshd_os::fuzzing::netlink_built),
    target("packet", 2048, meshd_packet::fuzzing::packet),
    target("segment", 4096, offload::segment),
    target("uapi", 2048, uapi::requests),
];
