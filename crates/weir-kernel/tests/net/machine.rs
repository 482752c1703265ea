//! Namespaces, sysctls and offloads.

use std::process::Command;

use weir_kernel::net::{Ethtool, Netns, Offload, Sysctl, VethEnd};

use crate::space::{Pair, Space};

#[test]
fn namespaces_are_those_of_iproute2() {
    let own = Netns::current().unwrap().id().unwrap();
    let space = Space::new("a");
    let name = space.name().to_owned();
    assert!(Netns::list().unwrap().contains(&name));
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().any(|line| line.split(' ').next() == Some(&name)), "{listed}");
    let inside = Command::new("ip").args(["netns", "exec", &name, "ip", "-o", "link"]).output().unwrap();
    assert!(inside.status.success(), "{inside:?}");
    assert_eq!(String::from_utf8(inside.stdout).unwrap().lines().count(), 1, "only loopback");

    assert!(Netns::create(&name).is_err(), "a name is used once");
    let inside = space.netns.run_in(|| Netns::current().unwrap().id().unwrap()).unwrap();
    assert_eq!(inside, space.netns.id().unwrap());
    assert_eq!(inside, Netns::open(&name).unwrap().id().unwrap(), "the failed creation left it alone");
    assert_ne!(inside, own);
    assert_eq!(Netns::current().unwrap().id().unwrap(), own, "the caller stays where it is");

    let mut list = Command::new("ls");
    list.arg("/sys/class/net");
    space.netns.enter_on_exec(&mut list).unwrap();
    assert_eq!(String::from_utf8(list.output().unwrap().stdout).unwrap(), "lo\n");
    assert!(std::fs::read_dir("/sys/class/net").is_ok(), "this process keeps its /sys");

    let foreign = format!("{name}-ip");
    assert!(Command::new("ip").args(["netns", "add", &foreign]).status().unwrap().success());
    let opened = Netns::open(&foreign).map(drop);
    Netns::delete(&foreign).unwrap();
    opened.unwrap();
    drop(space);
    assert!(!Netns::list().unwrap().iter().any(|found| *found == name || *found == foreign));
    assert!(Netns::open(&name).unwrap_err().to_string().starts_with("cannot open network namespace"));
}

#[test]
fn sysctls_are_set_and_undone() {
    let pair = Pair::new();
    let rtnl = &pair.director.rtnl;
    rtnl.create_veth(VethEnd::new("eth0.100"), VethEnd::new("eth0.101")).unwrap();
    let own = Sysctl::parse("net.ipv4.ip_forward").unwrap().read().unwrap();
    pair.director
        .netns
        .run_in(|| {
            let key = Sysctl::ipv4_conf("eth0.100", "rp_filter").unwrap();
            let before = key.read().unwrap();
            let wanted = if before == "2" { "1" } else { "2" };
            let change = key.set(wanted).unwrap();
            assert_eq!((change.previous.as_str(), change.current.as_str()), (before.as_str(), wanted));
            assert_eq!(key.read().unwrap(), wanted);
            assert!(!key.set(wanted).unwrap().changed());
            assert!(change.undo().unwrap());
            assert_eq!(key.read().unwrap(), before);

            let change = key.set(wanted).unwrap();
            key.set("0").unwrap();
            let undone = change.undo().unwrap();
            assert!(
                wanted != "0" && !undone && key.read().unwrap() == "0",
                "another's later change is left alone"
            );

            Sysctl::parse("net.ipv4.ip_forward").unwrap().set("1").unwrap();
            let text = Sysctl::ipv4_conf("nosuch", "rp_filter").unwrap().read().unwrap_err().to_string();
            assert!(text.starts_with("cannot read sysctl net.ipv4.conf.nosuch.rp_filter: "), "{text}");
        })
        .unwrap();
    assert_eq!(
        Sysctl::parse("net.ipv4.ip_forward").unwrap().read().unwrap(),
        own,
        "only that namespace changed"
    );
}

#[test]
fn offloads_are_switched() {
    let pair = Pair::new();
    let ethtool = Ethtool::open_in(&pair.director.netns).unwrap();
    assert_eq!(ethtool.driver("up0").unwrap().driver, "veth");
    assert!(ethtool.offload("up0", Offload::TxChecksum).unwrap(), "on by default");
    assert!(ethtool.set_offload("up0", Offload::TxChecksum, false).unwrap());
    assert!(
        !ethtool.set_offload("up0", Offload::TxChecksum, false).unwrap(),
        "the second time changes nothing"
    );
    assert!(!ethtool.offload("up0", Offload::TxChecksum).unwrap());
    assert!(!ethtool.offload("up0", Offload::Tso).unwrap(), "segmentation needs checksums");
    let text = ethtool.set_offload("up0", Offload::Tso, true).unwrap_err().to_string();
    assert!(text.starts_with("cannot turn tso on on link up0: "), "{text}");
    for offload in [Offload::Gso, Offload::Gro] {
        let before = ethtool.offload("up0", offload).unwrap();
        assert!(ethtool.set_offload("up0", offload, !before).unwrap(), "{offload:?}");
        assert_eq!(ethtool.offload("up0", offload).unwrap(), !before, "{offload:?}");
    }
    let text = ethtool.set_offload("up0", Offload::Lro, true).unwrap_err().to_string();
    assert!(text.starts_with("cannot turn lro on on link up0: "), "{text}");
    assert!(ethtool.driver("nosuch").is_err());
}
