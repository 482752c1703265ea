//! Next hops: from a backend's address to the link, addresses and MTU that a packet to it needs.
//!
//! Owns the reading of routes and neighbours together. Asks the kernel for the forwarding decision per destination and
//! takes links and neighbours from one snapshot, so that a thousand backends cost a thousand small requests and two
//! dumps. Never waits: an unresolved neighbour is asked for and reported as pending.

use std::{collections::HashMap, net::IpAddr};

use nix::errno::Errno;

use super::{
    error::Error,
    link::Link,
    mac::MacAddress,
    neighbour::{Neighbour, NeighbourState},
    netlink::Rtnl,
    route::{Route, RouteKind},
};

/// Where to send packets for a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the link to send on. (Where the way leads into a VLAN, the link that the VLAN is on.)
    pub ifindex: u32,
    /// The VLAN to send into; `None`: frames have no tag.
    pub vlan: Option<u16>,
    /// The link's own Ethernet address.
    pub src_mac: MacAddress,
    /// The Ethernet address to send to.
    pub dst_mac: MacAddress,
    /// The source address that the kernel would choose for the destination; `None` where the machine has none of its
    /// family.
    pub src_addr: Option<IpAddr>,
    /// Largest packet in bytes, the outer IP header included.
    pub mtu: u32,
    /// The station that `dst_mac` belongs to: the destination itself or a router, possibly of the other family.
    pub next_hop: IpAddr,
}

/// What the operator fixed instead of leaving it to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pin {
    /// Send by this router, which must be on a link, whatever the route to the destination.
    pub via: Option<IpAddr>,
    /// Send to this Ethernet address, whatever the neighbour table says.
    pub mac: Option<MacAddress>,
    /// Send into this VLAN, whatever the link's.
    pub vlan: Option<u16>,
}

/// Why there is no next hop (yet).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NextHopError {
    /// No route leads there.
    #[error("no route to {dst} ({reason}); add one, `ip route get {dst}` shows the kernel's view")]
    NoRoute {
        /// The destination or the pinned router.
        dst: IpAddr,
        /// "unreachable", "prohibit", "blackhole" …
        reason: &'static str,
    },
    /// The address belongs to this machine, so that nothing would leave it.
    #[error("{dst} is an address of this machine; a backend must be another one")]
    Local {
        /// The destination or the pinned router.
        dst: IpAddr,
    },
    /// The address is a broadcast, multicast or otherwise no single station's.
    #[error("{dst} is not the address of a single machine")]
    NotUnicast {
        /// The destination.
        dst: IpAddr,
    },
    /// The pinned router is itself behind a router.
    #[error("{via} is not on a link of this machine but behind {gateway}; pin a router that is")]
    ViaNotOnLink {
        /// The pinned router.
        via: IpAddr,
        /// The router on the way to it.
        gateway: IpAddr,
    },
    /// The neighbour was asked for; look again when it changes.
    #[error("waiting for {next_hop} on link {ifindex} to tell its MAC address")]
    NeighbourPending {
        /// Index of the link.
        ifindex: u32,
        /// Who was asked.
        next_hop: IpAddr,
    },
    /// The neighbour did not answer; it was asked again.
    #[error("{next_hop} does not answer on link {ifindex}; check that it is up and on the same network")]
    NeighbourFailed {
        /// Index of the link.
        ifindex: u32,
        /// Who was asked.
        next_hop: IpAddr,
    },
    /// The way leads out of a link without Ethernet addresses, which XDP cannot send on.
    #[error("the way to {dst} leaves by {link}, which has no MAC address; weir sends on Ethernet links only")]
    NoMacOnLink {
        /// The destination.
        dst: IpAddr,
        /// The link's name.
        link: String,
    },
    /// The way leads into a VLAN that frames cannot be sent into.
    #[error("the way to {dst} leaves by the VLAN link {link}, {why}; weir puts one 802.1Q tag on a frame")]
    Vlan {
        /// The destination.
        dst: IpAddr,
        /// The link's name.
        link: String,
        /// What is the matter with it.
        why: &'static str,
    },
    /// The kernel could not be asked.
    #[error(transparent)]
    Kernel(#[from] Error),
}

/// Finds one next hop. For many, take a [`NextHops`] snapshot.
pub fn resolve_next_hop(rtnl: &Rtnl, dst: IpAddr, pin: Option<Pin>) -> Result<NextHop, NextHopError> {
    let way = Way::find(rtnl, dst, pin)?;
    let link = rtnl.link_by_index(way.ifindex)?;
    way.finish(rtnl, dst, pin, &link, None, |index| rtnl.link_by_index(index))
}

/// Links and neighbours at one moment, to look up many next hops.
#[derive(Debug)]
pub struct NextHops<'a> {
    rtnl: &'a Rtnl,
    links: HashMap<u32, Link>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
}

