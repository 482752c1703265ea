//! A provision as weir's configuration: the text of a file.
//!
//! Owns: which of the peer's words becomes which of weir's, and the notes about what has none. May not touch: tables; the
//! text goes through weir's own parser. Invariant: what is neither in the text nor in a note makes no difference to weir: the
//! peer's limits, its ring's size, whether its table of flows is one or one for each CPU, and when a flow leaves a backend
//! that is down (weir's always does).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use crate::{
    packet::{PROTOCOL_TCP, PROTOCOL_UDP},
    peer::Peer,
    schema::{Network, Provision, Real, State, Vip},
};

/// Flags of a VIP. (Two others change nothing: see the invariant.)
mod vip_flag {
    pub(super) const NO_SOURCE_PORT: u32 = 1;
    pub(super) const NO_FLOW_TABLE: u32 = 2;
    pub(super) const QUIC: u32 = 4;
    pub(super) const DESTINATION_PORT: u32 = 8;
    pub(super) const SOURCE_ROUTING: u32 = 16;
    pub(super) const LOCAL: u32 = 32;
    pub(super) const BOTH_PORTS: u32 = 128;
    pub(super) const UDP_STABLE: u32 = 256;
}

/// Flag of a real server: it is this machine, for VIPs with [`vip_flag::LOCAL`].
const REAL_LOCAL: u32 = 2;

/// Where the peer's outer sources are when they differ from flow to flow.
const SPREAD_V4: &str = "172.16.0.0/16";
const SPREAD_V6: &str = "100::/64";

/// Where they are when they do not, and the provision does not say.
const FIXED_V4: &str = "192.0.2.1";
const FIXED_V6: &str = "2001:db8::1";

/// Weights are of 16 bits.
const MAX_WEIGHT: u32 = u16::MAX as u32;

/// What a provision becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Configuration {
    /// Weir's configuration file.
    pub(crate) text: String,
    /// What it cannot say.
    pub(crate) notes: Vec<String>,
}

/// A backend on its way into the text.
#[derive(Debug, Default)]
struct Backend {
    weight: u32,
    down: bool,
    local: bool,
    server_ids: BTreeSet<u32>,
    sources: BTreeSet<Network>,
}

/// Writes the configuration of a director that is to do what the peer was told to.
pub(crate) fn configuration(provision: &Provision, peer: &Peer) -> Configuration {
    let state = &provision.state;
    let mut made = Configuration { text: String::new(), notes: Vec::new() };
    director(&mut made, state, peer);
    let local = local_reals(provision);
    for vip in &state.vips {
        service(&mut made, vip, state, peer, &local);
    }
    made
}

/// The port GUE goes to and comes from.
pub(crate) fn gue_port(state: &State, peer: &Peer) -> Option<u16> {
    peer.gue_port.or(state.gue_dport)
}

fn director(made: &mut Configuration, state: &State, peer: &Peer) {
    let text = &mut made.text;
    text.push_str("[director]\ninterfaces = [\"lo\"]\n");
    let fixed = |address: Option<IpAddr>, otherwise: &str| {
        address.map_or_else(|| otherwise.to_owned(), |address| address.to_string())
    };
    let (v4, v6) = if peer.gue {
        (fixed(state.src_v4, FIXED_V4), fixed(state.src_v6, FIXED_V6))
    } else {
        (SPREAD_V4.to_owned(), SPREAD_V6.to_owned())
    };
    let _ = writeln!(text, "source_ipv4 = \"{v4}\"\nsource_ipv6 = \"{v6}\"");
    if let Some(port) = gue_port(state, peer) {
        let _ = writeln!(text, "gue_port = {port}");
    }
    // Every packet of a suite is to be answered like the first.
    let _ = writeln!(text, "send_too_big = {}\nicmp_rate = 1000000", peer.sends_too_big);
    if peer.decapsulates && !state.decap_dsts.is_empty() {
        let addresses: BTreeSet<IpAddr> =
            state.decap_dsts.iter().map(|destination| destination.address).collect();
        let _ = writeln!(text, "decapsulate = [{}]", quoted(&addresses));
    }
}

