//! What files that are right mean: defaults, warnings, and that the reference's examples are right.

use std::net::IpAddr;
use std::time::Duration;

use weir_config::{
    Advertise, Config, Encapsulation, InterfaceName, NoBackend, Protocol, RingSlots, Scheduler, XdpMode,
    effective_toml, parse,
};

fn parsed(text: &str) -> Config {
    parse("weir.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The examples of docs/src/config.md, in order.
fn reference_examples() -> Vec<&'static str> {
    let reference = include_str!("../../../docs/src/config.md");
    reference.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_small_example_and_the_defaults() {
    let config = parsed(reference_examples()[0]);
    assert_eq!(config.warnings, []);
    let director = &config.director;
    assert_eq!(director.interfaces.iter().map(InterfaceName::as_str).collect::<Vec<_>>(), ["eth0"]);
    assert_eq!(director.xdp_mode, XdpMode::Auto);
    assert_eq!(director.flow_table_entries, 1 << 20);
    assert_eq!(director.ring_slots, RingSlots::Automatic);
    assert_eq!(director.hash_key_file, None);
    assert_eq!((director.source_ipv4, director.source_ipv6), (None, None));
    let [service] = &config.services[..] else { panic!("one service") };
    assert_eq!(service.name, "192.0.2.10:80/tcp");
    assert_eq!(
        (service.key.vip, service.key.port, service.key.protocol),
        (address("192.0.2.10"), 80, Protocol::Tcp)
    );
    assert_eq!(service.advertise, Advertise::None);
    assert_eq!(service.encapsulation, Encapsulation::Ipip);
    assert_eq!(service.scheduler, Scheduler::Maglev);
    assert_eq!(service.ring_slots, RingSlots::Automatic);
    assert_eq!(service.no_backend, NoBackend::Drop);
    assert_eq!(service.idle_timeout, Duration::from_secs(900));
    assert_eq!(service.drain, Duration::from_secs(300));
    let [first, second] = &service.backends[..] else { panic!("two backends") };
    assert_eq!((first.name.as_str(), first.address, first.weight), ("10.0.0.11", address("10.0.0.11"), 1));
    assert_eq!((first.mac, first.via), (None, None));
    assert_eq!(second.weight, 2);
}

#[test]
fn the_full_example_says_everything() {
    let text = reference_examples()[1];
    let config = parsed(text);
    assert_eq!(config.warnings, []);
    assert_eq!(config.director.interfaces.len(), 2);
    assert_eq!(config.director.hash_key_file.as_deref(), Some("/etc/weir/key".as_ref()));
    assert_eq!(config.director.source_ipv4, Some("10.0.0.2".parse().unwrap()));
    assert_eq!(config.director.source_ipv6, Some("2001:db8::2".parse().unwrap()));
    let backend = &config.services[0].backends[0];
    assert_eq!((backend.mac, backend.via), (Some([2, 0, 0, 0, 0, 1]), Some(address("10.0.0.1"))));
    // So it is, but for line breaks, what the effective configuration looks like.
    let lines =
        |text: &str| text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&effective_toml(&config)), lines(text));
    assert_eq!(reference_examples().len(), 2);
}

#[test]
fn what_is_not_a_default() {
    let config = parsed(
        r#"
        [director]
        interfaces = ["lo"]
        flow_table_entries = 8193
        ring_slots = 512
        [[service]]
        vip = "2001:db8::10"
        port = "*"
        protocol = "udp"
        advertise = "address"
        no_backend = "pass"
        drain = 0
        backend = [{ address = "2001:db8::1", via = "fe80::1", mac = "02-aA-00-00-00-01" }]
        [[service]]
        vip = "2001:db8::10"
        port = 0x1bb
        protocol = "udp"
        advertise = "address"
        ring_slots = 0
        idle_timeout = "4h"
        drain = "90s"
        backend = [{ address = "2001:db8::1", weight = 0 }, { address = "2001:db8::2", weight = 65_535 }]
        [[service]]
        vip = "192.0.2.10"
        port = 53
        protocol = "udp"
        backend = [{ address = "2001:db8::1" }, { address = "10.0.0.1" }]
        "#,
    );
    assert_eq!(config.warnings, []);
    assert_eq!(config.director.flow_table_entries, 16384);
    let [any, quic, dns] = &config.services[..] else { panic!("three services") };
    assert_eq!(any.name, "[2001:db8::10]:*/udp");
    assert_eq!((any.key.port, any.advertise, any.no_backend), (0, Advertise::Address, NoBackend::Pass));
    assert_eq!((any.idle_timeout, any.drain), (Duration::from_secs(120), Duration::ZERO));
    assert_eq!(any.ring_slots, RingSlots::Exactly(512), "the director's");
    assert_eq!(
        (any.backends[0].via, any.backends[0].mac),
        (Some(address("fe80::1")), Some([2, 0xaa, 0, 0, 0, 1]))
    );
    assert_eq!((quic.name.as_str(), quic.key.port), ("[2001:db8::10]:443/udp", 443));
    assert_eq!(quic.ring_slots, RingSlots::Automatic, "its own");
    assert_eq!((quic.idle_timeout, quic.drain), (Duration::from_secs(14400), Duration::from_secs(90)));
    assert_eq!(quic.backends.iter().map(|backend| backend.weight).collect::<Vec<_>>(), [0, 65535]);
    assert_eq!(dns.backends.len(), 2, "IPv4 may be carried by either family");
}

#[test]
fn what_is_probably_not_meant() {
    let warnings = |text: &str| parsed(text).warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        warnings("[director]\ninterfaces = [\"eth0\"]\n"),
        [
            "weir.toml:1:1: warning: there is no [[service]]; every packet goes to the director's own network stack"
        ]
    );
    let text = r#"[director]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.10"
port = 80
protocol = "tcp"
[[service]]
vip = "192.0.2.11"
port = 80
protocol = "tcp"
ring_slots = 256
[[service.backend]]
address = "10.0.0.11"
[[service.backend]]
address = "10.0.0.12"
[[service.backend]]
address = "192.0.2.10"
"#;
    assert_eq!(
        warnings(text),
        [
            "weir.toml:3:1: warning: service web has no backend; its packets meet `no_backend`",
            "weir.toml:12:14: warning: a ring of 256 slots meets the weights of 3 backends only roughly",
            "weir.toml:18:11: warning: backend 192.0.2.10 is a VIP of this director, too; \
             packets wrapped for it would come back here",
        ]
    );
}
