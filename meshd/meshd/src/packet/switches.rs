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
}

impl Switches {
    /// Reads the environment.
    pub fn from_env() -> Self {
        let on = |name: &str| !std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
        Self {
            gso: on("MESHD_NO_GSO"),
            gro: on("MESHD_NO_GRO"),
            tun_offload: on("MESHD_NO_TUN_OFFLOAD"),
            uso: on("MESHD_NO_USO"),
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
            multi_queue: false,
            offload: self.tun_offload,
        }
    }
}
