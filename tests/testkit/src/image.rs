//! What the tables hold in a test: built once, loaded into plain memory or into the kernel's maps.
use std::net::IpAddr;
use weir_abi::{
    BackendFields, BackendState, Control, Encapsulation, Family, MAX_PROBES, NoBackend, RingRange, RingSlot,
    Service, ServiceKey, ServiceTable, service_index,
};

/// The MAC address of the director in tests.
pub const DIRECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// The next hop's MAC address in tests.
pub const NEXT_HOP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x20];

/// A service to put into an image.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// VIP.
    pub vip: IpAddr,
    /// Port; 0 = every port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Real servers; none = a service without a ring.
    pub backends: Vec<IpAddr>,
    /// What happens without one.
    pub no_backend: NoBackend,
    /// MTU towards the backends.
    pub mtu: u16,
    /// Slots of its ring, as a power of two.
    pub ring_log2: u32,
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
    /// What was asked for; service ids are indices into this.
    pub specs: Vec<ServiceSpec>,
}

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
        let mut image = Self {
            control: [0; 8],
            services: Vec::new(),
            rings: Vec::new(),
            backends: vec![[0; 8]],
            flow_buckets: 1 << 10,
            specs,
        };
        let mut entries: Vec<(ServiceKey, [u64; 8])> = Vec::new();
        for (id, spec) in image.specs.clone().into_iter().enumerate() {
            let key = spec.key();
            let ring = image.add_ring(&spec, id as u32, ifindex);
            let record = [0; 8].map(std::cell::Cell::new);
            let view = Service(&record);
            view.set_policy(id as u32, 0, 100, spec.no_backend);
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
        image.place(&entries);
        image
    }

    /// Gives the flow table another size (a power of two) and its clock a rate.
    pub fn set_flow_geometry(&mut self, buckets: u32, tick_shift: u32) {
        self.flow_buckets = buckets;
        let cells = self.control.map(std::cell::Cell::new);
        Control(&cells).set_flow_geometry(buckets - 1, tick_shift);
        self.control = cells.map(|cell| cell.get());
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
        view.set_flow_geometry(self.flow_buckets - 1, STOPPED_CLOCK);
        view.set_service_table(ServiceTable::new(0, log2, seed));
        self.control = control.map(|cell| cell.get());
    }
}

impl ServiceSpec {
    /// A TCP service on port 80 with room for jumbo frames.
    pub fn tcp(vip: &str, backends: &[&str]) -> Self {
        let parse = |text: &str| text.parse().expect("a literal address");
        Self {
            vip: parse(vip),
            port: 80,
            protocol: 6,
            backends: backends.iter().map(|text| parse(text)).collect(),
            no_backend: NoBackend::Drop,
            mtu: 1500,
            ring_log2: 8,
        }
    }
    /// The key of the service's entry.
    pub fn key(&self) -> ServiceKey {
        ServiceKey {
            vip: self.vip.into(),
            family: Family::of(self.vip),
            protocol: self.protocol,
            port: self.port.to_be(),
        }
    }
}

fn fields(spec: &ServiceSpec, backend: IpAddr, service_id: u32, ifindex: u32) -> BackendFields {
    let encapsulation = match (spec.vip, backend) {
        (IpAddr::V4(_), IpAddr::V4(_)) => Encapsulation::Ip4InIp4,
        (IpAddr::V4(_), IpAddr::V6(_)) => Encapsulation::Ip4InIp6,
        (IpAddr::V6(_), _) => Encapsulation::Ip6InIp6,
    };
    BackendFields {
        destination: backend.into(),
        source: director_address(backend).into(),
        next_hop_mac: NEXT_HOP_MAC,
        mtu: spec.mtu,
        source_mac: DIRECTOR_MAC,
        state: BackendState::Up,
        encapsulation,
        ifindex,
        service_id,
        drain_until: 0,
    }
}
