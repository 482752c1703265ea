//! What is unwrapped, and by which program.

use std::net::UdpSocket;

use weir_abi::agent::Reason;
use weir_testkit::packet::Builder;

use super::*;

impl World {
    /// Segment sizes and the GUE port as the programs know them, and as the record has them.
    fn known(&self) -> ((u16, u16), u16) {
        self.on_real(|| {
            let tables = Tables::open(&self.state.join("bpf")).unwrap();
            let known = (tables.segment_sizes().unwrap(), tables.gue_port().unwrap());
            let journal = Journal::read(&self.state).unwrap().unwrap();
            let setup = journal.setup().unwrap();
            assert_eq!(known, ((setup.mss_v4, setup.mss_v6), setup.gue_port));
            known
        })
    }
}

#[test]
fn gue_is_unwrapped_on_the_port_asked_for_and_leaves_less_room() {
    let world = World::new();
    let before = world.snapshot();
    world.up("").unwrap();
    assert_eq!(world.known(), ((1420, 1400), 0));
    world.up("--gue-port 6080").unwrap();
    assert_eq!(world.known(), ((1412, 1392), 6080));
    assert_eq!(world.problems(), Vec::<String>::new());
    // A failed change leaves what was there: another's program is where it would unwrap.
    let other = world.on_real(|| {
        let index = Rtnl::open().unwrap().link_by_name("eth1").unwrap().index;
        attach_pass(index, None).unwrap()
    });
    world.weir("up --vip 192.0.2.99 --from 10.77.1.1 --xdp-mode native --gue-port 7").unwrap_err();
    assert_eq!(world.known(), ((1412, 1392), 6080));
    drop(other);
    world.up("").unwrap();
    assert_eq!(world.known(), ((1420, 1400), 0));
    world.down();
    assert_same(&before, &world.snapshot());
}

/// An IPv4 UDP datagram of `len` bytes from the peer to the VIP, as another datagram's payload holds it.
fn inner(len: usize) -> Vec<u8> {
    Builder::new("10.77.0.1", VIP4).payload(len).udp(40_000, 7)[14..].to_vec()
}

impl World {
    /// Sends the peer's datagrams of these sizes in GUE, and expects each of them at the VIP.
    fn deliver(&self, sizes: &[usize]) {
        let at_vip = self.on_real(|| UdpSocket::bind((VIP4, 7)).unwrap());
        at_vip.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sender = self.peer.run_in(|| UdpSocket::bind("10.77.0.1:0").unwrap()).unwrap();
        let mut received = vec![0; 1 << 16];
        for &size in sizes {
            sender.send_to(&inner(size), "10.77.0.11:6080").unwrap();
            let (len, from) = at_vip.recv_from(&mut received).expect("a datagram at the VIP");
            assert_eq!((len, from), (size, "10.77.0.1:40000".parse().unwrap()));
            assert!((0..size).all(|at| received[at] == at as u8), "{size} bytes came in changed");
        }
    }

    /// The name of the XDP program on `eth0`.
    fn program(&self) -> Option<String> {
        self.on_real(|| {
            let index = Rtnl::open().unwrap().link_by_name("eth0").unwrap().index;
            query(index).unwrap().map(|there| there.program_name)
        })
    }

    /// What is pinned; the kernel's own files in a bpffs have a dot in their names.
    fn pins(&self) -> Vec<String> {
        let names = fs::read_dir(self.state.join("bpf")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.contains('.')).collect()
    }

    fn set_mtu(&self, mtu: u32) {
        for (netns, name) in [(&self.real, "eth0"), (&self.peer, "far0")] {
            let rtnl = Rtnl::open_in(netns).unwrap();
            rtnl.set_mtu(rtnl.link_by_name(name).unwrap().index, mtu).unwrap();
        }
    }
}

#[test]
fn gue_reaches_the_vip_in_each_mode() {
    let world = World::new();
    for mode in ["native", "generic", "tc"] {
        world.up(&format!("--interface eth0 --gue-port 6080 --xdp-mode {mode}")).unwrap();
        world.deliver(&[0, 1, 500, 1400]);
        world.on_real(|| {
            let tables = Tables::open(&world.state.join("bpf")).unwrap();
            let counts = tables.arriving().unwrap();
            let of = |wanted: Reason| counts.iter().find(|(reason, _)| *reason == wanted).unwrap().1.packets;
            assert_eq!(of(Reason::UnwrappedGue4In4), 4, "{mode}");
        });
        world.down();
    }
}