fn service(made: &mut Configuration, vip: &Vip, state: &State, peer: &Peer, local: &BTreeSet<IpAddr>) {
    let protocol = match vip.proto {
        PROTOCOL_TCP => "tcp",
        PROTOCOL_UDP => "udp",
        other => {
            made.notes.push(format!("{}: protocol {other} is not balanced", vip.address));
            return;
        }
    };
    let host = if vip.address.is_ipv4() { 32 } else { 128 };
    let network = match vip.prefixlen {
        0 => vip.address.to_string(),
        len if len == host => vip.address.to_string(),
        len => {
            let Some(network) = Network::new(vip.address, len) else {
                made.notes.push(format!("{}: there is no prefix of length {len}", vip.address));
                return;
            };
            network.to_string()
        }
    };
    let port = if vip.port == 0 { "\"*\"".to_owned() } else { vip.port.to_string() };
    let text = &mut made.text;
    let _ = write!(text, "\n[[service]]\nvip = \"{network}\"\nport = {port}\nprotocol = \"{protocol}\"\n");
    if peer.gue {
        text.push_str("encapsulation = \"gue\"\n");
    }
    if let Some(hash) = hash(vip.flags) {
        let _ = writeln!(text, "hash = \"{hash}\"");
    }
    if vip.flags & vip_flag::NO_FLOW_TABLE != 0 {
        text.push_str("tracking = \"never\"\n");
    }
    let scheme = server_ids(vip, peer);
    if vip.flags & vip_flag::QUIC != 0 && vip.flags & vip_flag::UDP_STABLE != 0 && scheme == Some("quic") {
        made.notes
            .push(format!("{network}: packets with the id of a server at their beginning, beside QUIC"));
    }
    if let Some(scheme) = scheme {
        let _ = writeln!(text, "server_ids = \"{scheme}\"");
    }
    let mut backends = backends(vip);
    if let Some(scheme) = scheme {
        add_server_ids(&mut backends, scheme, state);
    }
    if peer.routes_sources && vip.flags & vip_flag::SOURCE_ROUTING != 0 {
        for route in state.src_routing.iter().filter(|r| r.src.address.is_ipv4() == vip.address.is_ipv4()) {
            backends.entry(route.dst).or_default().sources.insert(route.src);
        }
    }
    if vip.flags & vip_flag::LOCAL != 0 {
        for (address, backend) in &mut backends {
            backend.local = local.contains(address);
        }
    }
    // One that nothing leads to is none.
    backends.retain(|_, backend| {
        backend.weight != 0 || !backend.server_ids.is_empty() || !backend.sources.is_empty()
    });
    let heaviest = backends.values().map(|backend| backend.weight).max().unwrap_or(0);
    for (address, backend) in &backends {
        write_backend(text, *address, backend, heaviest, state);
    }
}

fn write_backend(text: &mut String, address: IpAddr, backend: &Backend, heaviest: u32, state: &State) {
    let weight = match backend.weight {
        0 => 0,
        weight if heaviest > MAX_WEIGHT => {
            (u64::from(weight) * u64::from(MAX_WEIGHT) / u64::from(heaviest)).max(1) as u32
        }
        weight => weight,
    };
    let _ = write!(text, "\n[[service.backend]]\naddress = \"{address}\"\nweight = {weight}\n");
    if backend.down {
        text.push_str("state = \"down\"\n");
    }
    if !backend.server_ids.is_empty() {
        let ids: Vec<String> = backend.server_ids.iter().map(u32::to_string).collect();
        let _ = writeln!(text, "server_ids = [{}]", ids.join(", "));
    }
    if !backend.sources.is_empty() {
        let _ = writeln!(text, "sources = [{}]", quoted(&backend.sources));
    }
    if backend.local {
        text.push_str("local = true\n");
    } else {
        let _ = writeln!(text, "mac = \"{}\"", state.default_mac);
    }
}

