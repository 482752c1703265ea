//! What the tables hold in a test: built once, loaded into plain memory or into the kernel's maps.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weir_abi::{
    Backend, BackendFields, BackendState, Budget, Control, Encapsulation, Family, Features, HashFields,
    MAX_PROBES, NoBackend, Policy, PrefixKey, RingRange, RingSlot, ServerIds, ServerKey, Service, ServiceKey,
    ServiceTable, SourceRule, Traits, service_index,
};

/// The MAC address of the director in tests.
pub const DIRECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// The next hop's MAC address in tests.
pub const NEXT_HOP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x20];

/// A service to put into an image.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// VIP, or the network's address where it is a prefix.
    pub vip: IpAddr,
    /// Length of a VIP prefix; 0 = one address.
    pub prefix_len: u8,
    /// Port; 0 = every port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Real servers; none = a service without a ring.
    pub backends: Vec<IpAddr>,
    /// How packets travel to them.
    pub encapsulation: Travel,
    /// What happens without one.
    pub no_backend: NoBackend,
    /// MTU towards the backends.
    pub mtu: u16,
    /// VLAN id of the egress tag; 0 = none.
    pub vlan: u16,
    /// Slots of its ring, as a power of two.
    pub ring_log2: u32,
    /// What chooses a slot.
    pub hash: HashFields,
    /// Leading bits of a source that count; 0 = all.
    pub source_prefix: u8,
    /// Where server ids are found, and QUIC-LB's rotation and length of an id.
    pub server_ids: (ServerIds, u8, u8),
    /// [`Traits`]' flags.
    pub flags: u32,
    /// How many flows may be remembered in a tick.
    pub budget: Budget,
    /// Server ids: id, index into `backends`.
    pub servers: Vec<(u32, usize)>,
    /// The source list: network, prefix length, what is done.
    pub sources: Vec<(IpAddr, u8, SourceSpec)>,
}

/// What a source list says of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// Denied.
    Deny,
    /// Allowed.
    Allow,
    /// To this one of the service's backends.
    To(usize),
}

/// How packets travel to a service's backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Travel {
    /// In IP, as the families say.
    Ipip,
    /// In IP from a source of the flow's own.
    IpipSpread,
    /// In GUE.
    Gue,
    /// With other MAC addresses.
    Layer2,
    /// Not at all.
    Local,
}

/// What the director does in tests besides balancing.
#[derive(Clone, Copy, Debug)]
pub struct DirectorSpec {
    /// [`Features`]' flags; that there are prefixes or addresses to unwrap for is added where it is so.
    pub flags: u8,
    /// UDP port of GUE.
    pub gue_port: u16,
    /// ICMP errors a CPU may send in a tick.
    pub error_budget: u32,
}

impl Default for DirectorSpec {
    fn default() -> Self {
        Self {
            flags: Features::ANSWER_ECHO | Features::SEND_TOO_BIG | Features::GUE_CHECKSUM,
            gue_port: 6080,
            error_budget: 1000,
        }
    }
}

/// Contents of all tables but the flow table.
#[derive(Clone, Debug)]
pub struct Image {
    /// The control record.
    pub control: [u64; 8],
    /// Service entries.
    pub services: Vec<[u64; 8]>,
    /// Ring slots.
    pub rings: Vec<u64>,
    /// Backends by id.
    pub backends: Vec<[u64; 8]>,
    /// Flow buckets, a power of two.
    pub flow_buckets: u32,
    /// Fragment buckets, a power of two.
    pub fragment_buckets: u32,
    /// Backend ids of servers.
    pub servers: BTreeMap<ServerKey, u32>,
    /// Source lists.
    pub sources: Vec<(PrefixKey, SourceRule)>,
    /// VIP prefixes.
    pub prefixes: Vec<(PrefixKey, u8)>,
    /// What was asked for; service ids are indices into this.
    pub specs: Vec<ServiceSpec>,
    /// The rest of it.
    pub director: DirectorSpec,
    /// Where wrapped packets may come to.
    pub decapsulate: Vec<IpAddr>,
}