impl<'a> NextHops<'a> {
    /// Reads links and neighbours.
    pub fn snapshot(rtnl: &'a Rtnl) -> Result<Self, Error> {
        Ok(Self {
            rtnl,
            links: rtnl.links()?.into_iter().map(|link| (link.index, link)).collect(),
            neighbours: rtnl
                .neighbours(None)?
                .into_iter()
                .map(|entry| ((entry.ifindex, entry.ip), entry))
                .collect(),
        })
    }

    /// Finds the next hop for a destination: one route request, and a few more when the neighbour must be asked.
    pub fn lookup(&self, dst: IpAddr, pin: Option<Pin>) -> Result<NextHop, NextHopError> {
        let way = Way::find(self.rtnl, dst, pin)?;
        let known = self.neighbours.get(&(way.ifindex, way.next_hop));
        let link = self.link(way.ifindex)?;
        way.finish(self.rtnl, dst, pin, &link, known, |index| self.link(index))
    }

    fn link(&self, index: u32) -> Result<Link, Error> {
        self.links.get(&index).map_or_else(|| self.rtnl.link_by_index(index), |link| Ok(link.clone()))
    }
}

/// The forwarding decision, before any hardware address.
struct Way {
    ifindex: u32,
    next_hop: IpAddr,
    src_addr: Option<IpAddr>,
    mtu: Option<u32>,
}

impl Way {
    fn find(rtnl: &Rtnl, dst: IpAddr, pin: Option<Pin>) -> Result<Self, NextHopError> {
        let Some(via) = pin.and_then(|pin| pin.via) else {
            let (route, ifindex) = unicast_route(rtnl, dst)?;
            return Ok(Self {
                ifindex,
                next_hop: route.gateway.unwrap_or(dst),
                src_addr: route.prefsrc,
                mtu: route.mtu,
            });
        };
        let (route, ifindex) = unicast_route(rtnl, via)?;
        if let Some(gateway) = route.gateway {
            return Err(NextHopError::ViaNotOnLink { via, gateway });
        }
        let src_addr = if via.is_ipv4() == dst.is_ipv4() {
            route.prefsrc
        } else {
            // The source must be of the destination's family; no route to it just means no such address.
            match unicast_route(rtnl, dst) {
                Ok((route, _)) => route.prefsrc,
                Err(NextHopError::Kernel(error)) => return Err(error.into()),
                Err(_) => None,
            }
        };
        Ok(Self { ifindex, next_hop: via, src_addr, mtu: route.mtu })
    }

    fn finish(
        self,
        rtnl: &Rtnl,
        dst: IpAddr,
        pin: Option<Pin>,
        link: &Link,
        known: Option<&Neighbour>,
        find_link: impl FnOnce(u32) -> Result<Link, Error>,
    ) -> Result<NextHop, NextHopError> {
        if link.loopback {
            return Err(NextHopError::Local { dst });
        }
        let Some(src_mac) = link.mac else {
            return Err(NextHopError::NoMacOnLink { dst, link: link.name.clone() });
        };
        let dst_mac = match pin.and_then(|pin| pin.mac) {
            Some(mac) => mac,
            None => resolve(rtnl, self.ifindex, self.next_hop, known)?,
        };
        let (ifindex, vlan) = untagged(dst, link, find_link)?;
        Ok(NextHop {
            ifindex,
            vlan: pin.and_then(|pin| pin.vlan).or(vlan),
            src_mac,
            dst_mac,
            src_addr: self.src_addr,
            mtu: self.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            next_hop: self.next_hop,
        })
    }
}

/// The link that frames for `link` are sent on, and the VLAN that they are tagged with there.
fn untagged(
    dst: IpAddr,
    link: &Link,
    find_link: impl FnOnce(u32) -> Result<Link, Error>,
) -> Result<(u32, Option<u16>), NextHopError> {
    let Some(tag) = link.vlan else { return Ok((link.index, None)) };
    let refused = |why| NextHopError::Vlan { dst, link: link.name.clone(), why };
    if !tag.is_8021q {
        return Err(refused("which is none of 802.1Q"));
    }
    let (Some(parent), None) = (link.iflink, link.netns_id) else {
        return Err(refused("whose parent is in another network namespace"));
    };
    if find_link(parent)?.vlan.is_some() {
        return Err(refused("which is within another VLAN"));
    }
    Ok((parent, Some(tag.id)))
}

/// The neighbour's address, from the snapshot or the kernel; asks for it where it is unknown or could be forgotten.
fn resolve(
    rtnl: &Rtnl,
    ifindex: u32,
    next_hop: IpAddr,
    known: Option<&Neighbour>,
) -> Result<MacAddress, NextHopError> {
    let fresh;
    let entry = match known {
        Some(entry) if entry.usable_mac().is_some() => Some(entry),
        _ => {
            fresh = rtnl.neighbour(ifindex, next_hop)?;
            fresh.as_ref()
        }
    };
    let Some(entry) = entry else {
        rtnl.resolve_neighbour(ifindex, next_hop)?;
        return Err(NextHopError::NeighbourPending { ifindex, next_hop });
    };
    if let Some(mac) = entry.usable_mac() {
        // XDP traffic does not count as use: unless the kernel manages the entry, it must be kept alive from here.
        let ages = !matches!(entry.state, NeighbourState::Permanent | NeighbourState::NoArp);
        if ages && !entry.managed {
            rtnl.resolve_neighbour(ifindex, next_hop)?;
        }
        return Ok(mac);
    }
    match entry.state {
        NeighbourState::Incomplete if entry.managed => {}
        _ => rtnl.resolve_neighbour(ifindex, next_hop)?,
    }
    Err(if entry.state == NeighbourState::Failed {
        NextHopError::NeighbourFailed { ifindex, next_hop }
    } else {
        NextHopError::NeighbourPending { ifindex, next_hop }
    })
}