/// What of a flow chooses the backend, where it is not all of it.
fn hash(flags: u32) -> Option<&'static str> {
    if flags & vip_flag::DESTINATION_PORT != 0 {
        Some("port")
    } else if flags & vip_flag::BOTH_PORTS != 0 {
        Some("ports")
    } else if flags & vip_flag::NO_SOURCE_PORT != 0 {
        Some("source-and-port")
    } else {
        None
    }
}

/// Where a service's packets name their server.
fn server_ids(vip: &Vip, peer: &Peer) -> Option<&'static str> {
    match vip.proto {
        PROTOCOL_UDP if vip.flags & vip_flag::QUIC != 0 => Some("quic"),
        PROTOCOL_UDP if vip.flags & vip_flag::UDP_STABLE != 0 && peer.udp_server_ids => Some("udp-stable"),
        PROTOCOL_TCP if peer.tcp_server_ids => Some("tcp-option"),
        _ => None,
    }
}

/// A service's own backends.
fn backends(vip: &Vip) -> BTreeMap<IpAddr, Backend> {
    let backend = |real: &Real| Backend {
        weight: real.weight,
        down: real.index.is_some_and(|index| vip.down_real_indexes.contains(&index)),
        ..Backend::default()
    };
    vip.reals.iter().map(|real| (real.address, backend(real))).collect()
}

/// Ids are the whole machine's there and a service's here: each service gets all that its packets can carry. To the peer 0
/// is none.
fn add_server_ids(backends: &mut BTreeMap<IpAddr, Backend>, scheme: &str, state: &State) {
    let highest = if scheme == "udp-stable" { 0xff_ffff } else { u32::MAX };
    // Of an id that was given twice the later server has it.
    let owners: BTreeMap<u32, IpAddr> = state.server_ids.iter().map(|id| (id.id, id.real)).collect();
    for (id, real) in owners.range(1..=highest) {
        backends.entry(*real).or_default().server_ids.insert(*id);
    }
}

/// The real servers that are this machine for VIPs that allow it.
fn local_reals(provision: &Provision) -> BTreeSet<IpAddr> {
    let state = &provision.state;
    let listed = state.reals.iter().map(|real| (real.address, real.flags));
    let of_services = state.vips.iter().flat_map(|vip| &vip.reals).map(|real| (real.address, real.flags));
    let set = provision
        .ops
        .iter()
        .filter(|step| step.op == "set_real_flag")
        .filter_map(|step| Some((step.real?, step.flags?)));
    let all = listed.chain(of_services).chain(set);
    all.filter(|(_, flags)| flags & REAL_LOCAL != 0).map(|(address, _)| address).collect()
}