/// Bits of an outer source that vary where it is spread: the last 16 of IPv4's, the last 64 of IPv6's.
pub const SPREAD_V4: u32 = 0xffff;
/// The network of spread IPv4 sources.
pub const SPREAD_NETWORK_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);
/// The network of spread IPv6 sources.
pub const SPREAD_NETWORK_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);

/// A shift that makes the clock stand still, so that two runs leave the same flow table.
const STOPPED_CLOCK: u32 = 63;

/// The outer source of a test's director, by the family of the backend.
pub fn director_address(backend: IpAddr) -> IpAddr {
    match backend {
        IpAddr::V4(_) => IpAddr::from([10, 0, 0, 2]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]),
    }
}

impl Image {
    /// Tables for these services: egress is interface `ifindex`.
    pub fn new(specs: Vec<ServiceSpec>, ifindex: u32) -> Self {
        Self::with(specs, DirectorSpec::default(), &[], ifindex)
    }

    /// The same for a director that does other things besides, and takes wrapped packets at these addresses.
    pub fn with(
        specs: Vec<ServiceSpec>,
        director: DirectorSpec,
        decapsulate: &[IpAddr],
        ifindex: u32,
    ) -> Self {
        let mut image = Self {
            control: [0; 8],
            services: Vec::new(),
            rings: Vec::new(),
            backends: vec![[0; 8]],
            flow_buckets: 1 << 10,
            fragment_buckets: 1 << 6,
            servers: BTreeMap::new(),
            sources: Vec::new(),
            prefixes: Vec::new(),
            specs,
            director,
            decapsulate: decapsulate.to_vec(),
        };
        let mut entries: Vec<(ServiceKey, [u64; 8])> = Vec::new();
        for (id, spec) in image.specs.clone().into_iter().enumerate() {
            let key = spec.key();
            let first = image.backends.len() as u32;
            let ring = image.add_ring(&spec, id as u32, ifindex);
            image.add_lists(&spec, id as u32, first);
            let record = [0; 8].map(std::cell::Cell::new);
            let view = Service(&record);
            view.set_policy(id as u32, spec.traits(), spec.policy());
            view.set_source_list(id as u32 + 1);
            view.set_ring(ring);
            view.set_key(&key);
            entries.push((key, record.map(|cell| cell.get())));
            let vip = key.vip_only();
            if entries.iter().all(|(other, _)| *other != vip) {
                let record = [0; 8].map(std::cell::Cell::new);
                Service(&record).set_key(&vip);
                entries.push((vip, record.map(|cell| cell.get())));
            }
        }
        for address in decapsulate {
            for (protocol, port) in [(4, 0), (41, 0), (17, image.director.gue_port)] {
                let key = ServiceKey {
                    vip: (*address).into(),
                    family: Family::of(*address),
                    protocol,
                    port: port.to_be(),
                    prefix_len: 0,
                };
                let record = [0; 8].map(std::cell::Cell::new);
                let traits =
                    Traits::new(HashFields::Flow, ServerIds::None, Traits::DECAPSULATE, Budget::UNLIMITED);
                Service(&record).set_policy(u32::MAX, traits, Policy::default());
                Service(&record).set_key(&key);
                entries.push((key, record.map(|cell| cell.get())));
            }
        }
        image.place(&entries);
        image.set_director(!decapsulate.is_empty());
        image
    }

    fn set_director(&mut self, decapsulates: bool) {
        let DirectorSpec { mut flags, gue_port, error_budget } = self.director;
        if !self.prefixes.is_empty() {
            flags |= Features::PREFIXES;
        }
        if decapsulates {
            flags |= Features::DECAPSULATE;
        }
        let cells = self.control.map(std::cell::Cell::new);
        let view = Control(&cells);
        view.set_features(Features::new(flags, gue_port, error_budget));
        view.set_source_masks(SPREAD_V4.to_be(), u64::MAX);
        self.control = cells.map(|cell| cell.get());
    }

    /// Gives the flow table another size (a power of two) and its clock a rate.
    pub fn set_flow_geometry(&mut self, buckets: u32, tick_shift: u32) {
        self.flow_buckets = buckets;
        let cells = self.control.map(std::cell::Cell::new);
        Control(&cells).set_geometry(buckets - 1, tick_shift, self.fragment_buckets.trailing_zeros());
        self.control = cells.map(|cell| cell.get());
    }

