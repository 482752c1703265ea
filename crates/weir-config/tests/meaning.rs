//! What files that are right mean: defaults, warnings, and that the reference's examples are right.

use std::net::IpAddr;
use std::time::Duration;

use weir_config::{
    Advertise, Config, Encapsulation, GueChecksum, HashBy, InterfaceName, NoBackend, Protocol, RingSlots,
    Scheduler, ServerIds, Source, SourceAction, State, Tracking, XdpMode, effective_toml, parse,
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
    assert_eq!((director.gue_port, director.gue_ipv6_checksum), (6080, GueChecksum::Computed));
    assert!(director.answer_ping && director.send_too_big && director.decapsulate.is_empty());
    assert_eq!((director.icmp_rate, director.fragment_table_entries), (1000, 1 << 15));
    let [service] = &config.services[..] else { panic!("one service") };
    assert_eq!(service.name, "192.0.2.10:80/tcp");
    assert_eq!(
        (service.key.vip, service.key.port, service.key.protocol),
        (address("192.0.2.10"), 80, Protocol::Tcp)
    );
    assert_eq!(service.advertise, Advertise::None);
    assert_eq!(service.encapsulation, Encapsulation::Ipip);
    assert_eq!(service.scheduler, Scheduler::Maglev);
    assert_eq!(service.key.prefix_len, None);
    assert_eq!((service.hash, service.source_prefix, service.persistence), (HashBy::Flow, None, false));
    assert_eq!((service.tracking, service.new_flow_budget), (Tracking::Always, None));
    assert_eq!(service.server_ids, ServerIds::None);
    assert!(service.sources.is_empty() && service.sources_file.is_none());
    assert_eq!(service.sources.others(), SourceAction::Allow);
    assert_eq!(service.ring_slots, RingSlots::Automatic);
    assert_eq!(service.no_backend, NoBackend::Drop);
    assert_eq!(service.idle_timeout, Duration::from_secs(900));
    assert_eq!(service.drain, Duration::from_secs(300));
    let [first, second] = &service.backends[..] else { panic!("two backends") };
    assert_eq!((first.name.as_str(), first.address, first.weight), ("10.0.0.11", address("10.0.0.11"), 1));
    assert_eq!((first.mac, first.via, first.vlan, first.local), (None, None, None, false));
    assert_eq!((first.encapsulation, first.state), (Encapsulation::Ipip, State::Up));
    assert!(first.server_ids.is_empty() && first.sources.is_empty());
    assert_eq!(second.weight, 2);
}

#[test]
fn a_place_in_a_program_array() {
    let text = |keys: &str| format!("[director]\ninterfaces = [\"eth0\"]\n{keys}");
    let keys = "program_array = \"/sys/fs/bpf/jmp_root\"\nprogram_position = 2\n";
    let config = parsed(&text(keys));
    let array = config.director.program_array.as_ref().unwrap();
    assert_eq!((array.path.to_str(), array.position, array.next), (Some("/sys/fs/bpf/jmp_root"), 2, None));
    assert!(effective_toml(&config).contains(keys));
    let config = parsed(&text(&format!("{keys}next_position = 63\n")));
    assert_eq!(config.director.program_array.as_ref().unwrap().next, Some(63));
    assert_eq!(parsed(&effective_toml(&config)), config);
}

