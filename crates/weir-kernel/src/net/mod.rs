//! The network as the kernel has it: links, addresses, routes, neighbours, namespaces and the few knobs beside them.
//!
//! Owns every netlink message, `ethtool` ioctl and `/proc/sys/net` file that weir uses; everything is synchronous and
//! bounded in time. Holds no policy: it neither decides which backend wants which next hop nor remembers what it wrote.
//! What is reported is always read from the kernel at the moment of the call.
//!
//! A netlink socket belongs to the network namespace of the thread that opened it, for good: [`Rtnl::open`] uses the
//! caller's, [`Rtnl::open_in`] another one. Sysctls have no such handle and follow the calling thread.

mod address;
mod error;
mod ethtool;
mod link;
mod mac;
mod monitor;
mod neighbour;
mod netlink;
mod netns;
mod next_hop;
mod prefix;
mod route;
mod sysctl;
mod xdp;

pub use address::{Address, NewAddress, Scope};
pub use error::Error;
pub use ethtool::{DriverInfo, Ethtool, Offload};
pub use link::{Link, VethEnd, VlanTag};
pub use mac::{MacAddress, ParseMacError};
pub use monitor::{Change, Event, Monitor};
pub use neighbour::{Neighbour, NeighbourState};
pub use netlink::Rtnl;
pub use netns::Netns;
pub use next_hop::{NextHop, NextHopError, NextHops, Pin, resolve_next_hop};
pub use prefix::{ParsePrefixError, Prefix};
pub use route::{Hop, NewRoute, Route, RouteKind, TABLE_LOCAL, TABLE_MAIN};
pub use sysctl::{Sysctl, SysctlChange};
pub use xdp::XdpFlag;
