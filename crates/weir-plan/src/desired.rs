//! What the tables should say.
//!
//! Owns: the translation from a configuration and what is known about the ways to its backends. May not touch:
//! ids and places in the tables (they are the plan's business), the routes themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use weir_abi::{
    Address, Budget, Encapsulation, Family, Features, HashFields, NoBackend, Policy, ServerIds, ServiceKey,
    Traits,
};
use weir_config::{
    Backend, Config, Director, GueChecksum, HashBy, RingSlots, Scheduler, Service, Source, State, Tracking,
};
use weir_maglev::RingSize;

use crate::SourceList;

/// Everything the tables should say, at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// What concerns no service in particular.
    pub director: DesiredDirector,
    /// The services; keys are unique.
    pub services: Vec<DesiredService>,
    /// The time, in seconds of CLOCK_BOOTTIME.
    pub now: u32,
}

/// The director as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredDirector {
    /// What it does besides balancing. [`Features::PREFIXES`] and [`Features::DECAPSULATE`] are the plan's to set.
    pub features: Features,
    /// The network whose addresses are sources of outer IPv4 headers, and its length; 8 to 31.
    pub spread_v4: Option<(Ipv4Addr, u8)>,
    /// The same of IPv6; 16 to 127.
    pub spread_v6: Option<(Ipv6Addr, u8)>,
    /// Addresses to which wrapped packets come; none is a VIP.
    pub decapsulate: Vec<IpAddr>,
}

/// A service as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredService {
    /// What packets it gets.
    pub key: ServiceKey,
    /// What is special about it. [`Traits::TURNS`] says what kind of ring it has, [`Traits::SOURCES`] that there is a list.
    pub traits: Traits,
    /// The rest of it.
    pub policy: Policy,
    /// What becomes of which clients.
    pub sources: Option<SourceList>,
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
    /// How packets travel to it.
    pub encapsulation: Encapsulation,
    /// Share of new flows. A backend of weight 0 is up, keeps its flows and gets no new ones.
    pub weight: u32,
    /// It gets nothing, and its flows move at once.
    pub down: bool,
    /// Ids by which packets name it; unique in the service.
    pub server_ids: Vec<u32>,
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
    /// VLAN id of the tag that frames leave with; 0 = none.
    pub vlan: u16,
    /// MTU towards the backend, bytes of IP packet.
    pub mtu: u16,
    /// Source of the outer header; of the backend's family. Of no account where there is no outer header.
    pub source: IpAddr,
    /// Whether `source` is the network of [`DesiredDirector::spread_v4`] or [`DesiredDirector::spread_v6`], and each flow
    /// has an address in it.
    pub spread: bool,
}

impl NextHop {
    /// The way to a backend that is this machine: there is none.
    pub const LOCAL: Self = Self {
        mac: [0; 6],
        source_mac: [0; 6],
        ifindex: 0,
        vlan: 0,
        mtu: 0,
        source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        spread: false,
    };
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
        let services = config.services.iter().map(|service| desired_service(service, tick, &mut path));
        Self { services: services.collect(), director: desired_director(&config.director, tick), now }
    }
}

fn desired_director(director: &Director, tick: Duration) -> DesiredDirector {
    let flag = |flag, is_set| if is_set { flag } else { 0 };
    let flags = flag(Features::ANSWER_ECHO, director.answer_ping)
        | flag(Features::SEND_TOO_BIG, director.send_too_big)
        | flag(Features::GUE_CHECKSUM, director.gue_ipv6_checksum == GueChecksum::Computed);
    DesiredDirector {
        features: Features::new(flags, director.gue_port, per_tick(director.icmp_rate, tick)),
        spread_v4: spread(director.source_ipv4),
        spread_v6: spread(director.source_ipv6),
        decapsulate: director.decapsulate.clone(),
    }
}

fn spread<A>(source: Option<Source<A>>) -> Option<(A, u8)> {
    match source {
        Some(Source::Spread { network, prefix_len }) => Some((network, prefix_len)),
        Some(Source::Fixed(_)) | None => None,
    }
}

fn desired_service(
    service: &Service,
    tick: Duration,
    path: &mut impl FnMut(&Service, &Backend) -> Path,
) -> DesiredService {
    let addresses: Vec<IpAddr> = service.backends.iter().map(|backend| backend.address).collect();
    let backends = service.backends.iter().map(|backend| DesiredBackend {
        address: backend.address,
        encapsulation: encapsulation(service.key.vip, backend),
        weight: weight(service, backend),
        down: backend.state == State::Down,
        server_ids: backend.server_ids.clone(),
        path: path(service, backend),
    });
    DesiredService {
        key: service_key(&service.key),
        traits: traits(service, tick),
        policy: policy(service, tick),
        sources: SourceList::new(&service.sources, &addresses),
        drain: service.drain.as_secs() as u32,
        ring_size: ring_size(service),
        backends: backends.collect(),
    }
}

