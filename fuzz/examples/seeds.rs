//! Writes the inputs that fuzzing begins with into `fuzz/corpus`: the tests' fixtures and the documentation's examples.
//!
//! `cargo run -p weir-fuzz --example seeds`, after the fixtures or a target's input format changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

use weir_testkit::fuzz::{Arrival, process_input};
use weir_testkit::packet::Builder;
use weir_testkit::{Fixture, Random, fixtures, random_packet};
use weir_wire::IpProtocol;

/// Inputs of one target by name.
type Seeds = BTreeMap<String, Vec<u8>>;

fn main() -> io::Result<()> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = fuzz.parent().expect("the workspace");
    let fixtures = fixtures(1);
    for (target, seeds) in [
        ("process", process(&fixtures)),
        ("server_id", server_id(&fixtures)),
        ("icmp", icmp(&fixtures)),
        ("wrapped", wrapped(&fixtures)),
        ("unwrap", unwrap()),
        ("mss", mss()),
        ("iptunnel", iptunnel(&fixtures)),
        ("config", config(root)?),
        ("hash_key", hash_key()),
    ] {
        let directory = fuzz.join("corpus").join(target);
        fs::create_dir_all(&directory)?;
        for (name, bytes) in &seeds {
            fs::write(directory.join(name), bytes)?;
        }
        println!("{target}: {} seeds", seeds.len());
    }
    Ok(())
}