#[test]
fn the_full_example_says_everything() {
    let text = reference_examples()[1];
    let config = parsed(text);
    assert_eq!(config.warnings, []);
    assert_eq!(config.director.interfaces.len(), 2);
    assert_eq!(config.director.hash_key_file.as_deref(), Some("/etc/weir/key".as_ref()));
    let network = "172.16.0.0".parse().unwrap();
    assert_eq!(config.director.source_ipv4, Some(Source::Spread { network, prefix_len: 16 }));
    let network = "100::".parse().unwrap();
    assert_eq!(config.director.source_ipv6, Some(Source::Spread { network, prefix_len: 64 }));
    assert_eq!(config.director.decapsulate, [address("10.0.0.2"), address("fc00:1404::1")]);
    let [web, quic] = &config.services[..] else { panic!("two services") };
    let backend = &web.backends[0];
    assert_eq!((backend.mac, backend.via), (Some([2, 0, 0, 0, 0, 1]), Some(address("10.0.0.1"))));
    assert_eq!((backend.server_ids.as_slice(), backend.vlan), (&[1, 2][..], Some(100)));
    assert_eq!((web.hash, web.source_prefix, web.persistence), (HashBy::Source, Some(24), true));
    assert_eq!(web.sources.len(), 4);
    assert_eq!((quic.key.vip, quic.key.prefix_len), (address("2001:db8:5::"), Some(48)));
    assert_eq!(quic.server_ids, ServerIds::QuicLb { rotation: 0, id_length: 2 });
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
fn what_is_not_a_default_of_directors_and_backends() {
    let config = parsed(
        r#"
        [director]
        interfaces = ["lo"]
        source_ipv4 = "10.0.0.2/32"
        source_ipv6 = "2001:db8:f::/48"
        gue_port = 65535
        gue_ipv6_checksum = "zero"
        answer_ping = false
        send_too_big = false
        icmp_rate = 0
        fragment_table_entries = 9
        [[service]]
        vip = "2001:db8::10/128"
        port = 443
        protocol = "udp"
        encapsulation = "gue"
        server_ids = "quic-lb"
        quic_lb_rotation = 6
        quic_lb_id_length = 1
        new_flow_budget = 64
        [[service.backend]]
        address = "10.0.0.1"
        server_id = 255
        weight = 0
        [[service.backend]]
        address = "2001:db8::1"
        encapsulation = "l2"
        state = "down"
        vlan = 4094
        [[service.backend]]
        address = "2001:db8::10" # Where it is does not matter.
        local = true
        [[service]]
        vip = "198.51.100.0/24"
        port = "*"
        protocol = "tcp"
        hash = "source-and-port"
        tracking = "never"
        backend = [{ address = "2001:db8:f:1::1" }] # of that /48, the first /64 alone is used
        [[service]]
        vip = "2001:db8:5::/48"
        port = 80
        protocol = "tcp"
        hash = "source"
        persistence = true
        scheduler = "wrr"
        backend = [{ address = "10.0.0.1" }]
        "#,
    );
    assert_eq!(config.warnings, []);
    let director = &config.director;
    assert_eq!(director.source_ipv4, Some(Source::Fixed("10.0.0.2".parse().unwrap())));
    let network = "2001:db8:f::".parse().unwrap();
    assert_eq!(director.source_ipv6, Some(Source::Spread { network, prefix_len: 48 }));
    assert_eq!((director.gue_port, director.gue_ipv6_checksum), (65535, GueChecksum::Zero));
    assert!(!director.answer_ping && !director.send_too_big);
    assert_eq!((director.icmp_rate, director.fragment_table_entries), (0, 16));
    let [quic, stateless, persistent] = &config.services[..] else { panic!("three services") };
    assert_eq!((quic.key.prefix_len, quic.name.as_str()), (None, "[2001:db8::10]:443/udp"));
    assert_eq!(quic.server_ids, ServerIds::QuicLb { rotation: 6, id_length: 1 });
    assert_eq!((quic.new_flow_budget, quic.server_ids.highest()), (Some(64), Some(255)));
    let [first, second, here] = &quic.backends[..] else { panic!("three backends") };
    assert_eq!((first.encapsulation, &first.server_ids[..]), (Encapsulation::Gue, &[255][..]));
    assert_eq!(
        (second.encapsulation, second.state, second.vlan),
        (Encapsulation::L2, State::Down, Some(4094))
    );
    assert!(here.local && !first.local);
    assert_eq!(stateless.name, "198.51.100.0/24:*/tcp");
    assert_eq!((stateless.source_prefix, stateless.tracking), (Some(32), Tracking::Never));
    assert!(stateless.key.vips().contains(address("198.51.100.255")));
    assert_eq!(persistent.name, "[2001:db8:5::/48]:80/tcp");
    assert_eq!((persistent.scheduler, persistent.source_prefix), (Scheduler::Wrr, Some(128)));
}

#[test]
fn one_list_of_clients() {
    use SourceAction::{Allow, Backend, Deny};

    let config = parsed(
        r#"
        [director]
        interfaces = ["lo"]
        [[service]]
        vip = "2001:db8::10"
        port = 80
        protocol = "tcp"
        deny = ["::/0", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8:7::/48"]
        backend = [
            { address = "10.0.0.1", sources = ["2001:db8:7::/64"] },
            { address = "10.0.0.2", sources = ["2001:db8::/32", "2001:db8:7:1::/64"] },
        ]
        [[service]]
        vip = "192.0.2.10"
        port = 80
        protocol = "tcp"
        allow = ["255.0.0.0/8", "0.0.0.0/0", "10.0.0.0/8"]
        deny = ["10.0.0.1", "10.0.0.1/32"]
        "#,
    );
    let [v6, v4] = [0, 1].map(|i| &config.services[i].sources);
    let rules = |sources: &weir_config::Sources| {
        sources.iter().map(|rule| (rule.prefix.to_string(), rule.action)).collect::<Vec<_>>()
    };
    assert_eq!(
        rules(v6),
        [
            ("::/0".to_owned(), Deny),
            ("2001:db8::/32".to_owned(), Backend(1)),
            ("2001:db8:7::/48".to_owned(), Deny),
            ("2001:db8:7::/64".to_owned(), Backend(0)),
            ("2001:db8:7:1::/64".to_owned(), Backend(1)),
            ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".to_owned(), Deny),
        ]
    );
    assert_eq!(v6.others(), Allow);
    assert_eq!(
        rules(v4),
        [
            ("0.0.0.0/0".to_owned(), Allow),
            ("10.0.0.0/8".to_owned(), Allow),
            ("10.0.0.1".to_owned(), Deny),
            ("255.0.0.0/8".to_owned(), Allow),
        ]
    );
    assert_eq!(v4.others(), Deny, "some are allowed by name");
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

#[test]
fn what_is_probably_not_meant_together() {
    let text = r#"[director]
interfaces = ["eth0"]
source_ipv4 = "10.0.0.0/24"
source_ipv6 = "2001:db8::/32"
decapsulate = ["fd00::2"]
[[service]]
name = "a"
vip = "198.51.100.0/24"
port = 443
protocol = "udp"
hash = "port"
tracking = "never"
drain = "1s"
idle_timeout = 10
new_flow_budget = 64
server_ids = "udp-stable"
[[service.backend]]
address = "10.0.0.11"
state = "down"
[[service.backend]]
address = "198.51.100.7"
weight = 0
[[service.backend]]
address = "fd00::2"
weight = 0
[[service]]
name = "b"
vip = "2001:db8::10"
port = 443
protocol = "udp"
scheduler = "rr"
server_ids = "quic"
tracking = "always"
drain = 0
[[service.backend]]
address = "10.0.0.11"
weight = 0
server_id = 1
[[service.backend]]
address = "10.0.0.12"
weight = 0
sources = ["2001:db8:7::/48"]
[[service]]
name = "c"
vip = "2001:db8::11"
port = 443
protocol = "udp"
scheduler = "rr"
backend = [{ address = "10.0.0.11", weight = 2 }, { address = "10.0.0.12", weight = 3 }]
"#;
    let warnings: Vec<String> = parsed(text).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "weir.toml:3:15: warning: the source 10.0.0.0/24 covers the backend 10.0.0.11; \
             real servers refuse packets from addresses of their own",
            "weir.toml:4:15: warning: the source 2001:db8::/32 covers the VIP 2001:db8::10; \
             real servers refuse packets from addresses of their own",
            "weir.toml:6:1: warning: no backend of service a can take a flow: each is down or has weight 0; \
             new flows meet `no_backend`",
            "weir.toml:6:1: warning: service a has `server_ids = \"udp-stable\"`, but no backend has a `server_id`",
            "weir.toml:11:8: warning: every packet of this service has the destination port 443; \
             `hash = \"port\"` gives all of them to one backend",
            "weir.toml:13:9: warning: `drain` has no effect with `tracking = \"never\"`: no flow is remembered",
            "weir.toml:14:16: warning: `idle_timeout` has no effect with `tracking = \"never\"`: no flow is remembered",
            "weir.toml:15:19: warning: `new_flow_budget` has no effect with `tracking = \"never\"`: \
             no flow is remembered",
            "weir.toml:21:11: warning: backend 198.51.100.7 is a VIP of this director, too; \
             packets wrapped for it would come back here",
            "weir.toml:24:11: warning: backend fd00::2 is in this director's `decapsulate`, too; \
             packets wrapped for it would be unwrapped here",
            "weir.toml:26:1: warning: no backend of service b can take a flow: every weight is 0; \
             packets without a server id and from other sources meet `no_backend`",
            "weir.toml:43:1: warning: service c has different weights, which `scheduler = \"rr\"` \
             takes for the same; \"wrr\" heeds them",
        ]
    );
}
