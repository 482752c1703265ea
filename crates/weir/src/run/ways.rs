//! The ways to the backends, as routes and neighbours say.
//!
//! Owns: asking for them, and telling a fault of the configuration from a neighbour that is merely silent. May not
//! touch: the tables. Invariant: what was found is only kept for reports; every round asks anew.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weir_config::{Backend, Config, Director, Encapsulation, Prefix, Service, Source};
use weir_kernel::net::{MacAddress, NextHop, NextHopError, NextHops, Pin, Rtnl};
use weir_plan::Path;

use crate::advice::{Advise as _, split};

/// What the way to a backend depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Asked {
    address: IpAddr,
    via: Option<IpAddr>,
    mac: Option<[u8; 6]>,
    vlan: Option<u16>,
    encapsulation: Encapsulation,
}

impl Asked {
    /// `None`: the backend is this machine.
    fn of(backend: &Backend) -> Option<Self> {
        let &Backend { address, via, mac, vlan, encapsulation, .. } = backend;
        (!backend.local).then_some(Self { address, via, mac, vlan, encapsulation })
    }
}

/// The ways at one moment.
#[derive(Default)]
pub(super) struct Ways(HashMap<Asked, Way>);

enum Way {
    Known(NextHop, OuterSource),
    /// The neighbour has been asked and may still answer.
    Pending(String),
    /// The neighbour does not answer, or the kernel could not say.
    Silent(String),
    /// The machine has no way there: a fault of the configuration, or of the network.
    Nowhere(String),
}

/// Source of the outer header.
#[derive(Clone, Copy)]
struct OuterSource {
    /// One address, or a network.
    address: IpAddr,
    /// Whether it is a network in which each flow has an address.
    spread: bool,
}

impl Ways {
    /// Asks for the ways to all of `config`'s backends.
    pub(super) fn find(rtnl: &Rtnl, config: &Config) -> Result<Self, weir_kernel::net::Error> {
        let snapshot = NextHops::snapshot(rtnl)?;
        let vips = Vips::of(config);
        let mut found = HashMap::new();
        for (_, backend) in all_backends(config) {
            let Some(asked) = Asked::of(backend) else { continue };
            found.entry(asked).or_insert_with(|| look_up(&snapshot, &asked, &config.director, &vips));
        }
        Ok(Self(found))
    }

    /// The way to a backend, for a plan.
    pub(super) fn path(&self, backend: &Backend) -> Path {
        let Some(asked) = Asked::of(backend) else { return Path::Known(weir_plan::NextHop::LOCAL) };
        match self.0.get(&asked) {
            None | Some(Way::Pending(_) | Way::Silent(_)) => Path::Silent,
            Some(Way::Nowhere(_)) => Path::None,
            Some(Way::Known(hop, source)) => Path::Known(weir_plan::NextHop {
                mac: hop.dst_mac.0,
                source_mac: hop.src_mac.0,
                ifindex: hop.ifindex,
                vlan: hop.vlan.unwrap_or(0),
                mtu: hop.mtu.min(u32::from(u16::MAX)) as u16,
                source: source.address,
                spread: source.spread,
            }),
        }
    }

    fn get(&self, backend: &Backend) -> Option<&Way> {
        self.0.get(&Asked::of(backend)?)
    }

    /// Who packets for a backend are handed to.
    pub(super) fn next_hop(&self, backend: &Backend) -> Option<IpAddr> {
        match self.get(backend) {
            Some(Way::Known(hop, _)) => Some(hop.next_hop),
            _ => None,
        }
    }

    /// What is the matter with the way to a backend.
    pub(super) fn problem(&self, backend: &Backend) -> Option<&str> {
        match self.get(backend) {
            Some(Way::Pending(why) | Way::Silent(why) | Way::Nowhere(why)) => Some(why),
            _ => None,
        }
    }

