//! What the machine is like: interfaces, addresses, routes.
//!
//! Owns: reading them and the questions asked of them. May not touch: anything; it only reads.

use std::net::IpAddr;

use anyhow::anyhow;
use weir_kernel::net::{Address, Link, Prefix, Route, RouteKind, Rtnl, TABLE_MAIN};

use super::journal::Journal;
use crate::advice::Advise as _;

/// The machine at the moment of asking.
pub(super) struct Host {
    /// The connection to the kernel.
    pub(super) rtnl: Rtnl,
    /// Interfaces.
    pub(super) links: Vec<Link>,
    /// Addresses of all interfaces.
    pub(super) addresses: Vec<Address>,
    /// Ordinary routes of the main table.
    routes: Vec<Route>,
}

impl Host {
    /// Asks the kernel.
    pub(super) fn survey() -> anyhow::Result<Self> {
        let rtnl = Rtnl::open()?;
        let links = rtnl.links()?;
        let addresses = rtnl.addresses(None)?;
        let mut routes = rtnl.routes(Some(TABLE_MAIN))?;
        routes.retain(|route| route.kind == RouteKind::Unicast);
        Ok(Self { rtnl, links, addresses, routes })
    }

    /// The interface of that name, or an error that names those there are.
    pub(super) fn interface(&self, name: &str) -> anyhow::Result<&Link> {
        let found = self.links.iter().find(|link| link.name == name);
        found.ok_or_else(|| anyhow!("there is no interface {name}")).advise(format!(
            "this network namespace has {}",
            self.links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ")
        ))
    }