#[test]
fn a_large_mtu_is_no_reason_to_leave_native_xdp() {
    let world = World::new();
    world.up("--interface eth0").unwrap();
    assert_eq!(world.program().as_deref(), Some("unwrap_xdp"));
    world.down();
    world.set_mtu(9000);
    let before = world.snapshot();
    for mode in ["auto", "native"] {
        world.up(&format!("--interface eth0 --gue-port 6080 --xdp-mode {mode}")).unwrap();
        assert_eq!(world.mode("eth0"), "native");
        assert_eq!(world.program().as_deref(), Some("unwrap_frags"));
        world.deliver(&[100, 3_000, 5_000, 8_900]);
        assert_eq!(world.problems(), Vec::<String>::new());
        assert_eq!(world.weir("status").unwrap(), ExitCode::SUCCESS);
        let journal = world.on_real(|| Journal::read(&world.state).unwrap().unwrap());
        let done = &journal.setup().unwrap().unwrapping[0];
        assert_eq!((done.frags, &done.fell_back), (true, &None));
        // Another `up` keeps what is attached.
        world.up("--interface eth0 --gue-port 6080").unwrap();
        assert_eq!(world.program().as_deref(), Some("unwrap_frags"));
        world.down();
        assert_same(&before, &world.snapshot());
    }
}

#[test]
fn packets_that_come_as_they_are_need_addresses_and_sysctls_only() {
    let world = World::new();
    world.on_real(|| set("all", "rp_filter", "1"));
    let before = world.snapshot();
    let none = format!("up --vip {VIP4} --vip {VIP6} --decap none --interface eth0");
    // From nothing, and from programs, of which none stays.
    for first in [None, Some("--interface eth0 --gue-port 6080"), Some("--interface eth0 --xdp-mode tc")] {
        if let Some(options) = first {
            world.up(options).unwrap();
        }
        world.weir(&none).unwrap();
        assert_eq!(world.weir("status").unwrap(), ExitCode::SUCCESS);
        assert_eq!(world.weir("status -o json").unwrap(), ExitCode::SUCCESS);
        assert_eq!((world.program(), world.mode("eth0")), (None, "none".to_owned()));
        assert_eq!(world.pins(), Vec::<String>::new());
        // Whoever has the station's address for the VIP is answered: the director writes it into the frame.
        let gateway = Rtnl::open_in(&world.peer).unwrap();
        gateway.add_route(&NewRoute::new(Prefix::host(ip(VIP4))).via(ip("10.77.0.11"))).unwrap();
        let at_vip = world.on_real(|| UdpSocket::bind((VIP4, 7)).unwrap());
        at_vip.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sender = world.peer.run_in(|| UdpSocket::bind("10.77.0.1:0").unwrap()).unwrap();
        sender.send_to(b"as it is", (VIP4, 7)).unwrap();
        assert_eq!(at_vip.recv(&mut [0; 64]).expect("a datagram at the VIP"), 8);
        gateway.del_route(&NewRoute::new(Prefix::host(ip(VIP4))).via(ip("10.77.0.11"))).unwrap();
        world.on_real(|| {
            assert_eq!(sysctl("all", "arp_ignore"), "1");
            assert_eq!(sysctl("eth0", "rp_filter"), "2");
            set("all", "arp_ignore", "0");
        });
        assert_eq!(world.weir("status").unwrap(), ExitCode::from(1));
        world.on_real(|| set("all", "arp_ignore", "1"));
        world.down();
        assert_same(&before, &world.snapshot());
    }
    // And from there to programs; should that fail, it is as before.
    world.weir(&none).unwrap();
    let other = world.on_real(|| {
        let index = Rtnl::open().unwrap().link_by_name("eth0").unwrap().index;
        attach_pass(index, None).unwrap()
    });
    world.up("--interface eth0 --xdp-mode native").unwrap_err();
    assert_eq!(world.mode("eth0"), "none");
    assert_eq!(world.weir("status").unwrap(), ExitCode::SUCCESS);
    assert_eq!(world.pins(), Vec::<String>::new());
    drop(other);
    world.up("--interface eth0 --xdp-mode native").unwrap();
    assert_eq!(world.problems(), Vec::<String>::new());
    world.down();
    assert_same(&before, &world.snapshot());
}