fn quoted<T: ToString>(values: &BTreeSet<T>) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("\"{}\"", value.to_string())).collect();
    values.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_config::{Config, HashBy, ServerIds, Source, State as BackendState, Tracking};

    fn made(vips: &str, rest: &str, peer: Peer) -> (Config, Vec<String>) {
        let text = format!(
            r#"{{"state": {{"default_mac": "00:00:de:ad:be:af", "max_packet_size": 1514,
                "src_v4": "10.0.13.37", "src_v6": "fc00:2307::1337", "gue_dport": 9886,
                "vips": [{vips}] {rest} }} }}"#
        );
        let provision: Provision = serde_json::from_str(&text).expect("a provision");
        let Configuration { text, notes } = configuration(&provision, &peer);
        (weir_config::parse("made", &text).unwrap_or_else(|errors| panic!("{errors}\n{text}")), notes)
    }

    fn vip(address: &str, proto: u8, flags: u32, more: &str) -> String {
        format!(
            r#"{{"address": "{address}", "port": 80, "proto": {proto}, "flags": {flags}, "reals": [
                {{"address": "10.0.0.1", "weight": 1, "real_index": 1}},
                {{"address": "10.0.0.2", "weight": 3, "real_index": 2}}] {more} }}"#
        )
    }

    #[test]
    fn every_flag_of_a_vip() {
        for (flags, hash, tracking) in [
            (0, HashBy::Flow, Tracking::Always),
            (1, HashBy::SourceAndPort, Tracking::Always),
            (2, HashBy::Flow, Tracking::Never),
            (1 | 2, HashBy::SourceAndPort, Tracking::Never),
            (8, HashBy::Port, Tracking::Always),
            (1 | 8, HashBy::Port, Tracking::Always),
            (128, HashBy::Ports, Tracking::Always),
            (64 | 512, HashBy::Flow, Tracking::Always),
        ] {
            let (config, notes) = made(&vip("192.0.2.1", 6, flags, ""), "", Peer::default());
            let service = &config.services[0];
            assert_eq!((service.hash, service.tracking), (hash, tracking), "{flags}");
            assert_eq!(service.server_ids, ServerIds::None);
            assert!(notes.is_empty(), "{notes:?}");
        }
    }

    #[test]
    fn server_ids_are_each_services_own() {
        let ids = r#", "server_ids": [{"id": 0, "real": "10.0.0.1"}, {"id": 5, "real": "10.0.0.2"},
            {"id": 4294967295, "real": "2001:db8::9"}]"#;
        let vips = [
            vip("192.0.2.1", 17, 4, ""),
            vip("192.0.2.2", 17, 256, ""),
            vip("192.0.2.3", 6, 0, ""),
            vip("192.0.2.4", 17, 0, ""),
            vip("192.0.2.5", 17, 4 | 256, ""),
        ];
        let peer = Peer { tcp_server_ids: true, udp_server_ids: true, ..Peer::default() };
        let (config, notes) = made(&vips.join(","), ids, peer);
        let schemes: Vec<ServerIds> = config.services.iter().map(|service| service.server_ids).collect();
        assert_eq!(
            schemes,
            [ServerIds::Quic, ServerIds::UdpStable, ServerIds::TcpOption, ServerIds::None, ServerIds::Quic]
        );
        let backends = |service: usize| -> Vec<(String, u16, Vec<u32>)> {
            let all = &config.services[service].backends;
            all.iter().map(|b| (b.address.to_string(), b.weight, b.server_ids.clone())).collect()
        };
        let own = [("10.0.0.1".to_owned(), 1, vec![]), ("10.0.0.2".to_owned(), 3, vec![5])];
        let stranger = ("2001:db8::9".to_owned(), 0, vec![u32::MAX]);
        assert_eq!(backends(0), [own[0].clone(), own[1].clone(), stranger], "the stranger has no weight");
        assert_eq!(backends(1), own, "an id that such packets cannot carry is left out");
        assert!(backends(3).iter().all(|(_, _, ids)| ids.is_empty()));
        assert_eq!(notes.len(), 1, "{notes:?}");

        let (config, _) = made(&vips.join(","), ids, Peer::default());
        let schemes: Vec<ServerIds> = config.services.iter().map(|service| service.server_ids).collect();
        assert_eq!(schemes[1..4], [ServerIds::None; 3], "the peer was not built for them");
    }

    #[test]
    fn source_routes_are_of_services_that_ask_for_them() {
        let routes = r#", "src_routing": [{"src": "198.51.100.0/24", "dst": "fc00::7"},
            {"src": "0.0.0.0/0", "dst": "10.0.0.1"}, {"src": "2001:db8::/32", "dst": "fc00::8"}]"#;
        let vips = [vip("192.0.2.1", 6, 16, ""), vip("2001:db8:1::1", 6, 16, ""), vip("192.0.2.2", 6, 0, "")];
        let peer = Peer { routes_sources: true, ..Peer::default() };
        let (config, _) = made(&vips.join(","), routes, peer);
        let sources = |service: usize| -> Vec<(String, u16, String)> {
            let routed = config.services[service].backends.iter().filter(|b| !b.sources.is_empty());
            routed.map(|b| (b.address.to_string(), b.weight, b.sources[0].to_string())).collect()
        };
        let text =
            |(address, weight, source): (&str, u16, &str)| (address.to_owned(), weight, source.to_owned());
        assert_eq!(sources(0), [text(("10.0.0.1", 1, "0.0.0.0/0")), text(("fc00::7", 0, "198.51.100.0/24"))]);
        assert_eq!(sources(1), [text(("fc00::8", 0, "2001:db8::/32"))]);
        assert!(sources(2).is_empty());
        let (config, _) = made(&vips[0], routes, Peer::default());
        assert_eq!(config.services[0].backends.len(), 2, "the peer was not built for them");
    }

    #[test]
    fn down_local_and_weightless_backends() {
        let reals = r#", "reals": [{"address": "10.0.0.2", "index": 2, "flags": 2}]"#;
        let down = r#", "down_real_indexes": [1]"#;
        let vips = [vip("192.0.2.1", 6, 32, down), vip("192.0.2.2", 6, 0, "")];
        let (config, _) = made(&vips.join(","), reals, Peer::default());
        let is = |service: usize, backend: usize| {
            let backend = &config.services[service].backends[backend];
            (backend.state, backend.local, backend.mac)
        };
        let mac = Some([0, 0, 0xde, 0xad, 0xbe, 0xaf]);
        assert_eq!(is(0, 0), (BackendState::Down, false, mac));
        assert_eq!(is(0, 1), (BackendState::Up, true, None));
        assert_eq!(is(1, 1), (BackendState::Up, false, mac), "only a local VIP's");

        let weights = r#"{"address": "192.0.2.1", "port": 0, "proto": 17, "reals": [
            {"address": "10.0.0.1", "weight": 0}, {"address": "10.0.0.2", "weight": 131070},
            {"address": "10.0.0.3", "weight": 2}, {"address": "10.0.0.4", "weight": 1}]},
            {"address": "192.0.2.2", "port": 0, "proto": 17, "reals": []}"#;
        let (config, _) = made(weights, "", Peer::default());
        let found: Vec<u16> = config.services[0].backends.iter().map(|backend| backend.weight).collect();
        assert_eq!(found, [65535, 1, 1]);
        assert!(config.services[1].backends.is_empty() && config.services[1].key.port == 0);
    }

    #[test]
    fn prefixes_and_what_is_no_service() {
        let vips = r#"{"address": "192.0.2.7", "port": 0, "proto": 6, "prefixlen": 24},
            {"address": "2001:db8::1", "port": 1, "proto": 6, "prefixlen": 128},
            {"address": "2001:db8::", "port": 1, "proto": 6, "prefixlen": 32},
            {"address": "192.0.2.1", "port": 1, "proto": 47}, {"address": "192.0.2.1", "port": 1, "proto": 6, "prefixlen": 33}"#;
        let (config, notes) = made(vips, "", Peer::default());
        let keys: Vec<String> = config.services.iter().map(|service| service.key.to_string()).collect();
        assert_eq!(keys, ["192.0.2.0/24:*/tcp", "[2001:db8::1]:1/tcp", "[2001:db8::/32]:1/tcp"]);
        assert_eq!(notes.len(), 2, "{notes:?}");
    }

    #[test]
    fn the_director_does_what_the_peer_was_built_for() {
        let decap = r#", "decap_dsts": [{"address": "fc00:1404::1", "egress": false}]"#;
        let vips = vip("192.0.2.1", 6, 0, "");
        let (config, _) = made(&vips, decap, Peer::default());
        let director = &config.director;
        assert!(!director.send_too_big && director.decapsulate.is_empty() && director.gue_port == 9886);
        assert!(matches!(director.source_ipv4, Some(Source::Spread { prefix_len: 16, .. })));
        assert!(matches!(director.source_ipv6, Some(Source::Spread { prefix_len: 64, .. })));
        let peer = Peer {
            gue: true,
            gue_port: Some(6081),
            decapsulates: true,
            sends_too_big: true,
            ..Peer::default()
        };
        let (config, _) = made(&vips, decap, peer);
        let director = &config.director;
        assert!(director.send_too_big && director.gue_port == 6081);
        assert_eq!(director.decapsulate, ["fc00:1404::1".parse::<IpAddr>().expect("a literal address")]);
        assert_eq!(director.source_ipv4, Some(Source::Fixed("10.0.13.37".parse().expect("literal"))));
        assert_eq!(config.services[0].encapsulation, weir_config::Encapsulation::Gue);
    }
}
