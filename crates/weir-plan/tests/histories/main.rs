//! Random histories of configurations, ways lost and found, time passing and processes killed in the middle of a
//! change, with every single store watched.

mod random;
mod watched;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use weir_abi::{
    Address, BackendState, Encapsulation, Features, PrefixKey, RingRange, RingSlot, ServerKey, ServiceKey,
    SourceRule, Traits,
};
use weir_plan::{
    Desired, DesiredBackend, DesiredDirector, DesiredService, Model, Observed, ObservedService, Path,
    Planner, diff,
};

use random::{desired, v4};
use watched::{Watched, by_server, find};

fn check_reached(model: &Model, before: &Observed, desired: &Desired) {
    let Ok(observed) = Observed::read(model);
    assert_eq!(diff(&observed, desired), Ok(vec![]), "a second plan has something to do");
    let vips: BTreeSet<_> = desired.services.iter().map(|s| (s.key.vip.0, s.key.vip_only().word())).collect();
    let unwrapped = 3 * desired.director.decapsulate.len();
    assert_eq!(observed.services.len(), desired.services.len() + vips.len() + unwrapped);
    check_director(model, &observed, &desired.director);
    let prefixes: BTreeSet<PrefixKey> = desired
        .services
        .iter()
        .filter(|s| s.key.prefix_len != 0)
        .map(|s| PrefixKey::vips(s.key.family, s.key.vip, s.key.prefix_len))
        .collect();
    assert_eq!(model.prefixes, prefixes);
    assert_eq!(observed.features.has(Features::PREFIXES), !prefixes.is_empty());
    let mut lists = BTreeMap::new();
    for service in &desired.services {
        assert!(find(model, &service.key.vip_only()).is_some());
        let record = find(model, &service.key).expect("the service is found");
        let (id, list) = (record[4] as u32, record[7] as u32);
        assert_eq!((record[4] >> 32) as u32, service.traits.0);
        assert_eq!(record[5], service.policy.0);
        assert_eq!(list != 0, service.sources.is_some());
        if let Some(sources) = &service.sources {
            lists.extend(sources.entries(list));
        }
        check_ring(model, before, &observed, service);
        check_backends(&observed, service, id);
        check_servers(model, service, id, list);
    }
    assert_eq!(model.sources, lists, "there are the lists that services name, and nothing else");
}

fn check_director(model: &Model, observed: &Observed, director: &DesiredDirector) {
    let flags = u64::from(Features::PREFIXES | Features::DECAPSULATE);
    assert_eq!(observed.features.0 & !flags, director.features.0);
    assert_eq!(observed.features.has(Features::DECAPSULATE), !director.decapsulate.is_empty());
    for address in &director.decapsulate {
        for (protocol, port) in [(4, 0), (41, 0), (17, director.features.gue_port())] {
            let vip = Address::from(*address);
            let key = ServiceKey { vip, family: weir_abi::Family::V4, protocol, port, prefix_len: 0 };
            let record = find(model, &key).expect("an address to unwrap for");
            assert_eq!(
                record[3..],
                [0, u64::from(Traits::DECAPSULATE) << 32, 0, 0, record[7] & !0xffff_ffff]
            );
            assert!(find(model, &key.vip_only()).is_none(), "it is no VIP");
        }
    }
    let mut spreading = observed.backends.values().filter(|b| b.spreads_source()).peekable();
    let mask = director.spread_v4.map_or(0, |(_, len)| (u32::MAX >> len).to_be());
    let wanted = director.spread_v4.map(|(network, _)| Address::from(network));
    if spreading.all(|b| Some(b.source()) == wanted) {
        assert_eq!(observed.masks.v4, mask);
    } else if wanted.is_some() {
        assert_eq!(observed.masks.v4 & !mask, 0);
    }
}

fn check_ring(model: &Model, before: &Observed, observed: &Observed, service: &DesiredService) {
    let was_known = |backend: &DesiredBackend| {
        let id = before.service(&service.key).map(ObservedService::id);
        before.backends.values().any(|b| {
            Some(b.service_id()) == id
                && b.address() == Address::from(backend.address)
                && b.encapsulation() == Some(backend.encapsulation)
        })
    };
    let expected: HashSet<Address> = service
        .backends
        .iter()
        .filter(|b| b.weight > 0 && !b.down)
        .filter(|b| match b.path {
            Path::Known(_) => true,
            Path::Silent => was_known(b),
            Path::None => false,
        })
        .map(|b| b.address.into())
        .collect();
    let ring = RingRange(find(model, &service.key).expect("found")[3]);
    let named: HashSet<Address> = (0..ring.slots())
        .map(|i| RingSlot(model.rings[(ring.base() + i) as usize]).current())
        .map(|id| observed.backends[&id].address())
        .collect();
    assert_eq!(named, expected);
}

