//! What the tables should say.
//!
//! Owns: the translation from a configuration and what is known about the ways to its backends. May not touch:
//! ids and places in the tables (they are the plan's business), the routes themselves.

use std::net::IpAddr;
use std::time::Duration;

use weir_abi::{Address, Encapsulation, Family, NoBackend, ServiceKey};
use weir_config::{Backend, Config, RingSlots, Service};
use weir_maglev::RingSize;

/// Everything the tables should say, at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The services; keys are unique.
    pub services: Vec<DesiredService>,
    /// The time, in seconds of CLOCK_BOOTTIME.
    pub now: u32,
}

/// A service as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredService {
    /// What packets it gets.
    pub key: ServiceKey,
    /// After how many ticks of silence a flow is forgotten; 1 to 4095.
    pub idle_ticks: u32,
    /// What happens to a packet no backend can take.
    pub no_backend: NoBackend,
    /// How long a removed backend keeps its flows, in seconds.
    pub drain: u32,
    /// The ring's size.
    pub ring_size: RingSize,
    /// Its backends; addresses are unique.
    pub backends: Vec<DesiredBackend>,
}

/// A backend as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredBackend {
    /// The real server.
    pub address: IpAddr,
    /// The outer header.
    pub encapsulation: Encapsulation,
    /// Share of new flows. A backend of weight 0 is up, keeps its flows and gets no new ones.
    pub weight: u32,
    /// The way to it.
    pub path: Path,
}

/// What is known about the way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// All of it.
    Known(NextHop),
    /// There is a route, but the next hop does not answer. A new backend waits; one that is in the tables already
    /// goes on with what was known last.
    Silent,
    /// There is no route. The backend gets no new flows.
    None,
}

/// The way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The next hop's MAC address.
    pub mac: [u8; 6],
    /// The egress interface's MAC address.
    pub source_mac: [u8; 6],
    /// The egress interface.
    pub ifindex: u32,
    /// MTU towards the backend, bytes of IP packet.
    pub mtu: u16,
    /// Source of the outer header; of the backend's family.
    pub source: IpAddr,
}

impl Desired {
    /// What `config` asks for at `now` (seconds of CLOCK_BOOTTIME), where a flow-table tick lasts `tick` and `path`
    /// knows the ways to the backends.
    pub fn new(
        config: &Config,
        now: u32,
        tick: Duration,
        mut path: impl FnMut(&Service, &Backend) -> Path,
    ) -> Self {
        let services = config.services.iter().map(|service| DesiredService {
            key: service_key(&service.key),
            idle_ticks: ticks(service.idle_timeout, tick),
            no_backend: match service.no_backend {
                weir_config::NoBackend::Drop => NoBackend::Drop,
                weir_config::NoBackend::Pass => NoBackend::Pass,
                weir_config::NoBackend::Unreachable => NoBackend::Unreachable,
            },
            drain: service.drain.as_secs() as u32,
            ring_size: ring_size(service),
            backends: service
                .backends
                .iter()
                .map(|backend| DesiredBackend {
                    address: backend.address,
                    encapsulation: encapsulation(service.key.vip, backend.address),
                    weight: u32::from(backend.weight),
                    path: path(service, backend),
                })
                .collect(),
        });
        Self { services: services.collect(), now }
    }
}

/// The datapath's key of a configured service.
pub fn service_key(key: &weir_config::ServiceKey) -> ServiceKey {
    ServiceKey {
        vip: Address::from(key.vip),
        family: Family::of(key.vip),
        protocol: key.protocol.number(),
        port: key.port.to_be(),
        prefix_len: 0,
    }
}

/// Ring sizes come from what is configured, not from who is reachable: directors that see different failures still
/// have rings of one size.
pub fn ring_size(service: &Service) -> RingSize {
    let automatic = || RingSize::automatic(service.backends.iter().map(|b| u32::from(b.weight)));
    match service.ring_slots {
        RingSlots::Automatic => automatic(),
        RingSlots::Exactly(slots) => RingSize::new(slots).unwrap_or_else(automatic),
    }
}

/// IPv6 in IPv4 has no number yet.
fn encapsulation(vip: IpAddr, backend: IpAddr) -> Encapsulation {
    match (vip, backend) {
        (IpAddr::V4(_), IpAddr::V4(_)) => Encapsulation::Ip4InIp4,
        (IpAddr::V4(_), IpAddr::V6(_)) => Encapsulation::Ip4InIp6,
        (IpAddr::V6(_), _) => Encapsulation::Ip6InIp6,
    }
}

/// Rounded up, so that a flow is never forgotten before its time, as far as the 12 bits of an entry's time allow.
fn ticks(idle: Duration, tick: Duration) -> u32 {
    let whole = idle.as_nanos().div_ceil(tick.as_nanos().max(1));
    whole.clamp(1, 0xfff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_times_are_rounded_up_to_ticks_and_kept_within_twelve_bits() {
        let tick = Duration::from_millis(1024);
        assert_eq!(ticks(Duration::from_secs(10), tick), 10);
        assert_eq!(ticks(Duration::from_secs(300), tick), 293);
        assert_eq!(ticks(Duration::from_secs(86_400), tick), 4095);
        assert_eq!(ticks(Duration::from_millis(1), tick), 1);
    }
}