/// A sentence as a file name.
fn file_name(sentence: &str) -> String {
    sentence.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// The fixtures, with their numbers, that show what none before them does: an outcome of a packet of its family on its way
/// of travelling.
fn telling(fixtures: &[Fixture]) -> impl Iterator<Item = (u64, &Fixture)> {
    let mut known = BTreeSet::new();
    (0..).zip(fixtures).filter(move |(_, fixture)| {
        let travel = fixture.image.specs.first().map(|spec| format!("{:?}", spec.encapsulation));
        let shown = fixture.steps.iter().map(|step| (step.reason, step.input[12], travel.clone()));
        let before = known.len();
        known.extend(shown);
        known.len() > before
    })
}

/// Telling fixtures whole, and some of random tables with random packets.
fn process(fixtures: &[Fixture]) -> Seeds {
    let of_fixture = |(number, fixture): (u64, &Fixture)| {
        let arrivals = fixture.steps.iter().take(40).map(|step| Arrival { pause: 0, frame: &step.input });
        (file_name(&fixture.name), process_input(number, arrivals))
    };
    let at_random = |number: u64| {
        let mut random = Random(number);
        let packets: Vec<Vec<u8>> = (0..12).map(|_| random_packet(&mut random)).collect();
        let arrivals =
            packets.iter().map(|frame| Arrival { pause: random.below(12) as u8, frame }).collect::<Vec<_>>();
        let tables = 1 << 63 | (number & 3) << 60 | (0x1_0000 + number);
        (format!("random-{number:02}"), process_input(tables, arrivals))
    };
    telling(fixtures).map(of_fixture).chain((0..12).map(at_random)).collect()
}

/// Of the fixtures' packets, what a function makes of them: of each outcome and length, roughly, one.
fn of_packets(fixtures: &[Fixture], seed: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Seeds {
    let mut known = BTreeSet::new();
    let mut seeds = Seeds::new();
    for fixture in fixtures {
        for (number, step) in fixture.steps.iter().enumerate() {
            if let Some(input) = seed(&step.input)
                && input.len() < 300
                && known.insert((step.reason, input.len() / 8, input[0]))
            {
                seeds.insert(format!("{}-{number:02}", file_name(&fixture.name)), input);
            }
        }
    }
    seeds
}

/// Where an untagged frame without options or extension headers has what follows its IP header: its number, and the rest;
/// in front of both, 0 for IPv4 and 1 for IPv6.
fn behind_ip(frame: &[u8]) -> Option<(u8, u8, &[u8])> {
    match (frame.get(12..15)?, frame) {
        ([0x08, 0x00, 0x45], _) => Some((0, *frame.get(23)?, frame.get(34..)?)),
        ([0x86, 0xdd, _], _) => Some((1, *frame.get(20)?, frame.get(54..)?)),
        _ => None,
    }
}

/// The payloads of fixtures that name a server, in each scheme.
fn server_id(fixtures: &[Fixture]) -> Seeds {
    let named: Vec<Fixture> =
        fixtures.iter().filter(|fixture| !fixture.image.servers.is_empty()).cloned().collect();
    of_packets(&named, |frame| {
        let (side, protocol, rest) = behind_ip(frame)?;
        match protocol {
            17 => {
                let payload = rest.get(8..)?;
                let scheme = if payload.first() == Some(&0x52) { 2 } else { payload.len() as u8 & 1 };
                Some([&[side | scheme << 3, 1, 0, 0, 0], payload].concat())
            }
            6 => Some([&[side | 3 << 3, 1, 0, 0, 0], rest.get(20..)?].concat()),
            _ => None,
        }
    })
}

/// The ICMP messages of all fixtures.
fn icmp(fixtures: &[Fixture]) -> Seeds {
    of_packets(fixtures, |frame| {
        let (side, protocol, message) = behind_ip(frame)?;
        let is_icmp = protocol == [1, 58][usize::from(side)];
        is_icmp.then(|| [&[side], message].concat())
    })
}

/// What came wrapped in the fixtures.
fn wrapped(fixtures: &[Fixture]) -> Seeds {
    of_packets(fixtures, |frame| {
        let (side, protocol, rest) = behind_ip(frame)?;
        let class = if side == 0 { frame[15] } else { frame[14] << 4 | frame[15] >> 4 };
        match protocol {
            4 | 41 => Some([&[side | u8::from(protocol == 41) << 4, class], rest].concat()),
            17 if rest.get(2..4) == Some(&6080_u16.to_be_bytes()) => {
                Some([&[side | 1 << 3, class], rest.get(8..)?].concat())
            }
            _ => None,
        }
    })
}

/// One of each family in each, with every pair of congestion marks, and the ways in which an outer header can be odd;
/// the same in GUE, and with VLAN tags.
fn unwrap() -> Seeds {
    let mut seeds = Seeds::new();
    let inner = [
        ("4", IpProtocol::IPV4, Builder::new("198.51.100.7", "192.0.2.10")),
        ("6", IpProtocol::IPV6, Builder::new("2001:db8:7::7", "2001:db8:1::10")),
    ];
    let outer = [
        ("4", Builder::new("10.0.0.2", "10.0.0.11").payload(0)),
        ("6", Builder::new("2001:db8::2", "2001:db8::11").payload(0)),
    ];
    for (inner_family, protocol, inner) in &inner {
        let stranger = if *inner_family == "4" { "192.0.2.11" } else { "2001:db8:1::11" };
        for (outer_family, outer) in &outer {
            let name = format!("{inner_family}in{outer_family}");
            for (inner_mark, outer_mark) in [(0, 0), (0, 3), (2, 1), (1, 3), (3, 0)] {
                let packet = inner.clone().tos(0xb8 | inner_mark).tcp(40000, 80, 2);
                let frame = outer.clone().tos(outer_mark).ip(*protocol, &packet[14..]);
                seeds.insert(format!("{name}-ecn-{inner_mark}-{outer_mark}"), frame);
            }
            let packet = inner.clone().tcp(40000, 80, 2);
            for (kind, frame) in gue(outer, *protocol, &packet[14..]) {
                seeds.insert(format!("gue-{name}-{kind}"), frame);
            }
            let whole = outer.clone().ip(*protocol, &packet[14..]);
            for tags in 1..=3 {
                let frame = (0..tags).fold(whole.clone(), |frame, _| tagged(frame));
                seeds.insert(format!("{name}-tags-{tags}"), frame);
            }
            let elsewhere =
                Builder { destination: stranger.parse().expect("a literal address"), ..inner.clone() };
            let elsewhere = elsewhere.tcp(40000, 80, 2);
            seeds.insert(format!("{name}-not-vip"), outer.ip(*protocol, &elsewhere[14..]));
            seeds.insert(format!("{name}-cut"), whole[..whole.len() - 9].to_vec());
            if *outer_family == "4" {
                let options = outer.clone().options(&[1; 40]).ip(*protocol, &packet[14..]);
                seeds.insert(format!("{name}-options"), options);
                let mut fragment = whole;
                fragment[20] = 0x20;
                seeds.insert(format!("{name}-fragment"), fragment);
            } else {
                for extension in [0, 43, 44, 60] {
                    let behind = [&[protocol.0, 0, 1, 4, 0, 0, 0, 0], &packet[14..]].concat();
                    let frame = outer.ip(IpProtocol(extension), &behind);
                    seeds.insert(format!("{name}-extension-{extension}"), frame);
                }
            }
        }
    }
    seeds
}

/// An inner packet in GUE: both variants, and what is like them and is not unwrapped.
fn gue(outer: &Builder, protocol: IpProtocol, inner: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let to_port = |port: u16, payload: &[u8]| {
        Builder { payload: payload.to_vec(), ..outer.clone() }.tos(1).udp(51234, port)
    };
    let behind = |header: &[u8]| to_port(6080, &[header, inner].concat());
    let variant1 = behind(&[]);
    let mut frames = vec![
        ("variant-0", behind(&[0, protocol.0, 0, 0])),
        ("control", behind(&[0x20, protocol.0, 0, 0])),
        ("extension", behind(&[1, protocol.0, 0, 0, 0, 0, 0, 0])),
        ("flag", behind(&[0, protocol.0, 0x80, 0])),
        ("empty", to_port(6080, &[])),
        ("other-port", to_port(6081, inner)),
        ("cut", variant1[..variant1.len() - 9].to_vec()),
        ("tagged", tagged(variant1.clone())),
    ];
    if outer.source.is_ipv4() {
        let mut fragment = variant1.clone();
        fragment[20] = 0x20;
        frames.push(("fragment", fragment));
        let longest = Builder { payload: [&[0, protocol.0, 0, 0], inner].concat(), ..outer.clone() };
        frames.push(("longest", longest.options(&[1; 40]).udp(51234, 6080)));
    }
    frames.push(("variant-1", variant1));
    frames
}

/// A frame with one more VLAN tag.
fn tagged(mut frame: Vec<u8>) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0x00, 0x60, 0x05]);
    frame
}