fn check_backends(observed: &Observed, service: &DesiredService, id: u32) {
    for backend in &service.backends {
        let mut stored = observed
            .backends
            .values()
            .filter(|b| b.service_id() == id && b.address() == Address::from(backend.address));
        if backend.down {
            assert!(stored.all(|b| b.state() == BackendState::Down), "a backend that is to be down is not");
            continue;
        }
        let Path::Known(hop) = backend.path else { continue };
        let source = match backend.encapsulation {
            Encapsulation::Layer2 | Encapsulation::Local => (Address::default(), false),
            _ => (Address::from(hop.source), hop.spread),
        };
        let stored = stored
            .find(|b| {
                b.encapsulation() == Some(backend.encapsulation) && (b.source(), b.spreads_source()) == source
            })
            .expect("a backend with a way to it has a record");
        assert_eq!(
            (stored.next_hop_mac(), stored.mtu(), stored.egress().ifindex(), stored.egress().vlan()),
            (hop.mac, hop.mtu, hop.ifindex, hop.vlan)
        );
        assert_eq!((stored.state(), stored.drain_until()), (BackendState::Up, 0));
    }
}

fn check_servers(model: &Model, service: &DesiredService, id: u32, list: u32) {
    for (at, backend) in service.backends.iter().enumerate() {
        let number =
            service.sources.as_ref().and_then(|list| list.numbers().iter().find(|(index, _)| *index == at));
        let by_source = number.map(|(_, number)| ServerKey::of_source(id, *number));
        let by_packet = backend.server_ids.iter().map(|number| ServerKey::of_packet(id, *number));
        for key in by_packet.chain(by_source) {
            let found = by_server(model, key).map(|(_, address)| address);
            match backend.path {
                Path::Known(_) if !backend.down => assert_eq!(found, Some(backend.address.into())),
                _ if backend.down && !key.is_of_packet() => assert_eq!(found, None),
                _ => {}
            }
        }
        if let Some((_, number)) = number {
            let named = |(key, rule): (&PrefixKey, &SourceRule)| {
                key.scope() == list && rule.to_server() == Some(*number)
            };
            assert!(model.sources.iter().any(named), "the list sends someone to the backend");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    /// Each step: a configuration, seconds that pass, and how many stores the process makes before it is killed.
    #[test]
    fn whatever_happens_the_tables_hold_together(
        history in prop::collection::vec((desired(), 0..4_u32, prop::option::weighted(0.4, 0..1100_u64)), 1..12),
    ) {
        let mut tables = Watched::new();
        let mut planner = Planner::default();
        let mut now = 1000;
        for (mut desired, seconds, killed_after) in history {
            now += seconds;
            desired.now = now;
            let Ok(before) = Observed::read(&tables);
            let plan = planner.plan(&before, &desired).expect("there is room for everything");
            prop_assert_eq!(&diff(&before, &desired).expect("room"), &plan, "the cache of rings changes the plan");
            tables.model.stores_left = killed_after;
            tables.apply(&plan);
            let completed = tables.model.stores_left != Some(0);
            tables.model.stores_left = None;
            tables.begin_flows();
            if completed {
                check_reached(&tables.model, &before, &desired);
            }
        }
        // At last everything is taken out and time passes: nothing is left.
        let empty = Desired { director: DesiredDirector::default(), services: vec![], now: now + 100 };
        let Ok(before) = Observed::read(&tables);
        let plan = planner.plan(&before, &empty).expect("an empty table fits");
        tables.apply(&plan);
        let Ok(after) = Observed::read(&tables);
        prop_assert!(after.services.is_empty() && after.backends.is_empty());
        prop_assert!(after.servers.is_empty() && after.prefixes.is_empty() && tables.model.sources.is_empty());
        prop_assert_eq!((after.features.0, after.masks), (0, weir_plan::SourceMasks::default()));
    }
}

/// What the random configurations are made of is there often enough to say something.
#[test]
fn the_random_configurations_are_not_all_alike() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut lists, mut servers, mut spread, mut prefixes) = (0, 0, 0, 0);
    for _ in 0..100 {
        let desired = desired().new_tree(&mut runner).expect("a tree").current();
        spread += usize::from(desired.director.spread_v4.is_some());
        for service in &desired.services {
            lists += usize::from(service.sources.is_some());
            prefixes += usize::from(service.key.prefix_len != 0);
            servers += service.backends.iter().map(|b| b.server_ids.len()).sum::<usize>();
        }
    }
    assert!(
        [lists, servers, spread, prefixes].iter().all(|count| *count > 20),
        "{lists} {servers} {spread} {prefixes}"
    );
    assert_ne!(v4(1), v4(2));
}