    /// The backends of a service that are not down, by its place in `specs`.
    pub fn alive(&self, service: usize) -> Vec<IpAddr> {
        let first = 1 + self.specs[..service].iter().map(|spec| spec.backends.len()).sum::<usize>();
        let backends = self.specs[service].backends.iter().zip(&self.backends[first..]);
        backends.filter(|(_, record)| (record[5] >> 48) as u8 != 0).map(|(address, _)| *address).collect()
    }

    /// Takes a backend down; `healed`: the rings name others of its service instead, where there are any, as user space
    /// always leaves them.
    pub fn take_down(&mut self, id: u32, healed: bool) {
        let state = &mut self.backends[id as usize][5];
        *state = *state & !(0xff << 48) | (BackendState::Down as u64) << 48;
        if !healed {
            return;
        }
        let alive = |id: u32| {
            let cells = self.backends[id as usize].map(std::cell::Cell::new);
            let backend = Backend(&cells);
            backend.is_alive().then(|| backend.service_id())
        };
        let owner = self.backends[id as usize][7] as u32;
        let others: Vec<u32> =
            (1..self.backends.len() as u32).filter(|other| alive(*other) == Some(owner)).collect();
        let mut next = others.iter().cycle();
        for slot in &mut self.rings {
            if RingSlot(*slot).current() == id
                && let Some(other) = next.next()
            {
                *slot = RingSlot::settled(*other).0;
            }
        }
    }

    fn add_ring(&mut self, spec: &ServiceSpec, service_id: u32, ifindex: u32) -> RingRange {
        if spec.backends.is_empty() {
            return RingRange::NONE;
        }
        let base = self.rings.len() as u32;
        let first = self.backends.len();
        for backend in &spec.backends {
            self.backends.push(fields(spec, *backend, service_id, ifindex).record());
        }
        // Any assignment will do here: the datapath does not care how the ring was made.
        for slot in 0..1usize << spec.ring_log2 {
            self.rings.push(RingSlot::settled((first + slot % spec.backends.len()) as u32).0);
        }
        RingRange::new(base, spec.ring_log2)
    }

    fn add_lists(&mut self, spec: &ServiceSpec, service_id: u32, first_backend: u32) {
        for (id, backend) in &spec.servers {
            let key = ServerKey::of_packet(service_id, *id);
            self.servers.insert(key, first_backend + *backend as u32);
        }
        for (network, prefix_len, what) in &spec.sources {
            let rule = match what {
                SourceSpec::Deny => SourceRule::DENY,
                SourceSpec::Allow => SourceRule::ALLOW,
                SourceSpec::To(backend) => {
                    let number = *backend as u32;
                    let key = ServerKey::of_source(service_id, number);
                    self.servers.insert(key, first_backend + number);
                    SourceRule::server(number)
                }
            };
            let key = PrefixKey::sources(service_id + 1, (*network).into(), *prefix_len);
            self.sources.push((key, rule));
        }
        let key = PrefixKey::vips(Family::of(spec.vip), spec.vip.into(), spec.prefix_len);
        if spec.prefix_len != 0 && self.prefixes.iter().all(|(other, _)| *other != key) {
            self.prefixes.push((key, spec.prefix_len));
        }
    }

