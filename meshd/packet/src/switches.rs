//! Each trick can be switched off by the environment, to find out who is at fault.

use meshd_os::tun::TunOptions;
use meshd_os::udp::UdpOptions;

/// What may be used; the kernel may still lack it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// UDP_SEGMENT; off with `MESHD_NO_GSO=1`.
    pub gso: bool,
    /// UDP_GRO; off with `MESHD_NO_GRO=1`.
    pub gro: bool,
    /// Super-packets on the TUN, both ways; off with `MESHD_NO_TUN_OFFLOAD=1`.
    pub tun_offload: bool,
    /// UDP super-packets on the TUN; off with `MESHD_NO_USO=1`.
    pub uso: bool,
    /// Delivering threads go before other programs; off with `MESHD_NO_PRIORITY=1`.
    pub priority: bool,
    /// While there is little to send, the receiving thread sends too; off with `MESHD_NO_ONE_THREAD=1`.
    pub one_thread: bool,
    /// Queues of the TUN, each with two threads and sockets of its own; `MESHD_QUEUES=N` asks for N.
    pub queues: usize,
}

/// More have never been tried.
const MAX_QUEUES: usize = 8;

impl Switches {
    /// Reads the environment.
    pub fn from_env() -> Self {
        let on = |name: &str| !std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
        Self {
            gso: on("MESHD_NO_GSO"),
            gro: on("MESHD_NO_GRO"),
            tun_offload: on("MESHD_NO_TUN_OFFLOAD"),
            uso: on("MESHD_NO_USO"),
            priority: on("MESHD_NO_PRIORITY"),
            one_thread: on("MESHD_NO_ONE_THREAD"),
            queues: queues(std::env::var("MESHD_QUEUES").ok().as_deref(), cores()),
        }
    }

    /// How the outer sockets are to be made: bind them with this, so that the switches count.
    pub fn udp_options(&self, port: u16, mark: u32) -> UdpOptions {
        UdpOptions {
            port,
            mark,
            gro: self.gro,
            gso: self.gso,
            ..UdpOptions::default()
        }
    }

    /// How the TUN is to be made.
    pub fn tun_options(&self) -> TunOptions {
        TunOptions {
            multi_queue: self.queues > 1,
            offload: self.tun_offload,
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// As many as `asked` for; else one for two cores, since a queue has a thread for each direction, and no more than four: what
/// one stream fills is one queue, and what many need is rarely more.
fn queues(asked: Option<&str>, cores: usize) -> usize {
    let asked = asked.and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    asked.map_or((cores / 2).clamp(1, 4), |n: usize| n.min(MAX_QUEUES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_for_two_cores_unless_asked() {
        for (asked, cores, expected) in [
            (None, 1, 1),
            (None, 2, 1),
            (None, 3, 1),
            (None, 4, 2),
            (None, 64, 4),
            (Some("3"), 2, 3),
            (Some("1"), 64, 1),
            (Some("1000"), 2, MAX_QUEUES),
            (Some("0"), 2, 1),
            (Some("many"), 8, 4),
        ] {
            assert_eq!(queues(asked, cores), expected, "{asked:?} {cores}");
        }
    }
}
