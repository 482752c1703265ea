//! The ways to the backends, as routes and neighbours say.
//!
//! Owns: asking for them, and telling a fault of the configuration from a neighbour that is merely silent. May not
//! touch: the tables. Invariant: what was found is only kept for reports; every round asks anew.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weir_config::{Backend, Config, Prefix, Service};
use weir_kernel::net::{MacAddress, NextHop, NextHopError, NextHops, Pin, Rtnl};
use weir_plan::Path;

use crate::advice::{Advise as _, split};

/// What the way to a backend depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Asked {
    address: IpAddr,
    via: Option<IpAddr>,
    mac: Option<[u8; 6]>,
}

impl Asked {
    fn of(backend: &Backend) -> Self {
        Self { address: backend.address, via: backend.via, mac: backend.mac }
    }
}

/// The ways at one moment.
#[derive(Default)]
pub(super) struct Ways(HashMap<Asked, Way>);

enum Way {
    Known(NextHop),
    /// The neighbour has been asked and may still answer.
    Pending(String),
    /// The neighbour does not answer, or the kernel could not say.
    Silent(String),
    /// The machine has no way there: a fault of the configuration, or of the network.
    Nowhere(String),
}

impl Ways {
    /// Asks for the ways to all of `config`'s backends.
    pub(super) fn find(rtnl: &Rtnl, config: &Config) -> Result<Self, weir_kernel::net::Error> {
        let snapshot = NextHops::snapshot(rtnl)?;
        let mut found = HashMap::new();
        for service in &config.services {
            for backend in &service.backends {
                found.entry(Asked::of(backend)).or_insert_with_key(|asked| look_up(&snapshot, asked, config));
            }
        }
        Ok(Self(found))
    }

    /// The way to a backend, for a plan.
    pub(super) fn path(&self, config: &Config, backend: &Backend) -> Path {
        match self.0.get(&Asked::of(backend)) {
            None | Some(Way::Pending(_) | Way::Silent(_)) => Path::Silent,
            Some(Way::Nowhere(_)) => Path::None,
            Some(Way::Known(hop)) => match source(config, backend.address, hop) {
                None => Path::None,
                Some(source) => Path::Known(weir_plan::NextHop {
                    mac: hop.dst_mac.0,
                    source_mac: hop.src_mac.0,
                    ifindex: hop.ifindex,
                    mtu: hop.mtu.min(u32::from(u16::MAX)) as u16,
                    source,
                }),
            },
        }
    }

    /// Who packets for a backend are handed to.
    pub(super) fn next_hop(&self, backend: &Backend) -> Option<IpAddr> {
        match self.0.get(&Asked::of(backend)) {
            Some(Way::Known(hop)) => Some(hop.next_hop),
            _ => None,
        }
    }

    /// What is the matter with the way to a backend.
    pub(super) fn problem(&self, backend: &Backend) -> Option<&str> {
        match self.0.get(&Asked::of(backend)) {
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
            if let Some(Way::Nowhere(why)) = self.0.get(&Asked::of(backend)) {
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

fn look_up(snapshot: &NextHops<'_>, asked: &Asked, config: &Config) -> Way {
    let pin = Pin { via: asked.via, mac: asked.mac.map(MacAddress) };
    match snapshot.lookup(asked.address, Some(pin)) {
        Ok(hop) if source(config, asked.address, &hop).is_none() => {
            let family =
                if asked.address.is_ipv4() { ("IPv4", "source_ipv4") } else { ("IPv6", "source_ipv6") };
            Way::Nowhere(format!(
                "this machine has no {} address (but perhaps a VIP) to send from; give it one, or set `{}`",
                family.0, family.1
            ))
        }
        Ok(hop) => Way::Known(hop),
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

/// Source of the outer header: the configuration's, else the one the kernel's route prefers. Never a VIP: the real
/// servers have it too, and would refuse packets from themselves.
fn source(config: &Config, backend: IpAddr, hop: &NextHop) -> Option<IpAddr> {
    let configured = match backend {
        IpAddr::V4(_) => config.director.source_ipv4.map(Prefix::from),
        IpAddr::V6(_) => config.director.source_ipv6.map(Prefix::from),
    };
    let is_vip = |address: &IpAddr| config.services.iter().any(|service| service.key.vip == *address);
    configured.map(|source| source.network).or(hop.src_addr.filter(|address| !is_vip(address)))
}