fn traits(service: &Service, tick: Duration) -> Traits {
    let hash = match service.hash {
        HashBy::Flow => HashFields::Flow,
        HashBy::Source => HashFields::Source,
        HashBy::SourceAndPort => HashFields::SourceAndPort,
        HashBy::Port => HashFields::Port,
        HashBy::Ports => HashFields::Ports,
    };
    let server_ids = match service.server_ids {
        weir_config::ServerIds::None => ServerIds::None,
        weir_config::ServerIds::Quic => ServerIds::Quic,
        weir_config::ServerIds::QuicLb { .. } => ServerIds::QuicLb,
        weir_config::ServerIds::UdpStable => ServerIds::UdpStable,
        weir_config::ServerIds::TcpOption => ServerIds::TcpOption,
    };
    let flag = |flag, is_set| if is_set { flag } else { 0 };
    let has_sources = !service.sources.is_empty();
    let flags = flag(Traits::PERSISTENT, service.persistence)
        | flag(Traits::TURNS, service.scheduler != Scheduler::Maglev)
        | flag(Traits::UNTRACKED, service.tracking == Tracking::Never)
        | flag(Traits::SOURCES, has_sources)
        | flag(
            Traits::DENY_OTHERS,
            has_sources && service.sources.others() == weir_config::SourceAction::Deny,
        );
    // Where nothing is remembered, nothing is spent.
    let budget = match (service.new_flow_budget, service.tracking) {
        (Some(per_second), Tracking::Always) => Budget::at_least(per_tick(per_second, tick)),
        _ => Budget::UNLIMITED,
    };
    Traits::new(hash, server_ids, flags, budget)
}

fn policy(service: &Service, tick: Duration) -> Policy {
    let no_backend = match service.no_backend {
        weir_config::NoBackend::Drop => NoBackend::Drop,
        weir_config::NoBackend::Pass => NoBackend::Pass,
        weir_config::NoBackend::Unreachable => NoBackend::Unreachable,
    };
    let policy = Policy::new(0, ticks(service.idle_timeout, tick), no_backend);
    let all_bits = if service.key.vip.is_ipv4() { 32 } else { 128 };
    let policy = match service.source_prefix.filter(|len| *len < all_bits) {
        Some(len) => policy.with_source_prefix(len),
        None => policy,
    };
    match service.server_ids {
        weir_config::ServerIds::QuicLb { rotation, id_length } => policy.with_quic_lb(rotation, id_length),
        _ => policy,
    }
}

/// The datapath's key of a configured service.
pub fn service_key(key: &weir_config::ServiceKey) -> ServiceKey {
    ServiceKey {
        vip: Address::from(key.vip),
        family: Family::of(key.vip),
        protocol: key.protocol.number(),
        port: key.port.to_be(),
        prefix_len: key.prefix_len.unwrap_or(0),
    }
}

/// Ring sizes come from what is configured, not from who is reachable: directors that see different failures still
/// have rings of one size.
pub fn ring_size(service: &Service) -> RingSize {
    let automatic = || RingSize::automatic(service.backends.iter().map(|b| weight(service, b)));
    match service.ring_slots {
        RingSlots::Automatic => automatic(),
        RingSlots::Exactly(slots) => RingSize::new(slots).unwrap_or_else(automatic),
    }
}

/// Who takes turns with `rr` takes the same ones.
fn weight(service: &Service, backend: &Backend) -> u32 {
    match service.scheduler {
        Scheduler::Rr => u32::from(backend.weight.min(1)),
        Scheduler::Maglev | Scheduler::Wrr => u32::from(backend.weight),
    }
}

/// How packets for `vip` travel to a backend.
fn encapsulation(vip: IpAddr, backend: &Backend) -> Encapsulation {
    use weir_config::Encapsulation::{Gue, Ipip, L2};
    if backend.local {
        return Encapsulation::Local;
    }
    match (backend.encapsulation, vip, backend.address) {
        (Ipip, IpAddr::V4(_), IpAddr::V4(_)) => Encapsulation::Ip4InIp4,
        (Ipip, IpAddr::V4(_), IpAddr::V6(_)) => Encapsulation::Ip4InIp6,
        (Ipip, IpAddr::V6(_), IpAddr::V4(_)) => Encapsulation::Ip6InIp4,
        (Ipip, IpAddr::V6(_), IpAddr::V6(_)) => Encapsulation::Ip6InIp6,
        (Gue, _, IpAddr::V4(_)) => Encapsulation::GueInIp4,
        (Gue, _, IpAddr::V6(_)) => Encapsulation::GueInIp6,
        (L2, ..) => Encapsulation::Layer2,
    }
}