/// First segments from a VIP with options as real stacks send them, and broken ones.
fn mss() -> Seeds {
    let options: [(&str, &[u8]); 11] = [
        ("linux", &[2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7]),
        ("windows", &[2, 4, 0x23, 0x28, 1, 3, 3, 8, 1, 1, 4, 2]),
        ("odd-place", &[1, 2, 4, 0x23, 0x28, 3, 3, 7]),
        ("last", &[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0xff, 0xff]),
        ("last-of-many", &{
            let mut options = [1; 40];
            options[36..].copy_from_slice(&[2, 4, 0x23, 0x28]);
            options
        }),
        ("fits", &[2, 4, 0x02, 0x18]),
        ("none", &[]),
        ("end-first", &[0, 2, 4, 0xff]),
        ("no-length", &[8, 0, 0, 0]),
        ("too-long", &[8, 10, 0, 0]),
        ("short-size", &[2, 3, 0xff, 0]),
    ];
    let mut seeds = Seeds::new();
    for (family, source, client) in
        [("4", "192.0.2.10", "198.51.100.7"), ("6", "2001:db8:1::10", "2001:db8:7::7")]
    {
        for (name, options) in options {
            let mut tcp =
                vec![0, 80, 0x9c, 0x40, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0x12, 0xff, 0xff, 0x12, 0x34, 0, 0];
            tcp.extend(options);
            tcp.resize(tcp.len().next_multiple_of(4), 0);
            tcp[12] = ((tcp.len() / 4) << 4) as u8;
            let ip_options: &[u8] = if name == "last-of-many" { &[1; 40] } else { &[] };
            let packet = Builder::new(source, client).options(ip_options).ip(IpProtocol::TCP, &tcp);
            seeds.insert(format!("ipv{family}-{name}"), packet);
        }
    }
    seeds.insert("not-a-vip".into(), Builder::new("10.0.0.11", "198.51.100.7").tcp(80, 40000, 0x12));
    seeds.insert("not-a-syn".into(), Builder::new("192.0.2.10", "198.51.100.7").tcp(80, 40000, 0x10));
    seeds
}