    fn by_index(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The name of an address's interface.
    pub(super) fn device_of(&self, address: &Address) -> &str {
        self.by_index(address.ifindex).map_or("an interface that has gone", |link| link.name.as_str())
    }

    /// The interfaces that wrapped packets arrive on: those named, else those with routes to the directors.
    pub(super) fn arrivals(&self, named: &[String], from: &[Prefix]) -> anyhow::Result<Vec<&Link>> {
        let mut found: Vec<&Link> = Vec::new();
        let mut add = |link| {
            if !found.contains(&link) {
                found.push(link);
            }
        };
        for name in named {
            add(self.interface(name)?);
        }
        if named.is_empty() {
            for network in from {
                for link in self.ways_to(network) {
                    add(link);
                }
            }
            if found.is_empty() {
                let networks: Vec<String> = from.iter().map(ToString::to_string).collect();
                return Err(anyhow!("no interface has a route to {}", networks.join(" or ")))
                    .advise("name the interface that wrapped packets arrive on with --interface");
            }
        }
        for link in &found {
            if link.mac.is_none() {
                return Err(anyhow!("cannot unwrap on {}: it does not carry Ethernet frames", link.name))
                    .advise("use the Ethernet interface below it");
            }
        }
        Ok(found)
    }

    /// The interfaces that packets of this network come from, by the routes to it.
    fn ways_to(&self, network: &Prefix) -> Vec<&Link> {
        let inside = self
            .routes
            .iter()
            .filter(|route| network.contains(route.dst.addr()) && route.dst.len() >= network.len());
        let mut indices: Vec<u32> = inside.flat_map(ways).collect();
        if let Ok(route) = self.rtnl.route_get(network.addr(), None, None)
            && route.kind == RouteKind::Unicast
        {
            indices.extend(ways(&route));
        }
        let links = indices.into_iter().filter_map(|index| self.by_index(index));
        links.filter(|link| !link.loopback).collect()
    }

    /// The interfaces that replies leave by: those of the default routes.
    pub(super) fn departures(&self) -> Vec<&Link> {
        let defaults = self.routes.iter().filter(|route| route.dst.is_empty());
        let links = defaults.flat_map(ways).filter_map(|index| self.by_index(index));
        links.filter(|link| link.mac.is_some()).collect()
    }

    /// The interfaces on which packets come out that arrive on these: they themselves, and the VLANs on them, whose
    /// tagged frames are unwrapped below.
    pub(super) fn outlets<'a>(&'a self, arrivals: &[&'a Link]) -> Vec<&'a Link> {
        outlets(&self.links, arrivals)
    }

    /// Whether the route back to any IPv4 client could leave by another interface than this one: then a strict reverse
    /// path filter drops what was unwrapped here.
    pub(super) fn answers_elsewhere(&self, link: &Link) -> bool {
        let v4 = || self.routes.iter().filter(|route| route.dst.addr().is_ipv4());
        let elsewhere =
            |index| index != link.index && self.by_index(index).is_some_and(|other| !other.loopback);
        let default_here = v4().any(|route| route.dst.is_empty() && ways(route).contains(&link.index));
        !default_here || v4().any(|route| ways(route).into_iter().any(elsewhere))
    }

    /// The addresses that directors can send to: all but the VIPs, those weir added, and those that never leave the
    /// machine or its link.
    pub(super) fn own_addresses(&self, vips: &[IpAddr], journal: &Journal) -> Vec<IpAddr> {
        let mut own: Vec<IpAddr> = self.addresses.iter().map(|address| address.ip).collect();
        own.retain(|ip| {
            let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
            !ip.is_loopback() && !link_local && !vips.contains(ip) && !journal.added(*ip)
        });
        own.sort();
        own.dedup();
        own
    }

    /// Refuses a VIP that could not be one.
    pub(super) fn check_vip(&self, vip: IpAddr) -> anyhow::Result<()> {
        let broadcast = matches!(vip, IpAddr::V4(v4) if v4.is_broadcast());
        let link_local = match vip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if vip.is_unspecified() || vip.is_multicast() || vip.is_loopback() || broadcast || link_local {
            return Err(anyhow!("{vip} cannot be a VIP: it is no address that clients can connect to"))
                .advise("give --vip the address of the service, as the director's configuration has it");
        }
        let Some(found) = self.addresses.iter().find(|address| address.ip == vip) else { return Ok(()) };
        let Some(link) = self.by_index(found.ifindex) else { return Ok(()) };
        if link.mac.is_some() && link.kind.as_deref() != Some("dummy") {
            return Err(anyhow!(
                "the VIP {vip} is an address of {} already, and answered for there",
                link.name
            ))
            .advise(format!(
                "take it away with `ip address del {vip}/{} dev {}`: only the director may answer for it",
                found.prefix_len, link.name
            ));
        }
        Ok(())
    }

    /// Refuses an interface that would answer for VIPs on the network, and a name that none can have.
    pub(super) fn check_vip_device(&self, name: &str) -> anyhow::Result<()> {
        self.rtnl
            .find_link(name)
            .map_err(anyhow::Error::from)
            .advise("use --vip-device lo, or the name of a dummy interface")?;
        match self.links.iter().find(|link| link.name == name) {
            Some(link) if !link.loopback && link.kind.as_deref() != Some("dummy") => {
                let why = "it is neither the loopback nor a dummy, and would answer for them on the network";
                Err(anyhow!("{name} cannot hold the VIPs: {why}"))
                    .advise("use --vip-device lo, or the name of a dummy interface")
            }
            _ => Ok(()),
        }
    }
}

fn outlets<'a>(links: &'a [Link], arrivals: &[&'a Link]) -> Vec<&'a Link> {
    let mut found = arrivals.to_vec();
    let mut at = 0;
    while let Some(below) = found.get(at).map(|link| link.index) {
        let vlan = |link: &&Link| {
            link.kind.as_deref() == Some("vlan") && link.iflink == Some(below) && link.netns_id.is_none()
        };
        let new: Vec<&Link> = links.iter().filter(vlan).filter(|link| !found.contains(link)).collect();
        found.extend(new);
        at += 1;
    }
    found
}

fn ways(route: &Route) -> Vec<u32> {
    route.oif.into_iter().chain(route.hops.iter().map(|hop| hop.oif)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Link, outlets};

    fn link(index: u32, kind: &str, below: u32) -> Link {
        Link {
            index,
            name: format!("link{index}"),
            kind: Some(kind.to_owned()),
            mtu: 1500,
            mac: None,
            up: true,
            running: true,
            loopback: false,
            master: None,
            iflink: Some(below),
            netns_id: None,
            vlan: None,
        }
    }

    #[test]
    fn packets_come_out_on_the_vlans_of_the_interface_they_arrive_on() {
        let mut elsewhere = link(6, "vlan", 2);
        elsewhere.netns_id = Some(0);
        let links = [
            link(2, "veth", 9),
            link(3, "vlan", 2),
            link(4, "vlan", 3), // a tag behind a tag
            link(5, "macvlan", 2),
            elsewhere,
            link(7, "vlan", 8),
        ];
        let names: Vec<u32> = outlets(&links, &[&links[0]]).iter().map(|link| link.index).collect();
        assert_eq!(names, [2, 3, 4]);
    }
}