/// So many in a second, as so many in a tick; rounded up, so that some never become none.
fn per_tick(per_second: u32, tick: Duration) -> u32 {
    let in_tick = (u128::from(per_second) * tick.as_nanos()).div_ceil(1_000_000_000);
    u32::try_from(in_tick).unwrap_or(u32::MAX)
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

    #[test]
    fn rates_are_rounded_up_to_ticks() {
        assert_eq!(per_tick(1000, Duration::from_millis(1024)), 1024);
        assert_eq!(per_tick(1, Duration::from_millis(512)), 1);
        assert_eq!(per_tick(0, Duration::from_millis(512)), 0);
        assert_eq!(per_tick(u32::MAX, Duration::from_secs(2)), u32::MAX);
    }

    fn desired(text: &str) -> Desired {
        let config =
            weir_config::parse("", &format!("[director]\ninterfaces = [\"eth0\"]\n{text}")).expect("valid");
        Desired::new(&config, 7, Duration::from_millis(512), |_, _| Path::Silent)
    }

    #[test]
    fn what_a_file_says_becomes_words() {
        let desired = desired(
            "gue_port = 7070
             gue_ipv6_checksum = \"zero\"
             answer_ping = false
             icmp_rate = 100
             source_ipv4 = \"10.9.0.0/16\"
             decapsulate = [\"10.0.0.2\"]
             [[service]]
             vip = \"2001:db8:5::/48\"
             port = \"*\"
             protocol = \"udp\"
             scheduler = \"rr\"
             hash = \"source\"
             persistence = true
             source_prefix = 56
             new_flow_budget = 1000
             server_ids = \"quic-lb\"
             quic_lb_rotation = 3
             no_backend = \"unreachable\"
             idle_timeout = \"10s\"
             allow = [\"2001:db8:6::/48\"]
             backend = [
                 { address = \"10.0.0.11\", weight = 5, server_id = 9 },
                 { address = \"2001:db8::11\", weight = 0 },
                 { address = \"10.0.0.12\", encapsulation = \"gue\" },
                 { address = \"2001:db8::12\", encapsulation = \"gue\" },
                 { address = \"2001:db8::13\", encapsulation = \"l2\" },
                 { address = \"2001:db8::14\", local = true, state = \"down\" },
             ]",
        );
        let director = &desired.director;
        assert_eq!(director.features, Features::new(Features::SEND_TOO_BIG, 7070, 52));
        assert_eq!((director.spread_v4, director.spread_v6), (Some(([10, 9, 0, 0].into(), 16)), None));
        assert_eq!(director.decapsulate, [IpAddr::from([10, 0, 0, 2])]);
        let [service] = &desired.services[..] else { panic!("one service") };
        let flags = Traits::PERSISTENT | Traits::TURNS | Traits::SOURCES | Traits::DENY_OTHERS;
        let budget = Budget::at_least(512);
        assert_eq!(service.traits, Traits::new(HashFields::Source, ServerIds::QuicLb, flags, budget));
        let policy = Policy::new(0, 20, NoBackend::Unreachable).with_source_prefix(56).with_quic_lb(3, 2);
        assert_eq!(service.policy, policy);
        assert_eq!((service.key.prefix_len, service.key.port, service.key.protocol), (48, 0, 17));
        let kinds: Vec<_> = service.backends.iter().map(|b| (b.encapsulation, b.weight, b.down)).collect();
        assert_eq!(
            kinds,
            [
                (Encapsulation::Ip6InIp4, 1, false),
                (Encapsulation::Ip6InIp6, 0, false),
                (Encapsulation::GueInIp4, 1, false),
                (Encapsulation::GueInIp6, 1, false),
                (Encapsulation::Layer2, 1, false),
                (Encapsulation::Local, 1, true),
            ]
        );
        assert_eq!(service.backends[0].server_ids, [9]);
    }

    #[test]
    fn a_service_like_most_has_no_traits() {
        let desired = desired("[[service]]\nvip = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"");
        assert_eq!((desired.services[0].traits, desired.services[0].sources.is_none()), (Traits(0), true));
        assert_eq!(desired.services[0].policy, Policy::new(0, 1758, NoBackend::Drop));
    }
}