    /// Asks for the ways, again and again until every neighbour has answered or `patience` is over.
    pub(super) fn wait(
        rtnl: &Rtnl,
        config: &Config,
        patience: Duration,
    ) -> Result<Self, weir_kernel::net::Error> {
        let deadline = Instant::now() + patience;
        loop {
            let ways = Self::find(rtnl, config)?;
            let pending = ways.0.values().any(|way| matches!(way, Way::Pending(_)));
            if !pending || Instant::now() >= deadline {
                return Ok(ways);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The first backend to which no way leads, as an error.
    pub(super) fn refuse_nowhere(&self, config: &Config) -> anyhow::Result<()> {
        for (service, backend) in all_backends(config) {
            if let Some(Way::Nowhere(why)) = self.get(backend) {
                let (cause, advice) = split(why, "; ");
                let error = anyhow::anyhow!("{}: {cause}", describe(service, backend));
                return Err(error).advise(advice.unwrap_or("check the backend's address and the routes"));
            }
        }
        Ok(())
    }

    /// What is the matter with each backend's way, by what it concerns.
    pub(super) fn problems(&self, config: &Config) -> HashMap<String, String> {
        all_backends(config)
            .filter_map(|(service, backend)| {
                let problem = self.problem(backend)?.to_owned();
                Some((describe(service, backend), problem))
            })
            .collect()
    }
}

fn all_backends(config: &Config) -> impl Iterator<Item = (&Service, &Backend)> {
    config.services.iter().flat_map(|service| service.backends.iter().map(move |backend| (service, backend)))
}

fn describe(service: &Service, backend: &Backend) -> String {
    if backend.name == backend.address.to_string() {
        format!("backend {} of service {}", backend.address, service.name)
    } else {
        format!("backend {} ({}) of service {}", backend.name, backend.address, service.name)
    }
}

/// Addresses that real servers have too.
struct Vips {
    single: HashSet<IpAddr>,
    prefixes: Vec<Prefix>,
}

impl Vips {
    fn of(config: &Config) -> Self {
        let all = config.services.iter().map(|service| service.key.vips());
        let (single, prefixes): (Vec<_>, Vec<_>) = all.partition(Prefix::is_single);
        let mut prefixes = prefixes;
        prefixes.sort_unstable();
        prefixes.dedup();
        Self { single: single.into_iter().map(|vip| vip.network).collect(), prefixes }
    }

    fn contain(&self, address: IpAddr) -> bool {
        self.single.contains(&address) || self.prefixes.iter().any(|vips| vips.contains(address))
    }
}

fn look_up(snapshot: &NextHops<'_>, asked: &Asked, director: &Director, vips: &Vips) -> Way {
    let pin = Pin { via: asked.via, mac: asked.mac.map(MacAddress), vlan: asked.vlan };
    match snapshot.lookup(asked.address, Some(pin)) {
        Ok(hop) if !is_reached_without_a_router(asked, &hop) => Way::Nowhere(format!(
            "`encapsulation = \"l2\"` reaches only machines on the same link, and this one is behind {}; use \"ipip\" or \
             \"gue\", or pin its `mac` if it is on the link all the same",
            hop.next_hop
        )),
        Ok(hop) => {
            if let Some(source) = outer_source(asked, director, &hop, vips) {
                return Way::Known(hop, source);
            }
            let (family, key) =
                if asked.address.is_ipv4() { ("IPv4", "source_ipv4") } else { ("IPv6", "source_ipv6") };
            Way::Nowhere(format!(
                "this machine has no {family} address (but perhaps a VIP) to send from; give it one, or set `{key}`"
            ))
        }
        // Asked again and again, a silent neighbour is now pending and now failed: to people it is one state.
        Err(NextHopError::NeighbourPending { ifindex, next_hop }) => {
            Way::Pending(NextHopError::NeighbourFailed { ifindex, next_hop }.to_string())
        }
        Err(error @ (NextHopError::NeighbourFailed { .. } | NextHopError::Kernel(_))) => {
            Way::Silent(error.to_string())
        }
        Err(error) => Way::Nowhere(error.to_string()),
    }
}

/// A packet that is not wrapped is addressed to the VIP: a router would not know which real server it is for.
fn is_reached_without_a_router(asked: &Asked, hop: &NextHop) -> bool {
    asked.encapsulation != Encapsulation::L2 || asked.mac.is_some() || hop.next_hop == asked.address
}

/// Source of the outer header: the configuration's, else the one the kernel's route prefers. Never a VIP: the real
/// servers have it too, and would refuse packets from themselves.
fn outer_source(asked: &Asked, director: &Director, hop: &NextHop, vips: &Vips) -> Option<OuterSource> {
    let one = |address| OuterSource { address, spread: false };
    let by_route = || hop.src_addr.filter(|address| !vips.contain(*address)).map(one);
    let configured: Option<Source<IpAddr>> = match asked.address {
        IpAddr::V4(_) => director.source_ipv4.map(of_any_family),
        IpAddr::V6(_) => director.source_ipv6.map(of_any_family),
    };
    match (asked.encapsulation, configured) {
        // There is no outer header.
        (Encapsulation::L2, _) => Some(one(asked.address)),
        (_, Some(Source::Fixed(address))) => Some(one(address)),
        (Encapsulation::Ipip, Some(Source::Spread { network, .. })) => {
            Some(OuterSource { address: network, spread: true })
        }
        // The flow is in the UDP source port already.
        (Encapsulation::Gue, Some(Source::Spread { .. })) | (_, None) => by_route(),
    }
}

fn of_any_family<A: Into<IpAddr>>(source: Source<A>) -> Source<IpAddr> {
    match source {
        Source::Fixed(address) => Source::Fixed(address.into()),
        Source::Spread { network, prefix_len } => Source::Spread { network: network.into(), prefix_len },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(director: &str) -> Config {
        let text = format!(
            "[director]\ninterfaces = [\"eth0\"]\n{director}\n[[service]]\nvip = \"192.0.2.1\"\nport = 80\n\
             protocol = \"tcp\"\n[[service]]\nvip = \"192.0.2.64/26\"\nport = 80\nprotocol = \"tcp\"\n"
        );
        weir_config::parse("", &text).expect("valid")
    }

    fn hop(source: [u8; 4]) -> NextHop {
        NextHop {
            ifindex: 2,
            vlan: None,
            src_mac: MacAddress([2; 6]),
            dst_mac: MacAddress([4; 6]),
            src_addr: Some(source.into()),
            mtu: 1500,
            next_hop: IpAddr::from([10, 0, 0, 1]),
        }
    }

    fn asked(encapsulation: Encapsulation) -> Asked {
        let address = IpAddr::from([10, 0, 0, 11]);
        Asked { address, via: None, mac: None, vlan: None, encapsulation }
    }

    /// The outer source over a route that prefers `by_route`.
    fn found(config: &Config, encapsulation: Encapsulation, by_route: [u8; 4]) -> Option<(String, bool)> {
        let vips = Vips::of(config);
        let source = outer_source(&asked(encapsulation), &config.director, &hop(by_route), &vips)?;
        Some((source.address.to_string(), source.spread))
    }

    #[test]
    fn the_outer_source_is_the_configurations_else_the_routes() {
        let own = [10, 0, 0, 2];
        let is = |address: &str, spread| Some((address.to_owned(), spread));
        let plain = config("");
        for encapsulation in [Encapsulation::Ipip, Encapsulation::Gue] {
            assert_eq!(found(&plain, encapsulation, own), is("10.0.0.2", false));
            assert_eq!(found(&plain, encapsulation, [192, 0, 2, 1]), None, "a VIP");
            assert_eq!(found(&plain, encapsulation, [192, 0, 2, 77]), None, "within VIPs");
        }
        let fixed = config("source_ipv4 = \"10.0.0.3\"");
        assert_eq!(found(&fixed, Encapsulation::Ipip, own), is("10.0.0.3", false));
        assert_eq!(found(&fixed, Encapsulation::Gue, own), is("10.0.0.3", false));
        let spread = config("source_ipv4 = \"172.16.0.0/16\"");
        assert_eq!(found(&spread, Encapsulation::Ipip, own), is("172.16.0.0", true));
        assert_eq!(found(&spread, Encapsulation::Gue, own), is("10.0.0.2", false), "GUE has it in the port");
        assert!(found(&plain, Encapsulation::L2, [192, 0, 2, 1]).is_some(), "there is no outer header");
    }

    #[test]
    fn layer_2_needs_the_backend_on_the_link() {
        let behind = hop([10, 0, 0, 2]);
        let on_link = NextHop { next_hop: IpAddr::from([10, 0, 0, 11]), ..behind.clone() };
        let l2 = asked(Encapsulation::L2);
        assert!(is_reached_without_a_router(&l2, &on_link));
        assert!(!is_reached_without_a_router(&l2, &behind));
        assert!(
            is_reached_without_a_router(&Asked { mac: Some([4; 6]), ..l2 }, &behind),
            "the operator knows"
        );
        assert!(is_reached_without_a_router(&asked(Encapsulation::Ipip), &behind));
    }
}
