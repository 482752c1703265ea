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
    /// Index of the link to send on.
    pub ifindex: u32,
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
    /// The kernel could not be asked.
    #[error(transparent)]
    Kernel(#[from] Error),
}

/// Finds one next hop. For many, take a [`NextHops`] snapshot.
pub fn resolve_next_hop(rtnl: &Rtnl, dst: IpAddr, pin: Option<Pin>) -> Result<NextHop, NextHopError> {
    let way = Way::find(rtnl, dst, pin)?;
    let link = rtnl.link_by_index(way.ifindex)?;
    way.finish(rtnl, dst, pin, &link, None)
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
        let newer;
        let link = if let Some(link) = self.links.get(&way.ifindex) {
            link
        } else {
            newer = self.rtnl.link_by_index(way.ifindex)?;
            &newer
        };
        way.finish(self.rtnl, dst, pin, link, known)
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
        Ok(NextHop {
            ifindex: self.ifindex,
            src_mac,
            dst_mac,
            src_addr: self.src_addr,
            mtu: self.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            next_hop: self.next_hop,
        })
    }
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
