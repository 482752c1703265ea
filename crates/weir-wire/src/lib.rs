//! Packet headers as they stand in memory, and the Internet checksum.
//!
//! Owns: one file a protocol, each of the same shape: a `#[repr(C)]` struct of byte arrays (no alignment, no padding,
//! every bit pattern valid), constants, getters that return host-order numbers, and a constructor that writes a whole
//! header. Knows nothing of VIPs, maps, time or policy. Invariant: no operation here can read or write outside the
//! header it is called on.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod checksum;
mod ethernet;
mod gue;
mod icmp;
mod ipv4;
mod ipv6;
mod protocol;
mod tcp;
mod udp;

pub use ethernet::{EtherType, Ethernet, Vlan};
pub use gue::Gue;
pub use icmp::{Icmp, icmpv4, icmpv6};
pub use ipv4::{Ipv4, Ipv4Repr};
pub use ipv6::{Ipv6, Ipv6Repr};
pub use protocol::IpProtocol;
pub use tcp::{Tcp, flags as tcp_flags};
pub use udp::{Ports, Udp};
