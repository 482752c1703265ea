//! Neighbours: who has which address on a link, and making the kernel find out.
//!
//! Owns the RTM_*NEIGH messages. Does not send ARP or neighbour solicitations itself: it creates entries that the
//! kernel then resolves and, where it can (5.16), keeps resolved.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState as Nud,
    },
};
use nix::errno::Errno;

use super::{address::family, error::Error, mac::MacAddress, netlink::Rtnl};

/// The kernel's neighbour unreachability detection state (RFC 4861 section 7.3.2, used for ARP as well).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourState {
    /// Nothing was asked yet.
    None,
    /// Asked, no answer yet.
    Incomplete,
    /// Answered lately.
    Reachable,
    /// Answered once, not checked lately.
    Stale,
    /// In use and about to be checked.
    Delay,
    /// Being checked.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution on this link.
    NoArp,
    /// Set by an administrator.
    Permanent,
    /// Any other number.
    Other(u16),
}

/// An entry of the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the link.
    pub ifindex: u32,
    /// Its network address.
    pub ip: IpAddr,
    /// Its Ethernet address, as last heard.
    pub mac: Option<MacAddress>,
    /// How much that can be trusted.
    pub state: NeighbourState,
    /// The kernel keeps it resolved without traffic.
    pub managed: bool,
}

impl Neighbour {
    /// The address that packets may be sent to now.
    pub fn usable_mac(&self) -> Option<MacAddress> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::NoArp => self.mac,
            NeighbourState::None
            | NeighbourState::Incomplete
            | NeighbourState::Failed
            | NeighbourState::Other(_) => None,
        }
    }
}

impl Rtnl {
    /// Neighbours of both families, of one link or of all.
    pub fn neighbours(&self, ifindex: Option<u32>) -> Result<Vec<Neighbour>, Error> {
        let mut request = NeighbourMessage::default();
        request.attributes.extend(ifindex.map(NeighbourAttribute::IfIndex));
        let found = self.dump(
            &RouteNetlinkMessage::GetNeighbour(request),
            format_args!("list neighbours"),
            |reply| match reply {
                RouteNetlinkMessage::NewNeighbour(message) => decode(&message),
                _ => None,
            },
        )?;
        Ok(found.into_iter().filter(|entry| ifindex.is_none_or(|index| index == entry.ifindex)).collect())
    }

    /// One neighbour, if the table has it.
    pub fn neighbour(&self, ifindex: u32, ip: IpAddr) -> Result<Option<Neighbour>, Error> {
        match self.get(
            RouteNetlinkMessage::GetNeighbour(message(ifindex, ip)),
            format_args!("look up neighbour {ip} on link {ifindex}"),
        ) {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(message))) => Ok(decode(&message)),
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the kernel resolve a neighbour and, from 5.16 on, keep it resolved; returns without waiting for the
    /// answer. Not for permanent entries: the kernel would take their permanence away.
    pub fn resolve_neighbour(&self, ifindex: u32, ip: IpAddr) -> Result<(), Error> {
        match self.kick(ifindex, ip, true) {
            // Older kernels ignore the attribute or refuse it.
            Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::EOPNOTSUPP)) => {
                self.kick(ifindex, ip, false)
            }
            result => result,
        }
    }

    /// Stops the kernel from keeping a neighbour resolved; the entry then ages like any other.
    pub fn release_neighbour(&self, ifindex: u32, ip: IpAddr) -> Result<(), Error> {
        self.kick(ifindex, ip, false)
    }

    /// Adds or replaces an entry that never changes by itself.
    pub fn add_permanent_neighbour(&self, ifindex: u32, ip: IpAddr, mac: MacAddress) -> Result<(), Error> {
        let mut request = message(ifindex, ip);
        request.header.state = Nud::Permanent;
        request.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.change(
            RouteNetlinkMessage::NewNeighbour(request),
            NLM_F_CREATE | NLM_F_REPLACE,
            format_args!("pin neighbour {ip} on link {ifindex} to {mac}"),
        )
    }

    /// Removes an entry; an error if there is none.
    pub fn del_neighbour(&self, ifindex: u32, ip: IpAddr) -> Result<(), Error> {
        self.change(
            RouteNetlinkMessage::DelNeighbour(message(ifindex, ip)),
            0,
            format_args!("remove neighbour {ip} from link {ifindex}"),
        )
    }

    fn kick(&self, ifindex: u32, ip: IpAddr, managed: bool) -> Result<(), Error> {
        let mut request = message(ifindex, ip);
        request.header.flags = NeighbourFlags::Use;
        if managed {
            request.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        }
        self.change(
            RouteNetlinkMessage::NewNeighbour(request),
            NLM_F_CREATE | NLM_F_REPLACE,
            format_args!("resolve neighbour {ip} on link {ifindex}"),
        )
    }
}

fn message(ifindex: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = ifindex;
    message.attributes.push(NeighbourAttribute::Destination(match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }));
    message
}

/// `None` for entries that are no IP neighbour (a bridge's forwarding table uses the same messages).
pub(super) fn decode(message: &NeighbourMessage) -> Option<Neighbour> {
    let mut ip = None;
    let mut mac = None;
    let mut managed = false;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => ip = Some((*address).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => ip = Some((*address).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = MacAddress::from_slice(bytes),
            NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
            _ => {}
        }
    }
    let ip: IpAddr = ip?;
    if family(ip) != message.header.family || message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    Some(Neighbour {
        ifindex: message.header.ifindex,
        ip,
        mac,
        state: match message.header.state {
            Nud::None => NeighbourState::None,
            Nud::Incomplete => NeighbourState::Incomplete,
            Nud::Reachable => NeighbourState::Reachable,
            Nud::Stale => NeighbourState::Stale,
            Nud::Delay => NeighbourState::Delay,
            Nud::Probe => NeighbourState::Probe,
            Nud::Failed => NeighbourState::Failed,
            Nud::Noarp => NeighbourState::NoArp,
            Nud::Permanent => NeighbourState::Permanent,
            other => NeighbourState::Other(other.into()),
        },
        managed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_states_with_a_trusted_address_are_usable() {
        let mut entry = Neighbour {
            ifindex: 1,
            ip: "192.0.2.1".parse().unwrap(),
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            state: NeighbourState::Stale,
            managed: false,
        };
        assert_eq!(entry.usable_mac(), entry.mac);
        // The kernel keeps the old address of a failed entry for a while.
        for state in [NeighbourState::Failed, NeighbourState::Incomplete, NeighbourState::None] {
            entry.state = state;
            assert_eq!(entry.usable_mac(), None, "{state:?}");
        }
    }
}