/// The first packet of each telling fixture, and one of each other kind that the target's maps know.
fn iptunnel(fixtures: &[Fixture]) -> Seeds {
    let with_mtu = |mtu: u16, frame: &[u8]| [&mtu.to_le_bytes(), frame].concat();
    let mut seeds = Seeds::new();
    for (_, fixture) in telling(fixtures) {
        for (number, step) in fixture.steps.iter().take(1).enumerate() {
            seeds.insert(format!("{}-{number}", file_name(&fixture.name)), with_mtu(1500, &step.input));
        }
    }
    for (family, client, vip, other) in [
        ("4", "198.51.100.7", "192.0.2.10", "192.0.2.11"),
        ("6", "2001:db8:7::7", "2001:db8:1::10", "2001:db8:1::11"),
    ] {
        let (to_vip, to_other) = (Builder::new(client, vip), Builder::new(client, other));
        let icmp = if family == "4" { 1 } else { 58 };
        for (name, mtu, frame) in [
            ("udp", 0, to_vip.udp(5353, 53)),
            ("icmp", 1500, to_vip.ip(IpProtocol(icmp), &[8, 0, 0, 0, 0, 1, 0, 1])),
            ("sctp", 1500, to_vip.ip(IpProtocol(132), &[0x9c, 0x40, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0])),
            ("fragment-header", 1500, to_vip.ip(IpProtocol(44), &[6, 0, 0, 1, 0, 0, 0, 1])),
            ("no-next-hop", 1500, to_other.tcp(40000, 80, 2)),
            ("no-family", 1500, to_other.udp(5353, 53)),
            ("does-not-fit", 60, to_vip.tcp(40000, 80, 2)),
        ] {
            seeds.insert(format!("ipv{family}-{name}"), with_mtu(mtu, &frame));
        }
    }
    seeds
}

/// Each key with a value that is not its default.
const NOTHING_BY_DEFAULT: &str = r#"[director]
interfaces = ["eth0"]
xdp_mode = "generic"
flow_table_entries = 8192
ring_slots = 256
hash_key_file = "/é\"\\key"
source_ipv4 = "10.0.0.2"
source_ipv6 = "2001:db8::2"
[[service]]
name = "a.b"
vip = "192.0.2.10"
port = "*"
protocol = "udp"
advertise = "address"
ring_slots = 65536
no_backend = "pass"
idle_timeout = 11
drain = "0s"
[[service.backend]]
name = "one"
address = "2001:db8:1::1"
weight = 65535
mac = "02-00-00-00-00-0A"
via = "fe80::1"
[[service.backend]]
address = "10.0.0.11"
weight = 0
"#;

/// The reference's examples and the files whose errors are tested.
fn config(root: &Path) -> io::Result<Seeds> {
    let mut seeds = Seeds::new();
    let reference = fs::read_to_string(root.join("docs/src/config.md"))?;
    for (number, block) in reference.split("```toml\n").skip(1).enumerate() {
        let text = block.split("```").next().unwrap_or_default();
        seeds.insert(format!("reference-{number}"), text.into());
    }
    for entry in root.join("crates/weir-config/tests/bad").read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            seeds.insert(format!("bad-{name}"), fs::read(&path)?);
        }
    }
    for (name, text) in [
        ("nothing-by-default", NOTHING_BY_DEFAULT),
        ("byte-order-mark", "\u{feff}[director]\ninterfaces = [\"eth0\"]\n"),
        ("crlf", "[director]\r\ninterfaces = [\"eth0\"]\r\n# é\r\n[[service]]\r\nvip = 1979-05-27\r\n"),
        (
            "inline",
            "director = { interfaces = ['a'], xdp_mode = 'generic' }\nservice = [{ vip = '::1', port = 0x50 }]\n",
        ),
        ("multiline", "director.interfaces = [\"\"\"\n\\u00e9\"\"\", '''a''']\nservice = []\n"),
    ] {
        seeds.insert(name.into(), text.into());
    }
    Ok(seeds)
}

fn hash_key() -> Seeds {
    [
        ("right", " 000102030405060708090A0b0c0d0e0f\n".to_owned()),
        ("empty", String::new()),
        ("long", "a".repeat(33)),
        ("zero", "0".repeat(32)),
        ("not-hex", "000102030405060708090a0b0c0d0e0g".to_owned()),
        ("not-ascii", "é".repeat(32)),
        ("wide-digits", "\u{ff10}".repeat(32)),
        ("wide-space", format!("\u{2003}{}\u{85}", "7f".repeat(16))),
    ]
    .map(|(name, text)| (name.to_owned(), text.into_bytes()))
    .into()
}
