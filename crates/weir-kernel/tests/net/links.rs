//! Links, addresses and routes.

use std::{collections::HashSet, os::fd::AsFd};

use weir_kernel::net::{NewAddress, Prefix, RouteKind, Scope, VethEnd};

use crate::space::{Pair, Space, ip, mac, route};

#[test]
fn links_are_created_changed_and_removed() {
    let (here, there) = (Space::new("a"), Space::new("b"));
    let rtnl = &here.rtnl;
    rtnl.create_veth(VethEnd::new("v0").mtu(1400), VethEnd::new("v1")).unwrap();
    let (v0, v1) = (here.link("v0"), here.link("v1"));
    assert_eq!((v0.kind.as_deref(), v0.mtu, v0.up), (Some("veth"), 1400, false));
    assert_eq!((v0.iflink, v0.netns_id), (Some(v1.index), None));

    rtnl.rename(v1.index, "v2").unwrap();
    rtnl.set_mac(v0.index, mac("02:00:00:00:00:aa")).unwrap();
    rtnl.set_mtu(v0.index, 9000).unwrap();
    rtnl.set_up(v0.index).unwrap();
    rtnl.move_to_netns(v1.index, there.netns.as_fd()).unwrap();
    assert_eq!(rtnl.find_link("v2").unwrap(), None);
    let moved = there.link("v2");
    assert!(moved.netns_id.is_some(), "its other end is in another namespace: {moved:?}");
    there.rtnl.set_up(moved.index).unwrap();
    let v0 = rtnl.link_by_index(v0.index).unwrap();
    assert_eq!((v0.mtu, v0.mac, v0.up, v0.running), (9000, Some(mac("02:00:00:00:00:aa")), true, true));

    let bridge = rtnl.create_bridge("br0").unwrap();
    assert_eq!(bridge.kind.as_deref(), Some("bridge"));
    rtnl.set_master(v0.index, Some(bridge.index)).unwrap();
    assert_eq!(here.link("v0").master, Some(bridge.index));
    rtnl.set_master(v0.index, None).unwrap();
    assert_eq!(here.link("v0").master, None);

    rtnl.set_down(v0.index).unwrap();
    assert!(!here.link("v0").up);
    let names: HashSet<_> = rtnl.links().unwrap().into_iter().map(|link| link.name).collect();
    assert_eq!(names, HashSet::from(["lo".into(), "v0".into(), "br0".into()]));
    rtnl.delete_link(v0.index).unwrap();
    assert_eq!(there.rtnl.find_link("v2").unwrap(), None, "a veth's ends go together");
}

#[test]
fn refusals_say_what_was_being_done() {
    let space = Space::new("a");
    let text = space.rtnl.link_by_name("nosuch").unwrap_err().to_string();
    assert!(text.starts_with("no link nosuch"), "{text}");
    assert!(space.rtnl.link_by_name("a-name-too-long-for-a-link").is_err());
    let lo = space.link("lo");
    let text = space
        .rtnl
        .add_route(&route("198.51.100.0/24").via(ip("203.0.113.1")).dev(lo.index))
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("cannot add route 198.51.100.0/24 via 203.0.113.1 on link 1 in table 254: ")
            && text.contains("Nexthop has invalid gateway"),
        "the kernel's own words are missing: {text}"
    );
    // Kernels with the driver create it; the others must say what to do.
    match space.rtnl.create_dummy("d0") {
        Ok(link) => assert_eq!(link.kind.as_deref(), Some("dummy")),
        Err(error) => assert!(error.to_string().contains("modprobe"), "{error}"),
    }
}

