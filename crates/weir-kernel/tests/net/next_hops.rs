//! From a backend's address to the link and MAC address to send to.

use std::{net::IpAddr, process::Command, time::Duration, time::Instant};

use weir_kernel::net::{NeighbourState, NewRoute, NextHop, NextHopError, NextHops, Pin, Prefix, RouteKind};

use crate::space::{Pair, ip, mac, route};

#[test]
fn next_hops_on_the_link_and_behind_a_router() {
    let pair = Pair::new();
    let rtnl = &pair.director.rtnl;
    for (prefix, router) in [("198.51.100.0/24", "192.0.2.2"), ("2001:db8:9::/48", "2001:db8::2")] {
        let mut behind = route(prefix).via(ip(router));
        behind.mtu = Some(1300);
        rtnl.add_route(&behind).unwrap();
    }
    for (dst, via, source, mtu) in [
        ("192.0.2.2", "192.0.2.2", "192.0.2.1", 1500),
        ("198.51.100.9", "192.0.2.2", "192.0.2.1", 1300),
        ("2001:db8::2", "2001:db8::2", "2001:db8::1", 1500),
        ("2001:db8:9::9", "2001:db8::2", "2001:db8::1", 1300),
    ] {
        let expected = NextHop {
            ifindex: pair.index,
            vlan: None,
            src_mac: mac("02:00:00:00:00:01"),
            dst_mac: pair.backend_mac,
            src_addr: Some(ip(source)),
            mtu,
            next_hop: ip(via),
        };
        assert_eq!(pair.next_hop(dst, None).unwrap(), expected, "{dst}");
        let snapshot = NextHops::snapshot(rtnl).unwrap();
        assert_eq!(snapshot.lookup(ip(dst), None).unwrap(), expected, "{dst} from a snapshot");
        let entry = rtnl.neighbour(pair.index, ip(via)).unwrap().unwrap();
        assert!(entry.managed, "the kernel keeps it resolved: {entry:?}");
    }
    rtnl.release_neighbour(pair.index, ip("192.0.2.2")).unwrap();
    assert!(!rtnl.neighbour(pair.index, ip("192.0.2.2")).unwrap().unwrap().managed);
}

#[test]
fn pins_override_the_kernel() {
    let pair = Pair::new();
    let pin = |via: Option<&str>, mac| Some(Pin { via: via.map(ip), mac, vlan: None });
    // No route leads to 203.0.113.9, but the router is on the link.
    let hop = pair.next_hop("203.0.113.9", pin(Some("192.0.2.2"), None)).unwrap();
    assert_eq!((hop.next_hop, hop.dst_mac), (ip("192.0.2.2"), pair.backend_mac));
    let other = mac("02:00:00:00:00:99");
    let hop = pair.next_hop("192.0.2.77", pin(None, Some(other))).unwrap();
    assert_eq!(hop.dst_mac, other);
    assert_eq!(
        pair.director.rtnl.neighbour(pair.index, ip("192.0.2.77")).unwrap(),
        None,
        "a pinned address is not asked for"
    );
    let in_vlan = Pin { vlan: Some(7), ..Pin::default() };
    assert_eq!(pair.next_hop("192.0.2.2", Some(in_vlan)).unwrap().vlan, Some(7));
    // A router of the other family still takes the source from the destination's.
    let hop = pair.next_hop("192.0.2.77", pin(Some("2001:db8::2"), None)).unwrap();
    assert_eq!((hop.next_hop, hop.src_addr), (ip("2001:db8::2"), Some(ip("192.0.2.1"))));
    pair.director.rtnl.add_route(&route("198.51.100.0/24").via(ip("192.0.2.2"))).unwrap();
    assert!(matches!(
        pair.next_hop("203.0.113.9", pin(Some("198.51.100.1"), None)),
        Err(NextHopError::ViaNotOnLink { .. })
    ));
    // A permanent neighbour must stay one.
    pair.director.rtnl.add_permanent_neighbour(pair.index, ip("192.0.2.50"), other).unwrap();
    assert_eq!(pair.next_hop("192.0.2.50", None).unwrap().dst_mac, other);
    let entry = pair.director.rtnl.neighbour(pair.index, ip("192.0.2.50")).unwrap().unwrap();
    assert_eq!(entry.state, NeighbourState::Permanent);
}

#[test]
fn next_hops_that_do_not_exist() {
    let pair = Pair::new();
    let rtnl = &pair.director.rtnl;
    for dst in ["203.0.113.9", "2001:db8:ffff::9"] {
        let error = pair.next_hop(dst, None).unwrap_err();
        assert!(matches!(error, NextHopError::NoRoute { .. }), "{dst}: {error:?}");
    }
    for (number, kind) in
        [RouteKind::Blackhole, RouteKind::Unreachable, RouteKind::Prohibit].into_iter().enumerate()
    {
        for dst in [format!("198.51.100.{number}"), format!("2001:db8:f::{number}")] {
            let mut nowhere = NewRoute::new(Prefix::host(ip(&dst)));
            nowhere.kind = kind;
            rtnl.add_route(&nowhere).unwrap();
            let error = pair.next_hop(&dst, None).unwrap_err();
            assert!(matches!(error, NextHopError::NoRoute { .. }), "{dst} {kind:?}: {error:?}");
        }
    }
    for dst in ["192.0.2.1", "127.0.0.1", "2001:db8::1", "::1"] {
        let error = pair.next_hop(dst, None).unwrap_err();
        assert!(matches!(error, NextHopError::Local { .. }), "{dst}: {error:?}");
    }
    let error = pair.next_hop("192.0.2.255", None).unwrap_err();
    assert!(matches!(error, NextHopError::NotUnicast { .. }), "{error:?}");
    let error = pair.next_hop("192.0.2.200", None).unwrap_err();
    assert!(matches!(error, NextHopError::NeighbourFailed { .. }), "nobody has it: {error:?}");

    let mut tun = Command::new("ip");
    tun.args(["tuntap", "add", "dev", "tun0", "mode", "tun"]);
    pair.director.netns.enter_on_exec(&mut tun).unwrap();
    assert!(tun.status().unwrap().success());
    let tun = pair.director.link("tun0");
    rtnl.set_up(tun.index).unwrap();
    rtnl.add_route(&route("203.0.113.0/24").dev(tun.index)).unwrap();
    let error = pair.next_hop("203.0.113.9", None).unwrap_err();
    assert!(matches!(&error, NextHopError::NoMacOnLink { link, .. } if link == "tun0"), "{error:?}");
}

#[test]
fn a_thousand_backends_are_looked_up_quickly() {
    let pair = Pair::new();
    pair.director.rtnl.add_route(&route("10.0.0.0/8").via(ip("192.0.2.2"))).unwrap();
    pair.next_hop("10.0.0.1", None).unwrap();
    let start = Instant::now();
    let snapshot = NextHops::snapshot(&pair.director.rtnl).unwrap();
    for number in 0..1000_u32 {
        let dst = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        assert_eq!(snapshot.lookup(dst, None).unwrap().dst_mac, pair.backend_mac);
    }
    let took = start.elapsed();
    println!("1000 next hops in {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}
