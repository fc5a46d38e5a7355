//! Where everything of a mesh lies on a host, in one place.

use std::path::PathBuf;

/// The hosts file.
pub const HOSTS: &str = "/etc/hosts";

/// Folder of the configurations, 0700.
pub const CONF_DIR: &str = "/etc/meshd";

/// The confirmed configuration.
pub fn conf(name: &str) -> PathBuf {
    PathBuf::from(format!("{CONF_DIR}/{name}.conf"))
}

/// The staged configuration.
pub fn next(name: &str) -> PathBuf {
    PathBuf::from(format!("{CONF_DIR}/{name}.next"))
}

/// The staged configuration at the moment in which it is confirmed.
pub fn aside(name: &str) -> PathBuf {
    PathBuf::from(format!("{CONF_DIR}/{name}.confirming"))
}

/// Our control socket.
pub fn control_socket(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/meshd/{name}.sock"))
}

/// The cross-platform WireGuard socket of an interface (wireguard.com/xplatform).
pub fn uapi_socket(interface: &str) -> PathBuf {
    PathBuf::from(format!("/run/wireguard/{interface}.sock"))
}

/// The folder of those.
pub fn uapi_dir() -> PathBuf {
    PathBuf::from("/run/wireguard")
}

/// The folders that the daemon writes to; the last one's files are switches of the kernel.
pub fn written() -> [PathBuf; 4] {
    [
        PathBuf::from("/run/meshd"),
        uapi_dir(),
        state_dir(),
        PathBuf::from(IPV6_SWITCHES),
    ]
}

/// The IPv6 settings of this network namespace, a folder for each link (kernel's ip-sysctl.rst).
pub const IPV6_SWITCHES: &str = "/proc/sys/net/ipv6/conf";

/// Process id of a supervisor.
pub fn pid_file(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/meshd/{name}.pid"))
}

/// Where a supervisor is told what to keep.
pub fn keeper_socket(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/meshd/{name}.keeper"))
}

/// Where the roles place this program, one folder a version.
pub const LIB: &str = "/usr/local/lib/meshd";

/// The version that is to run.
pub fn current_program() -> PathBuf {
    PathBuf::from(format!("{LIB}/current/meshd"))
}

/// What a supervised daemon prints.
pub fn log_file(name: &str) -> PathBuf {
    PathBuf::from(format!("/var/log/meshd-{name}.log"))
}

/// Folder of what is kept between runs.
pub fn state_dir() -> PathBuf {
    std::env::var_os("STATE_DIRECTORY").map_or_else(|| "/var/lib/meshd".into(), PathBuf::from)
}

/// The high-water mark of the handshake labels.
pub fn label_mark(name: &str) -> PathBuf {
    state_dir().join(format!("{name}.tai64n"))
}

/// Says which network namespace was made for a mesh. Root writes it and trusts it, so it must not lie in `/run/meshd`, which
/// belongs to the daemon's user under systemd.
pub fn made_namespace(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/meshd-netns/{name}"))
}

/// The links whose forwarding was turned on.
pub fn forward_record(name: &str) -> PathBuf {
    state_dir().join(format!("{name}.forward"))
}

/// The IPv6 switches that were turned for an exit.
pub fn forward6_record(name: &str) -> PathBuf {
    state_dir().join(format!("{name}.forward6"))
}
