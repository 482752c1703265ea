//! Namespaces and wires for the tests: made with names of their own, removed when dropped.

use std::{
    net::IpAddr,
    os::fd::AsFd,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
    time::Instant,
};

use weir_kernel::net::{
    Link, MacAddress, Netns, NewAddress, NewRoute, NextHop, NextHopError, Pin, RouteKind, Rtnl, Sysctl,
    VethEnd, resolve_next_hop,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A namespace with a name of its own, removed when dropped, also by a panic.
pub(crate) struct Space {
    pub(crate) netns: Netns,
    pub(crate) rtnl: Rtnl,
}

impl Space {
    pub(crate) fn new(label: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-net-{}-{number}-{label}", std::process::id());
        let netns = Netns::create(&name).unwrap_or_else(|error| {
            panic!("{error}\nThese tests need root: run them with `cargo xtask test`.")
        });
        let rtnl = Rtnl::open_in(&netns).unwrap();
        // Without an address of the link's own that is past duplicate detection the kernel solicits nobody, yet counts the
        // attempts: a neighbour asked for too early fails unasked.
        let no_detection = Sysctl::ipv6_conf("default", "accept_dad").unwrap();
        netns.run_in(|| no_detection.set("0")).unwrap().unwrap();
        rtnl.set_up(rtnl.link_by_name("lo").unwrap().index).unwrap();
        Self { netns, rtnl }
    }

    pub(crate) fn name(&self) -> &str {
        self.netns.name().unwrap()
    }

    pub(crate) fn link(&self, name: &str) -> Link {
        self.rtnl.link_by_name(name).unwrap()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if let Err(error) = Netns::delete(self.name()) {
            eprintln!("left behind: {error}");
        }
    }
}

/// A director and a backend with a veth pair between them: 192.0.2.0/24 and 2001:db8::/64, director .1, backend .2.
pub(crate) struct Pair {
    pub(crate) director: Space,
    pub(crate) backend: Space,
    /// Index of the director's end, `up0`; the backend's is `down0`.
    pub(crate) index: u32,
    pub(crate) backend_mac: MacAddress,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let director = Space::new("director");
        let backend = Space::new("backend");
        let backend_mac = mac("02:00:00:00:00:02");
        director
            .rtnl
            .create_veth(
                VethEnd::new("up0").mac(mac("02:00:00:00:00:01")),
                VethEnd::new("down0").in_netns(backend.netns.as_fd()).mac(backend_mac),
            )
            .unwrap();
        for (space, name, host) in [(&director, "up0", 1), (&backend, "down0", 2)] {
            let index = space.link(name).index;
            space.rtnl.set_up(index).unwrap();
            space.rtnl.add_address(&NewAddress::new(index, ip(&format!("192.0.2.{host}")), 24)).unwrap();
            space
                .rtnl
                .add_address(&NewAddress::new(index, ip(&format!("2001:db8::{host}")), 64).nodad())
                .unwrap();
        }
        // The kernel makes an IPv6 address local a moment after it accepted it.
        for (space, own) in [(&director, "2001:db8::1"), (&backend, "2001:db8::2")] {
            let end = Instant::now() + PATIENCE;
            while space.rtnl.route_get(ip(own), None, None).unwrap().kind != RouteKind::Local {
                assert!(Instant::now() < end, "{own} does not become local");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let index = director.link("up0").index;
        Self { director, backend, index, backend_mac }
    }

    /// Looks up until the neighbour has answered.
    pub(crate) fn next_hop(&self, dst: &str, pin: Option<Pin>) -> Result<NextHop, NextHopError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match resolve_next_hop(&self.director.rtnl, ip(dst), pin) {
                Err(NextHopError::NeighbourPending { .. }) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                result => return result,
            }
        }
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn mac(text: &str) -> MacAddress {
    text.parse().unwrap()
}

pub(crate) fn route(prefix: &str) -> NewRoute {
    NewRoute::new(prefix.parse().unwrap())
}