    fn place(&mut self, entries: &[(ServiceKey, [u64; 8])]) {
        let log2 = (entries.len().max(2) * 4).next_power_of_two().trailing_zeros();
        let mask = (1u32 << log2) - 1;
        let (seed, services) = (0u32..)
            .find_map(|seed| {
                let mut table = vec![[0u64; 8]; 1 << log2];
                for (key, record) in entries {
                    let start = service_index(key, seed);
                    let at = (0..MAX_PROBES)
                        .map(|probe| start.wrapping_add(probe) & mask)
                        .find(|at| table[*at as usize][2] == 0)?;
                    table[at as usize] = *record;
                }
                Some((seed, table))
            })
            .expect("a quarter-full table has a seed without long chains");
        self.services = services;
        let control = [0; 8].map(std::cell::Cell::new);
        let view = Control(&control);
        view.set_identity();
        view.set_hash_key([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        view.set_geometry(self.flow_buckets - 1, STOPPED_CLOCK, self.fragment_buckets.trailing_zeros());
        view.set_service_table(ServiceTable::new(0, log2, seed));
        self.control = control.map(|cell| cell.get());
    }
}

impl ServiceSpec {
    /// A TCP service on port 80 with room for packets of 1500 bytes.
    pub fn tcp(vip: &str, backends: &[&str]) -> Self {
        let parse = |text: &str| text.parse().expect("a literal address");
        Self {
            vip: parse(vip),
            prefix_len: 0,
            port: 80,
            protocol: 6,
            backends: backends.iter().map(|text| parse(text)).collect(),
            encapsulation: Travel::Ipip,
            no_backend: NoBackend::Drop,
            mtu: 1500,
            vlan: 0,
            ring_log2: 8,
            hash: HashFields::Flow,
            source_prefix: 0,
            server_ids: (ServerIds::None, 0, 0),
            flags: 0,
            budget: Budget::UNLIMITED,
            servers: Vec::new(),
            sources: Vec::new(),
        }
    }
    /// The key of the service's entry.
    pub fn key(&self) -> ServiceKey {
        ServiceKey {
            vip: self.vip.into(),
            family: Family::of(self.vip),
            protocol: self.protocol,
            port: self.port.to_be(),
            prefix_len: self.prefix_len,
        }
    }
    /// Whether an address is one of its VIPs.
    pub fn has_vip(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
            IpAddr::V6(v6) => u128::from(v6),
        };
        let differs = bits(self.vip) ^ bits(address);
        let same = if self.prefix_len == 0 { differs == 0 } else { differs >> (128 - self.prefix_len) == 0 };
        self.vip.is_ipv4() == address.is_ipv4() && same
    }
    fn traits(&self) -> Traits {
        let listed = if self.sources.is_empty() { 0 } else { Traits::SOURCES };
        Traits::new(self.hash, self.server_ids.0, self.flags | listed, self.budget)
    }
    fn policy(&self) -> Policy {
        Policy::new(0, 100, self.no_backend)
            .with_source_prefix(self.source_prefix)
            .with_quic_lb(self.server_ids.1, self.server_ids.2)
    }
}

fn fields(spec: &ServiceSpec, backend: IpAddr, service_id: u32, ifindex: u32) -> BackendFields {
    let encapsulation = match (spec.encapsulation, spec.vip, backend) {
        (Travel::Ipip | Travel::IpipSpread, IpAddr::V4(_), IpAddr::V4(_)) => Encapsulation::Ip4InIp4,
        (Travel::Ipip | Travel::IpipSpread, IpAddr::V4(_), IpAddr::V6(_)) => Encapsulation::Ip4InIp6,
        (Travel::Ipip | Travel::IpipSpread, IpAddr::V6(_), IpAddr::V6(_)) => Encapsulation::Ip6InIp6,
        (Travel::Ipip | Travel::IpipSpread, IpAddr::V6(_), IpAddr::V4(_)) => Encapsulation::Ip6InIp4,
        (Travel::Gue, _, IpAddr::V4(_)) => Encapsulation::GueInIp4,
        (Travel::Gue, _, IpAddr::V6(_)) => Encapsulation::GueInIp6,
        (Travel::Layer2, ..) => Encapsulation::Layer2,
        (Travel::Local, ..) => Encapsulation::Local,
    };
    let spread_source = spec.encapsulation == Travel::IpipSpread;
    let source = match backend {
        IpAddr::V4(_) if spread_source => SPREAD_NETWORK_V4.into(),
        IpAddr::V6(_) if spread_source => SPREAD_NETWORK_V6.into(),
        _ => director_address(backend),
    };
    BackendFields {
        destination: backend.into(),
        source: source.into(),
        next_hop_mac: NEXT_HOP_MAC,
        mtu: spec.mtu,
        source_mac: DIRECTOR_MAC,
        state: BackendState::Up,
        encapsulation,
        spread_source,
        ifindex,
        vlan: spec.vlan,
        service_id,
        drain_until: 0,
    }
}
