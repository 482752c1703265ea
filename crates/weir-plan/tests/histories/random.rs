//! Random configurations, as the plan gets them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use weir_abi::{
    Budget, Encapsulation, Family, Features, HashFields, NoBackend, Policy, ServerIds, ServiceKey, Traits,
};
use weir_maglev::RingSize;
use weir_plan::{Desired, DesiredBackend, DesiredDirector, DesiredService, NextHop, Path, SourceList};

pub(crate) fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

/// A backend, and whether there are clients who are sent to it alone.
type Server = (DesiredBackend, bool);

fn path() -> impl Strategy<Value = Path> {
    let known = (1..3_u8, 1..3_u8, 0..2_u16).prop_map(|(mac, source, vlan)| {
        let macs = ([2, 0, 0, 0, 0, mac], [2, 0, 0, 0, 1, mac]);
        Path::Known(NextHop {
            mac: macs.0,
            source_mac: macs.1,
            ifindex: u32::from(mac),
            vlan: vlan * 100,
            mtu: 1500,
            source: v4(source),
            spread: false,
        })
    });
    prop_oneof![6 => known, 1 => Just(Path::Silent), 1 => Just(Path::None)]
}

fn servers() -> impl Strategy<Value = Vec<Server>> {
    let encapsulation = prop_oneof![
        4 => Just(Encapsulation::Ip4InIp4),
        1 => Just(Encapsulation::GueInIp4),
        1 => Just(Encapsulation::Layer2),
        1 => Just(Encapsulation::Local),
    ];
    let ids = prop::collection::vec(0..6_u32, 0..3);
    let down = prop::bool::weighted(0.15);
    let backend = (10..15_u8, encapsulation, 0..3_u32, down, ids, path(), any::<bool>()).prop_map(
        |(last, encapsulation, weight, down, server_ids, path, has_clients)| {
            let path = if encapsulation == Encapsulation::Local { Path::Known(NextHop::LOCAL) } else { path };
            (DesiredBackend { address: v4(last), encapsulation, weight, down, server_ids, path }, has_clients)
        },
    );
    prop::collection::vec(backend, 0..5).prop_map(|mut list| {
        let (mut addresses, mut ids) = (BTreeSet::new(), BTreeSet::new());
        list.retain(|(b, _)| addresses.insert(b.address));
        for (backend, _) in &mut list {
            backend.server_ids.retain(|id| ids.insert(*id));
        }
        list
    })
}

/// The list of a service with these backends, by way of a file that says so.
fn sources(servers: &[Server], denied: u8) -> Option<SourceList> {
    let mut text = "director = { interfaces = [\"eth0\"] }\n[[service]]\nvip = \"192.0.2.1\"\nport = 80\n\
                    protocol = \"tcp\"\n"
        .to_owned();
    if denied > 0 {
        writeln!(text, "deny = [\"198.51.100.{denied}\"]").expect("a string takes it");
    }
    for (backend, has_clients) in servers {
        let address = backend.address;
        let last = address.to_string().rsplit_once('.').map_or(String::new(), |(_, last)| last.to_owned());
        // Each client is sent to one backend only.
        let clients = if *has_clients { format!("\"203.0.{last}.{}\"", denied % 2) } else { String::new() };
        writeln!(text, "[[service.backend]]\naddress = \"{address}\"\nsources = [{clients}]")
            .expect("likewise");
    }
    let config = weir_config::parse("", &text).expect("valid");
    let addresses: Vec<_> = servers.iter().map(|(backend, _)| backend.address).collect();
    SourceList::new(&config.services[0].sources, &addresses)
}

fn key() -> impl Strategy<Value = ServiceKey> {
    let vips = prop_oneof![
        Just(([192, 0, 2, 100], 0)),
        Just(([192, 0, 2, 101], 0)),
        Just(([198, 51, 100, 0], 24)),
        Just(([198, 51, 100, 128], 25)),
    ];
    (vips, 80..83_u16).prop_map(|((vip, prefix_len), port)| ServiceKey {
        vip: IpAddr::from(vip).into(),
        family: Family::V4,
        protocol: 6,
        port: port.to_be(),
        prefix_len,
    })
}

fn service() -> impl Strategy<Value = DesiredService> {
    let kind = (0..4_u8, 0..3_u32, any::<bool>());
    (key(), 1..3_u32, any::<bool>(), 0..4_u32, servers(), kind, prop::option::weighted(0.4, 0..3_u8))
        .prop_map(|(key, idle_ticks, pass, drain, servers, (flags, budget, named), denied)| {
            let sources = denied.and_then(|denied| sources(&servers, denied));
            let listed = if sources.is_some() { Traits::SOURCES } else { 0 };
            let flags = [0, Traits::TURNS, Traits::UNTRACKED, Traits::PERSISTENT][flags as usize] | listed;
            let ids = if named { ServerIds::Quic } else { ServerIds::None };
            DesiredService {
                key,
                traits: Traits::new(HashFields::Flow, ids, flags, Budget::at_least(budget)),
                policy: Policy::new(0, idle_ticks, if pass { NoBackend::Pass } else { NoBackend::Drop }),
                sources,
                drain,
                ring_size: RingSize::MIN,
                backends: servers
                    .into_iter()
                    .map(|(mut backend, _)| {
                        if !named {
                            backend.server_ids.clear();
                        }
                        backend
                    })
                    .collect(),
            }
        })
}

fn director() -> impl Strategy<Value = DesiredDirector> {
    let networks = prop_oneof![
        Just(None),
        Just(Some((Ipv4Addr::new(10, 1, 0, 0), 16))),
        Just(Some((Ipv4Addr::new(10, 2, 3, 0), 24))),
        // Its first address is a fixed source as well.
        Just(Some((Ipv4Addr::new(192, 0, 2, 2), 31))),
    ];
    (networks, any::<bool>(), 1..3_u16).prop_map(|(spread_v4, unwraps, port)| DesiredDirector {
        features: Features::new(Features::ANSWER_ECHO, port, u32::from(port)),
        spread_v4,
        spread_v6: None,
        decapsulate: if unwraps { vec![v4(50)] } else { Vec::new() },
    })
}

pub(crate) fn desired() -> impl Strategy<Value = Desired> {
    (prop::collection::vec(service(), 0..6), director()).prop_map(|(mut services, director)| {
        let mut seen = BTreeSet::new();
        services.retain(|s| seen.insert((s.key.vip.0, s.key.word())));
        if let Some((network, _)) = director.spread_v4 {
            for backend in services.iter_mut().flat_map(|service| &mut service.backends) {
                if let (Path::Known(hop), Encapsulation::Ip4InIp4) =
                    (&mut backend.path, backend.encapsulation)
                {
                    (hop.source, hop.spread) = (network.into(), true);
                }
            }
        }
        Desired { director, services, now: 0 }
    })
}
