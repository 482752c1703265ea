//! The configured service of a packet, and who may get its packets.
//!
//! Owns: the search, by the configuration that weir was given and nothing else. May not touch: tables. Invariant: a backend
//! that is down, without weight, or this machine, is none that the hash may send a packet to.

use std::net::IpAddr;

use weir_config::{Backend, Config, Service, State};

use crate::packet::Ip;

/// The service a packet is for: the longest prefix its destination is in, then its port, then every port.
pub(crate) fn of<'c>(config: &'c Config, packet: &Ip<'_>) -> Option<&'c Service> {
    let (address, protocol, port) = packet.wanted()?;
    let vip = vip_of(config, address)?;
    let of_port = |port: u16| {
        config.services.iter().find(|service| {
            let key = &service.key;
            key.vips() == vip && key.protocol.number() == protocol && key.port == port
        })
    };
    of_port(port).or_else(|| of_port(0))
}

/// Whether an address is a VIP.
pub(crate) fn is_vip(config: &Config, address: IpAddr) -> bool {
    vip_of(config, address).is_some()
}

fn vip_of(config: &Config, address: IpAddr) -> Option<weir_config::Prefix> {
    let vips = config.services.iter().map(|service| service.key.vips());
    vips.filter(|vip| vip.contains(address)).max_by_key(|vip| vip.len)
}

/// Whether the hash may send a service's packets to this address.
pub(crate) fn may_send(service: &Service, address: IpAddr) -> bool {
    takes_new(service).any(|backend| !backend.local && backend.address == address)
}

/// Whether it may leave them to this machine.
pub(crate) fn may_stay(service: &Service) -> bool {
    takes_new(service).any(|backend| backend.local)
}

fn takes_new(service: &Service) -> impl Iterator<Item = &Backend> {
    service.backends.iter().filter(|backend| backend.state == State::Up && backend.weight > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_testkit::packet::Builder;

    const TEXT: &str = r#"
        [director]
        interfaces = ["lo"]
        [[service]]
        vip = "192.0.2.0/24"
        port = 80
        protocol = "tcp"
        backend = [{ address = "10.0.0.1" }]
        [[service]]
        vip = "192.0.2.10"
        port = 80
        protocol = "tcp"
        backend = [
            { address = "10.0.0.2" },
            { address = "10.0.0.3", state = "down" },
            { address = "10.0.0.4", weight = 0 },
            { address = "10.0.0.5", local = true },
        ]
        [[service]]
        vip = "192.0.2.10"
        port = "*"
        protocol = "udp"
        backend = [{ address = "10.0.0.6" }]
    "#;

    #[test]
    fn the_longest_prefix_then_the_port_then_any_port() {
        let config = weir_config::parse("inline", TEXT).expect("right");
        let found = |packet: &[u8]| {
            of(&config, &Ip::of_frame(packet).expect("IP")).map(|service| service.key.to_string())
        };
        let to = |vip: &str| Builder::new("198.51.100.7", vip);
        assert_eq!(found(&to("192.0.2.11").tcp(1, 80, 2)).as_deref(), Some("192.0.2.0/24:80/tcp"));
        assert_eq!(found(&to("192.0.2.10").tcp(1, 80, 2)).as_deref(), Some("192.0.2.10:80/tcp"));
        assert_eq!(found(&to("192.0.2.10").udp(1, 99)).as_deref(), Some("192.0.2.10:*/udp"));
        assert_eq!(found(&to("192.0.2.10").tcp(1, 81, 2)), None, "not the prefix's: the VIP is its own");
        assert_eq!(found(&to("192.0.3.1").tcp(1, 80, 2)), None);
        assert!(is_vip(&config, "192.0.2.99".parse().expect("literal")));
        assert!(!is_vip(&config, "192.0.3.99".parse().expect("literal")));
    }

    #[test]
    fn only_who_takes_new_flows_may_get_packets() {
        let config = weir_config::parse("inline", TEXT).expect("right");
        let service = &config.services[1];
        let may = |last: u8| may_send(service, IpAddr::from([10, 0, 0, last]));
        assert_eq!([1, 2, 3, 4, 5].map(may), [false, true, false, false, false]);
        assert!(may_stay(service) && !may_stay(&config.services[0]));
    }
}
