//! Random tables.
use super::{DIRECTORS, GUE_PORT, ROTATION, Random, SERVER_IDS, client, vip};
use crate::{DirectorSpec, Image, ServiceSpec, SourceSpec, Travel};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weir_abi::{Budget, Features, HashFields, NoBackend, ServerIds, Traits};

/// Backends that the tests' tables have room for.
const MOST_BACKENDS: usize = 60;

/// Tables with up to three dozen services around the addresses [`random_packet`](super::random_packet) uses.
pub fn random_image(random: &mut Random, ifindex: u32) -> Image {
    let mut specs: Vec<ServiceSpec> = Vec::new();
    let backends = |specs: &[ServiceSpec]| specs.iter().map(|spec| spec.backends.len()).sum::<usize>();
    for _ in 0..random.pick(&[1, 4, 16, 24, 40, 40]) {
        let spec = service(random);
        if backends(&specs) + spec.backends.len() <= MOST_BACKENDS
            && specs.iter().all(|other| other.key() != spec.key())
        {
            specs.push(spec);
        }
    }
    let flags = [Features::ANSWER_ECHO, Features::SEND_TOO_BIG, Features::GUE_CHECKSUM];
    let flags = flags.into_iter().fold(0, |all, flag| if random.one_in(4) { all } else { all | flag });
    let error_budget = random.pick(&[0, 5, 1000, 1000]);
    let director = DirectorSpec { flags, gue_port: GUE_PORT, error_budget };
    let directors = DIRECTORS.map(|address| address.parse().expect("a literal address"));
    let decapsulate: &[IpAddr] = if random.one_in(2) { &directors } else { &[] };
    let mut image = Image::with(specs, director, decapsulate, ifindex);
    if random.one_in(3) && image.backends.len() > 1 {
        image.take_down(1 + random.below(image.backends.len() - 1) as u32, true);
    }
    image
}

fn service(random: &mut Random) -> ServiceSpec {
    let address = vip(random);
    let prefix_len = match address {
        _ if !random.one_in(5) => 0,
        IpAddr::V4(_) => random.pick(&[24, 30, 31]),
        IpAddr::V6(_) => random.pick(&[48, 126, 127]),
    };
    let mut backends: Vec<IpAddr> = Vec::new();
    for n in 0..random.below(5) as u8 {
        backends.push(if random.one_in(2) {
            IpAddr::from([10, 0, 0, 0x10 + n])
        } else {
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100 + u16::from(n)])
        });
    }
    let mut spec = ServiceSpec {
        vip: if prefix_len == 0 { address } else { network(address, prefix_len) },
        prefix_len,
        port: random.pick(&[0, 53, 80, 443]),
        protocol: random.pick(&[6, 17]),
        backends,
        no_backend: random.pick(&[NoBackend::Drop, NoBackend::Pass, NoBackend::Unreachable]),
        mtu: random.pick(&[300, 1280, 1500, 1500]),
        ..ServiceSpec::tcp("192.0.2.0", &[])
    };
    if random.one_in(2) {
        use Travel::{Gue, Ipip, IpipSpread, Layer2, Local};
        spec.encapsulation = random.pick(&[Ipip, IpipSpread, Gue, Gue, Layer2, Local]);
    }
    if random.one_in(5) {
        spec.vlan = 1 + random.below(4094) as u16;
    }
    if random.one_in(2) {
        traits(random, &mut spec);
    }
    spec
}

fn traits(random: &mut Random, spec: &mut ServiceSpec) {
    use HashFields::{Flow, Port, Ports, Source, SourceAndPort};
    spec.hash = random.pick(&[Flow, Flow, Source, SourceAndPort, Port, Ports]);
    let host = if spec.vip.is_ipv4() { 32 } else { 128 };
    spec.source_prefix = random.pick(&[0, 0, 8, 24, host - 2, host]);
    for flag in [Traits::PERSISTENT, Traits::TURNS, Traits::UNTRACKED, Traits::DENY_OTHERS] {
        if random.one_in(6) {
            spec.flags |= flag;
        }
    }
    if random.one_in(4) {
        spec.budget = Budget::at_least(1 + random.below(5) as u32);
    }
    let count = spec.backends.len();
    if count == 0 {
        return;
    }
    if random.one_in(2) {
        use ServerIds::{Quic, QuicLb, TcpOption, UdpStable};
        let scheme = if spec.protocol == 6 { TcpOption } else { random.pick(&[Quic, QuicLb, UdpStable]) };
        spec.server_ids = (scheme, ROTATION, 1 + random.below(4) as u8);
        for id in 0..SERVER_IDS as u32 {
            if !random.one_in(4) {
                spec.servers.push((id, random.below(count)));
            }
        }
    }
    if random.one_in(2) {
        for _ in 0..=random.below(4) {
            let len = random.pick(&[8, 24, host - 3, host - 1, host]);
            let what = random.pick(&[
                SourceSpec::Deny,
                SourceSpec::Allow,
                SourceSpec::To(random.0 as usize % count),
            ]);
            let rule = (network(client(random, spec.vip), len), len, what);
            if spec.sources.iter().all(|other| (other.0, other.1) != (rule.0, rule.1)) {
                spec.sources.push(rule);
            }
        }
    }
}

/// The network of this length around an address.
fn network(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & u32::MAX << (32 - len)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & u128::MAX << (128 - len)).into(),
    }
}