#[test]
fn addresses_are_added_once() {
    let pair = Pair::new();
    let rtnl = &pair.director.rtnl;
    for address in [
        NewAddress::new(pair.index, ip("198.51.100.7"), 32).scope(Scope::Link),
        NewAddress::new(pair.index, ip("2001:db8:7::7"), 128).nodad(),
    ] {
        assert!(rtnl.ensure_address(&address).unwrap());
        assert!(!rtnl.ensure_address(&address).unwrap(), "the second time changes nothing");
        let found = rtnl.addresses(Some(pair.index)).unwrap();
        let found = found.iter().find(|found| found.ip == address.ip).unwrap();
        assert_eq!((found.prefix_len, found.tentative), (address.prefix_len, false));
        if address.ip.is_ipv4() {
            assert_eq!(found.scope, Scope::Link);
        }
        assert!(rtnl.ensure_no_address(pair.index, address.ip, address.prefix_len).unwrap());
        assert!(!rtnl.ensure_no_address(pair.index, address.ip, address.prefix_len).unwrap());
    }
    let vip = NewAddress::new(pair.index, ip("2001:db8::77"), 128).nodad().deprecated();
    assert!(rtnl.ensure_address(&vip).unwrap());
    let found = rtnl.addresses(Some(pair.index)).unwrap();
    assert!(found.iter().any(|found| found.ip == vip.ip && found.deprecated), "{found:?}");
    let route = rtnl.route_get(ip("2001:db8::2"), None, None).unwrap();
    assert_eq!(route.prefsrc, Some(ip("2001:db8::1")), "a deprecated address is no source");
    let clash = NewAddress::new(pair.index, ip("2001:db8::1"), 128);
    let text = rtnl.ensure_address(&clash).unwrap_err().to_string();
    assert!(text.contains("2001:db8::1/64"), "another prefix length is no match: {text}");
    assert!(rtnl.addresses(None).unwrap().iter().any(|found| found.ip == ip("127.0.0.1")));
}

#[test]
fn routes_are_added_replaced_and_removed() {
    let pair = Pair::new();
    let rtnl = &pair.director.rtnl;
    for (prefix, router, dst) in [
        ("198.51.100.0/24", "192.0.2.2", "198.51.100.9"),
        ("2001:db8:9::/48", "2001:db8::2", "2001:db8:9::9"),
        ("203.0.113.0/24", "2001:db8::2", "203.0.113.9"), // a router of the other family
    ] {
        let mut wanted = route(prefix).via(ip(router)).dev(pair.index);
        assert!(rtnl.ensure_route(&wanted).unwrap(), "{prefix}");
        assert!(!rtnl.ensure_route(&wanted).unwrap(), "{prefix}: the second time changes nothing");
        wanted.mtu = Some(1300);
        wanted.advmss = Some(1240);
        assert!(rtnl.ensure_route(&wanted).unwrap(), "{prefix}");

        let found = rtnl.route_get(ip(dst), None, None).unwrap();
        assert_eq!(
            (found.kind, found.oif, found.gateway, found.mtu, found.advmss, found.dst),
            (
                RouteKind::Unicast,
                Some(pair.index),
                Some(ip(router)),
                Some(1300),
                Some(1240),
                Prefix::host(ip(dst))
            )
        );
        let listed = rtnl.routes(Some(wanted.table)).unwrap();
        assert_eq!(
            listed.iter().filter(|found| found.dst == wanted.dst).count(),
            1,
            "{prefix}: replaced, not doubled"
        );
        assert!(rtnl.ensure_no_route(&wanted).unwrap());
        assert!(!rtnl.ensure_no_route(&wanted).unwrap());
    }
    let own = rtnl.route_get(ip("2001:db8::1"), None, None).unwrap();
    assert_eq!(own.kind, RouteKind::Local);
    let mut local = route("198.51.100.1/32").dev(1);
    local.kind = RouteKind::Local;
    local.table = 100;
    rtnl.add_route(&local).unwrap();
    assert!(rtnl.add_route(&local).is_err(), "adding is not replacing");
    assert_eq!(rtnl.routes(Some(100)).unwrap()[0].kind, RouteKind::Local);
    assert_eq!(rtnl.routes(Some(101)).unwrap(), [], "a table that does not exist is empty");
}
