//! Routes: ask the kernel which way a packet would go, list tables, add and remove entries.
//!
//! Owns the RTM_*ROUTE messages. [`Rtnl::route_get`] is the forwarding decision itself (rules, tables, metrics,
//! multipath), not a search in a listing.

use std::{fmt, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
        RouteType, RouteVia,
    },
};
use nix::errno::Errno;

use super::{
    address::family,
    error::Error,
    netlink::Rtnl,
    prefix::{Prefix, address_bits},
};

/// The table that ordinary routes are in.
pub const TABLE_MAIN: u32 = 254;
/// The table of the machine's own addresses.
pub const TABLE_LOCAL: u32 = 255;

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteKind {
    /// Sends it to a gateway or directly to its destination.
    #[default]
    Unicast,
    /// Delivers it to this machine.
    Local,
    /// Delivers it as a broadcast.
    Broadcast,
    /// Delivers it as a multicast.
    Multicast,
    /// Drops it silently.
    Blackhole,
    /// Answers "unreachable".
    Unreachable,
    /// Answers "administratively prohibited".
    Prohibit,
    /// Any other number.
    Other(u8),
}

/// One way of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Index of the link.
    pub oif: u32,
    /// The router; `None` when the destination is on the link. May be of the other family.
    pub gateway: Option<IpAddr>,
    /// Relative weight, at least 1.
    pub weight: u16,
}

/// A route as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it does.
    pub kind: RouteKind,
    /// The destinations it is for. In an answer of [`Rtnl::route_get`]: the address asked for.
    pub dst: Prefix,
    /// Index of the link packets leave by; `None` for routes with several ways and for those that lead nowhere.
    pub oif: Option<u32>,
    /// The router; `None` when the destination is on the link. May be of the other family.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would choose or was told to.
    pub prefsrc: Option<IpAddr>,
    /// Path MTU in bytes, where it differs from the link's.
    pub mtu: Option<u32>,
    /// TCP segment size announced to the other side, in bytes.
    pub advmss: Option<u32>,
    /// Table number.
    pub table: u32,
    /// Lower is preferred.
    pub metric: Option<u32>,
    /// Every way of a multipath route; empty when `oif` is the only one.
    pub hops: Vec<Hop>,
}

/// A route to be added or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoute {
    /// What it does.
    pub kind: RouteKind,
    /// The destinations it is for.
    pub dst: Prefix,
    /// The router, of either family.
    pub via: Option<IpAddr>,
    /// Index of the link.
    pub oif: Option<u32>,
    /// Preferred source address.
    pub prefsrc: Option<IpAddr>,
    /// Table number, [`TABLE_MAIN`] by default.
    pub table: u32,
    /// Lower is preferred; `None` is the kernel's default (0 for IPv4, 1024 for IPv6).
    pub metric: Option<u32>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// TCP segment size to announce, in bytes.
    pub advmss: Option<u32>,
    /// The router is on the link although no address there says so.
    pub onlink: bool,
}

impl NewRoute {
    /// A unicast route in the main table; give it `via`, `oif` or both.
    pub fn new(dst: Prefix) -> Self {
        Self {
            kind: RouteKind::Unicast,
            dst,
            via: None,
            oif: None,
            prefsrc: None,
            table: TABLE_MAIN,
            metric: None,
            mtu: None,
            advmss: None,
            onlink: false,
        }
    }

    /// Through this router.
    #[must_use]
    pub fn via(mut self, router: IpAddr) -> Self {
        self.via = Some(router);
        self
    }

    /// Out of this link.
    #[must_use]
    pub fn dev(mut self, ifindex: u32) -> Self {
        self.oif = Some(ifindex);
        self
    }
}

impl fmt::Display for NewRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.dst)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(oif) = self.oif {
            write!(f, " on link {oif}")?;
        }
        write!(f, " in table {}", self.table)
    }
}

