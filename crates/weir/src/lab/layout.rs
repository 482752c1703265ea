//! What a lab is made of: hosts, wires, addresses, routes, services.
//!
//! Owns: every name and number of both topologies. May not touch: the kernel, files.
//! Invariant: addresses of documentation and private ranges only; nothing in here is reachable from outside the
//! lab's namespaces.
//!
//! ```text
//! routed                                        flat
//! client -- router -- director                  client  director  rs1  rs2  rs3
//!             | | |                                |        |       |    |    |
//!           rs1 rs2 rs3                            +--------+--- switch --+---+
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The real servers, by host name.
pub(super) const REAL_SERVERS: [&str; 3] = ["rs1", "rs2", "rs3"];
/// The interface of a host that has only one.
pub(super) const PORT: &str = "eth0";
/// The port of every service.
pub(super) const HTTP: u16 = 80;

/// How the hosts are wired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Topology {
    /// A router sends the VIPs' prefix to the director; real servers are behind the router too.
    #[default]
    Routed,
    /// Client, director, real servers and VIPs share one subnet; the director holds the VIPs.
    Flat,
}

impl Topology {
    /// The word on the command line and in the state file.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Flat => "flat",
        }
    }

    /// What [`Self::as_str`] gave.
    pub(super) fn parse(word: &str) -> Option<Self> {
        [Self::Routed, Self::Flat].into_iter().find(|topology| topology.as_str() == word)
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A whole lab.
pub(super) struct Layout {
    /// How it is wired.
    pub(super) topology: Topology,
    /// In the order they are made.
    pub(super) hosts: Vec<Host>,
    /// Wires between the hosts.
    pub(super) wires: Vec<Wire>,
    /// What the director balances.
    pub(super) services: Vec<Service>,
}

/// A namespace.
pub(super) struct Host {
    /// What it is called in the lab.
    pub(super) name: &'static str,
    /// Whether it forwards IP packets.
    pub(super) forwards: bool,
    /// A bridge of this name joins all its interfaces.
    pub(super) bridge: Option<&'static str>,
    /// Interface, address, prefix length.
    pub(super) addresses: Vec<(&'static str, IpAddr, u8)>,
    /// Destination, prefix length, gateway.
    pub(super) routes: Vec<(IpAddr, u8, IpAddr)>,
}

/// A veth pair: two ends, each a host and an interface.
pub(super) struct Wire {
    /// Both ends.
    pub(super) ends: [(&'static str, &'static str); 2],
}

/// A VIP and who answers for it.
pub(super) struct Service {
    /// For the configuration.
    pub(super) name: &'static str,
    /// What clients talk to.
    pub(super) vip: IpAddr,
    /// Addresses of `rs1`, `rs2`, `rs3`.
    pub(super) backends: [IpAddr; 3],
}

impl Layout {
    /// The lab of this topology.
    pub(super) fn new(topology: Topology) -> Self {
        match topology {
            Topology::Routed => routed(),
            Topology::Flat => flat(),
        }
    }

    /// The host of this name.
    pub(super) fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The addresses of a host, without its prefix lengths.
    pub(super) fn addresses(&self, host: &str) -> impl Iterator<Item = IpAddr> {
        self.host(host).into_iter().flat_map(|host| host.addresses.iter().map(|(_, address, _)| *address))
    }

    /// The other end of the director's interface, which needs a program of its own (see the module `build`).
    pub(super) fn director_peer(&self) -> Option<(&'static str, &'static str)> {
        self.wires.iter().find_map(|wire| match wire.ends {
            [peer, ("director", _)] | [("director", _), peer] => Some(peer),
            _ => None,
        })
    }

    /// Whether the director holds the VIPs itself.
    pub(super) const fn director_holds_vips(&self) -> bool {
        matches!(self.topology, Topology::Flat)
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(a: u16, b: u16, subnet: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, subnet, 0, 0, 0, 0, host))
}

const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Each host has a link of its own to the router: `10.0.N.0/24` and `2001:db8:N::/64` (N read as hexadecimal), the
/// router being `.1` and the host `.2`. The client's network is a documentation range, as the VIPs are.
fn routed() -> Layout {
    let mut router = Host {
        name: "router",
        forwards: true,
        bridge: None,
        addresses: Vec::new(),
        routes: vec![
            (v4(192, 0, 2, 0), 24, v4(10, 0, 1, 2)),
            (v6(0x2001, 0xdb8, 0xff, 0), 48, v6(0x2001, 0xdb8, 0x1, 2)),
        ],
    };
    let mut hosts = Vec::new();
    let mut wires = Vec::new();
    for (index, name) in ["client", "director", "rs1", "rs2", "rs3"].into_iter().enumerate() {
        let (number, number6) = [(0, 0), (1, 1), (11, 0x11), (12, 0x12), (13, 0x13)][index];
        let here4 = |host| if name == "client" { v4(198, 51, 100, host) } else { v4(10, 0, number, host) };
        let here6 = |host| v6(0x2001, 0xdb8, number6, host);
        router.addresses.extend([(name, here4(1), 24), (name, here6(1), 64)]);
        hosts.push(Host {
            name,
            forwards: false,
            bridge: None,
            addresses: vec![(PORT, here4(2), 24), (PORT, here6(2), 64)],
            routes: vec![(ANY_V4, 0, here4(1)), (ANY_V6, 0, here6(1))],
        });
        wires.push(Wire { ends: [("router", name), (name, PORT)] });
    }
    hosts.insert(1, router);
    let backends4 = [v4(10, 0, 11, 2), v4(10, 0, 12, 2), v4(10, 0, 13, 2)];
    let backends6 = [0x11, 0x12, 0x13].map(|number| v6(0x2001, 0xdb8, number, 2));
    let services = vec![
        Service { name: "web-ipv4", vip: v4(192, 0, 2, 10), backends: backends4 },
        Service { name: "web-ipv6", vip: v6(0x2001, 0xdb8, 0xff, 0x10), backends: backends6 },
        Service { name: "web-ipv4-over-ipv6", vip: v4(192, 0, 2, 20), backends: backends6 },
    ];
    Layout { topology: Topology::Routed, hosts, wires, services }
}

/// The classic one-subnet set-up: client `.1`, director `.10`, real servers `.11` to `.13`, VIP `.33` of
/// `192.168.33.0/24`; the same last numbers in `fd00:33::/64`.
fn flat() -> Layout {
    let lan4 = |host| v4(192, 168, 33, host);
    let lan6 = |host: u16| v6(0xfd00, 0x33, 0, host);
    let mut hosts = vec![Host {
        name: "switch",
        forwards: false,
        bridge: Some("lan"),
        addresses: Vec::new(),
        routes: Vec::new(),
    }];
    let mut wires = Vec::new();
    for (index, name) in ["client", "director", "rs1", "rs2", "rs3"].into_iter().enumerate() {
        // fd00:33::10 is written like 192.168.33.10, so the number is read as hexadecimal.
        let (last4, last6) = [(1, 0x1), (10, 0x10), (11, 0x11), (12, 0x12), (13, 0x13)][index];
        hosts.push(Host {
            name,
            forwards: false,
            bridge: None,
            addresses: vec![(PORT, lan4(last4), 24), (PORT, lan6(last6), 64)],
            routes: Vec::new(),
        });
        wires.push(Wire { ends: [("switch", name), (name, PORT)] });
    }
    let backends4 = [lan4(11), lan4(12), lan4(13)];
    let backends6 = [lan6(0x11), lan6(0x12), lan6(0x13)];
    let services = vec![
        Service { name: "web-ipv4", vip: lan4(33), backends: backends4 },
        Service { name: "web-ipv6", vip: lan6(0x33), backends: backends6 },
        Service { name: "web-ipv4-over-ipv6", vip: lan4(34), backends: backends6 },
    ];
    Layout { topology: Topology::Flat, hosts, wires, services }
}

/// The director's configuration for a lab.
pub(super) fn config(layout: &Layout, xdp_mode: &str) -> String {
    use fmt::Write as _;
    let mut text = String::new();
    let advertise = if layout.director_holds_vips() { "address" } else { "none" };
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "# The director of this lab. Edit it, then: weir lab exec director -- weir reload (see `weir lab status`)\n\
         [director]\ninterfaces = [\"{PORT}\"]\nxdp_mode = \"{xdp_mode}\"\n"
    );
    for service in &layout.services {
        let _ = write!(
            text,
            "\n[[service]]\nname = \"{}\"\nvip = \"{}\"\nport = {HTTP}\nprotocol = \"tcp\"\nadvertise = \"{advertise}\"\n",
            service.name, service.vip
        );
        for (name, address) in REAL_SERVERS.iter().zip(service.backends) {
            let _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\nweight = 1\n"
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wire_and_address_belongs_to_a_host_and_no_address_twice() {
        for topology in [Topology::Routed, Topology::Flat] {
            let layout = Layout::new(topology);
            let mut seen = Vec::new();
            for wire in &layout.wires {
                for (host, interface) in wire.ends {
                    assert!(layout.host(host).is_some(), "{host}");
                    assert!(interface.len() < 16);
                }
            }
            for (interface, address, _) in layout.hosts.iter().flat_map(|host| &host.addresses) {
                assert!(!seen.contains(address), "{address} of {interface} is there twice");
                seen.push(*address);
            }
            for address in layout.services.iter().flat_map(|service| service.backends) {
                assert!(seen.contains(&address), "no host has {address}");
            }
            assert!(layout.services.iter().all(|service| !seen.contains(&service.vip)));
        }
    }

    #[test]
    fn gateways_are_on_the_host_s_own_links() {
        for host in Layout::new(Topology::Routed).hosts {
            for (_, _, gateway) in &host.routes {
                let near = |(_, address, length): &(&str, IpAddr, u8)| match (address, gateway) {
                    (IpAddr::V4(a), IpAddr::V4(g)) => {
                        a.to_bits() >> (32 - length) == g.to_bits() >> (32 - length)
                    }
                    (IpAddr::V6(a), IpAddr::V6(g)) => {
                        a.to_bits() >> (128 - length) == g.to_bits() >> (128 - length)
                    }
                    _ => false,
                };
                assert!(host.addresses.iter().any(near), "{}: {gateway}", host.name);
            }
        }
    }

    #[test]
    fn the_director_s_peer_is_the_next_host() {
        assert_eq!(Layout::new(Topology::Routed).director_peer(), Some(("router", "director")));
        assert_eq!(Layout::new(Topology::Flat).director_peer(), Some(("switch", "director")));
    }
}
