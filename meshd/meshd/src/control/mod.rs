//! The daemon: one control thread that owns the protocol core, all timers, the sockets people talk to, and the settings of
//! the interface. Packet threads (`meshd_packet`) move packets by the table it publishes.

pub mod bare;
mod closing;
mod confine;
mod conversation;
mod engine;
mod interface;
mod links;
mod live;
mod loaded;
mod lookups;
mod memory;
pub mod mesh;
mod names;
mod outer;
mod path_mtu;
mod requests;
mod running;
pub mod space;
mod spaces;
mod store;
mod upkeep;
pub mod wire;
mod world;