impl Rtnl {
    /// How the kernel would send a packet to `dst`, as `ip route get` tells. `from` fixes the source address, `iif`
    /// asks about a packet that came in by that link instead of a local one.
    ///
    /// A destination without a route is an error with ENETUNREACH, EHOSTUNREACH, EACCES (prohibit) or EINVAL
    /// (blackhole); see [`super::NextHopError::NoRoute`] for the reading of it.
    pub fn route_get(&self, dst: IpAddr, from: Option<IpAddr>, iif: Option<u32>) -> Result<Route, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(dst);
        request.header.destination_prefix_length = address_bits(dst);
        request.attributes.push(RouteAttribute::Destination(dst.into()));
        if let Some(from) = from {
            request.header.source_prefix_length = address_bits(from);
            request.attributes.push(RouteAttribute::Source(from.into()));
        }
        request.attributes.extend(iif.map(RouteAttribute::Iif));
        if dst.is_ipv4() {
            request.header.flags = RouteFlags::LookupTable; // IPv6 reports the table anyway and refuses the flag
        }
        let doing = format_args!("find the route to {dst}");
        match self.get(RouteNetlinkMessage::GetRoute(request), doing)? {
            Some(RouteNetlinkMessage::NewRoute(message)) => decode(&message),
            _ => None,
        }
        .ok_or_else(|| Error::Unreadable { doing: doing.to_string(), reason: "it holds no route".into() })
    }

    /// Routes of both families, of one table or of all. A table that does not exist is empty.
    pub fn routes(&self, table: Option<u32>) -> Result<Vec<Route>, Error> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.attributes.extend(table.map(RouteAttribute::Table));
            let found =
                self.dump(&RouteNetlinkMessage::GetRoute(request), format_args!("list routes"), |reply| {
                    match reply {
                        RouteNetlinkMessage::NewRoute(message) => decode(&message),
                        _ => None,
                    }
                });
            match found {
                Ok(found) => routes.extend(found),
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        routes.retain(|route| table.is_none_or(|table| table == route.table));
        Ok(routes)
    }

    /// Adds a route; an error if an equal one is there.
    pub fn add_route(&self, route: &NewRoute) -> Result<(), Error> {
        self.change(
            RouteNetlinkMessage::NewRoute(encode(route)),
            NLM_F_CREATE | NLM_F_EXCL,
            format_args!("add {route}"),
        )
    }

    /// Adds a route in place of the one with the same destination, table and metric.
    pub fn replace_route(&self, route: &NewRoute) -> Result<(), Error> {
        self.change(
            RouteNetlinkMessage::NewRoute(encode(route)),
            NLM_F_CREATE | NLM_F_REPLACE,
            format_args!("set {route}"),
        )
    }

    /// Removes a route; an error if there is none such.
    pub fn del_route(&self, route: &NewRoute) -> Result<(), Error> {
        let mut request = encode(route);
        request.header.scope = RouteScope::NoWhere; // any scope
        request.header.protocol = RouteProtocol::Unspec; // whoever made it
        request.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Metrics(_)));
        self.change(RouteNetlinkMessage::DelRoute(request), 0, format_args!("remove {route}"))
    }

    /// Adds or replaces a route unless it is there just so; returns whether anything was changed.
    pub fn ensure_route(&self, route: &NewRoute) -> Result<bool, Error> {
        if self.routes(Some(route.table))?.iter().any(|found| matches(found, route)) {
            return Ok(false);
        }
        self.replace_route(route).map(|()| true)
    }

    /// Removes a route if it is there; returns whether it was removed.
    pub fn ensure_no_route(&self, route: &NewRoute) -> Result<bool, Error> {
        match self.del_route(route) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.errno(), Some(Errno::ESRCH | Errno::ENODEV)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn matches(found: &Route, wanted: &NewRoute) -> bool {
    let default_metric = if wanted.dst.addr().is_ipv4() { 0 } else { 1024 };
    found.kind == wanted.kind
        && found.dst == wanted.dst
        && found.gateway == wanted.via
        && (wanted.oif.is_none() || found.oif == wanted.oif)
        && (wanted.prefsrc.is_none() || found.prefsrc == wanted.prefsrc)
        && found.metric.unwrap_or(0) == wanted.metric.unwrap_or(default_metric)
        && found.mtu == wanted.mtu
        && found.advmss == wanted.advmss
        && found.hops.is_empty()
}

fn encode(route: &NewRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.dst.addr());
    header.destination_prefix_length = route.dst.len();
    header.protocol = RouteProtocol::Static;
    header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Local => RouteType::Local,
        RouteKind::Broadcast => RouteType::Broadcast,
        RouteKind::Multicast => RouteType::Multicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Prohibit => RouteType::Prohibit,
        RouteKind::Other(number) => number.into(),
    };
    header.scope = match route.kind {
        RouteKind::Local => RouteScope::Host,
        RouteKind::Unicast if route.via.is_none() => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    if route.onlink {
        header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    attributes.push(RouteAttribute::Destination(route.dst.addr().into()));
    attributes.extend(route.oif.map(RouteAttribute::Oif));
    attributes.extend(route.via.map(|via| {
        if via.is_ipv4() == route.dst.addr().is_ipv4() {
            RouteAttribute::Gateway(via.into())
        } else {
            RouteAttribute::Via(via.into())
        }
    }));
    attributes.extend(route.prefsrc.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    let metrics: Vec<_> = [route.mtu.map(RouteMetric::Mtu), route.advmss.map(RouteMetric::Advmss)]
        .into_iter()
        .flatten()
        .collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

/// `None` for messages that are no IP route (multicast forwarding, MPLS).
pub(super) fn decode(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let mut dst = any;
    let mut route = Route {
        kind: kind(header.kind),
        dst: Prefix::host(any),
        oif: None,
        gateway: gateway(&message.attributes),
        prefsrc: None,
        mtu: None,
        advmss: None,
        table: header.table.into(),
        metric: None,
        hops: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => dst = ip(address)?,
            RouteAttribute::Oif(index) => route.oif = Some(*index),
            RouteAttribute::PrefSource(address) => route.prefsrc = ip(address),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(bytes) => route.mtu = Some(*bytes),
                        RouteMetric::Advmss(bytes) => route.advmss = Some(*bytes),
                        _ => {}
                    }
                }
            }
            RouteAttribute::MultiPath(hops) => route.hops.extend(hops.iter().map(|hop| Hop {
                oif: hop.interface_index,
                gateway: gateway(&hop.attributes),
                weight: u16::from(hop.hops) + 1,
            })),
            _ => {}
        }
    }
    route.dst = Prefix::new(dst, header.destination_prefix_length)?;
    Some(route)
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn kind(number: RouteType) -> RouteKind {
    match number {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        other => RouteKind::Other(other.into()),
    }
}