/// The route to a single other machine, and its link.
fn unicast_route(rtnl: &Rtnl, dst: IpAddr) -> Result<(Route, u32), NextHopError> {
    let no_route = |reason| NextHopError::NoRoute { dst, reason };
    let route = rtnl.route_get(dst, None, None).map_err(|error| match &error {
        Error::Refused { errno, detail, .. } => match errno {
            Errno::ENETUNREACH => no_route("network unreachable"),
            Errno::EHOSTUNREACH => no_route("host unreachable"),
            Errno::EACCES => no_route("prohibited by a route"),
            // A malformed request is EINVAL as well, but then the kernel says what is malformed.
            Errno::EINVAL if detail.is_none() => no_route("blackhole route"),
            _ => NextHopError::Kernel(error),
        },
        _ => NextHopError::Kernel(error),
    })?;
    match route.kind {
        RouteKind::Unicast => {}
        RouteKind::Local => return Err(NextHopError::Local { dst }),
        RouteKind::Blackhole => return Err(no_route("blackhole route")),
        RouteKind::Unreachable => return Err(no_route("unreachable route")),
        RouteKind::Prohibit => return Err(no_route("prohibited by a route")),
        RouteKind::Broadcast | RouteKind::Multicast | RouteKind::Other(_) => {
            return Err(NextHopError::NotUnicast { dst });
        }
    }
    let ifindex = route.oif.ok_or_else(|| no_route("the route names no link"))?;
    Ok((route, ifindex))
}

#[cfg(test)]
mod tests {
    use super::{super::link::VlanTag, *};

    fn link(index: u32, vlan: Option<VlanTag>, iflink: Option<u32>) -> Link {
        Link {
            index,
            name: format!("eth{index}"),
            kind: None,
            mtu: 1500,
            mac: Some(MacAddress([2, 0, 0, 0, 0, index as u8])),
            up: true,
            running: true,
            loopback: false,
            master: None,
            iflink,
            netns_id: None,
            vlan,
        }
    }

    #[test]
    fn frames_for_a_vlan_go_out_of_its_parent_with_a_tag() {
        let dst = IpAddr::from([192, 0, 2, 9]);
        let tag = |id| Some(VlanTag { id, is_8021q: true });
        let find = |link: &Link, parent: Link| {
            untagged(dst, link, |index| {
                assert_eq!(index, parent.index);
                Ok(parent)
            })
        };
        let plain = link(2, None, None);
        assert_eq!(find(&plain, plain.clone()).unwrap(), (2, None));
        // (A veth has a link of its own at the other end, but no tag.)
        assert_eq!(find(&link(3, None, Some(9)), plain.clone()).unwrap(), (3, None));
        let tagged = link(5, tag(7), Some(2));
        assert_eq!(find(&tagged, plain.clone()).unwrap(), (2, Some(7)));

        let refused = |link: &Link, parent: Link| find(link, parent).unwrap_err().to_string();
        let within = link(6, tag(8), Some(5));
        assert_eq!(
            refused(&within, tagged.clone()),
            "the way to 192.0.2.9 leaves by the VLAN link eth6, which is within another VLAN; weir puts one 802.1Q \
             tag on a frame"
        );
        let provider = link(5, Some(VlanTag { id: 7, is_8021q: false }), Some(2));
        assert!(refused(&provider, plain.clone()).contains("which is none of 802.1Q"));
        let elsewhere = Link { netns_id: Some(1), ..tagged };
        assert!(refused(&elsewhere, plain).contains("in another network namespace"));
    }

    #[test]
    fn a_pinned_vlan_wins() {
        let dst = IpAddr::from([192, 0, 2, 9]);
        let tagged = link(5, Some(VlanTag { id: 7, is_8021q: true }), Some(2));
        let (rtnl, mac) = (Rtnl::open().unwrap(), Some(MacAddress([2; 6])));
        let hop = |vlan| {
            let way = Way { ifindex: 5, next_hop: dst, src_addr: None, mtu: None };
            let pin = Some(Pin { mac, vlan, ..Pin::default() });
            way.finish(&rtnl, dst, pin, &tagged, None, |_| Ok(link(2, None, None))).unwrap()
        };
        assert_eq!((hop(None).ifindex, hop(None).vlan), (2, Some(7)));
        assert_eq!((hop(Some(9)).ifindex, hop(Some(9)).vlan, hop(Some(9)).src_mac.0[5]), (2, Some(9), 5));
    }
}
