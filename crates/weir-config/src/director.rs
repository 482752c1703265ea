//! The section `[director]`.
//!
//! Owns: its keys and defaults. May not touch: services.

use std::net::IpAddr;

use toml::Spanned;
use toml::de::DeValue;

use crate::diagnostic::{Report, Span};
use crate::model::{Director, InterfaceName, RingSlots};
use crate::section::{Key, Kind, Located, Section, Wrong};
use crate::words::{GueChecksum, XdpMode};
use crate::{address, program_array, value};

pub(crate) const KIND: Kind = Kind {
    title: "[director]",
    keys: &[
        Key::new("interfaces", "[\"eth0\"]").alias(&[
            "interface",
            "devices",
            "device",
            "dev",
            "iface",
            "nic",
        ]),
        Key::new("xdp_mode", "\"auto\"").alias(&["mode", "xdp"]),
        Key::new("program_array", "\"/sys/fs/bpf/jmp_root\"").alias(&["map_path", "root_map", "jmp_root"]),
        Key::new("program_position", "2").alias(&["prog_pos", "program_pos", "position"]),
        Key::new("next_position", "3").alias(&["next", "next_pos"]),
        Key::new("flow_table_entries", "1048576").alias(&["flow_table", "flow_entries", "flows", "lru_size"]),
        Key::new("ring_slots", "65536").alias(&["ring", "ring_size"]),
        Key::new("hash_key_file", "\"/etc/weir/key\"").alias(&["hash_key", "key_file", "key"]),
        Key::new("source_ipv4", "\"10.0.0.2\"").alias(&["source", "src", "source_v4"]),
        Key::new("source_ipv6", "\"2001:db8::2\"").alias(&["source_v6"]),
        Key::new("gue_port", "6080").alias(&["gue", "gue_dport", "fou_port", "encap_port"]),
        Key::new("gue_ipv6_checksum", "\"computed\"").alias(&[
            "gue_checksum",
            "udp_checksum",
            "udp6_checksum",
        ]),
        Key::new("answer_ping", "true").alias(&["ping", "icmp_echo", "answer_echo", "echo"]),
        Key::new("send_too_big", "true").alias(&["too_big", "icmp_too_big", "pmtu", "frag_needed"]),
        Key::new("icmp_rate", "1000").alias(&["icmp_limit", "icmp_ratelimit", "icmp_msgs_per_sec"]),
        Key::new("decapsulate", "[\"10.0.0.2\"]").alias(&["decap", "inline_decap", "decap_dst", "unwrap"]),
        Key::new("fragment_table_entries", "32768").alias(&[
            "fragment_table",
            "fragments",
            "fragment_entries",
        ]),
    ],
};

/// Entries of the flow table unless said otherwise: 8 MiB of memory.
const FLOW_TABLE_ENTRIES: u32 = 1 << 20;

const MAX_INTERFACES: usize = 16;

/// The port that IANA keeps for GUE.
const GUE_PORT: u16 = 6080;

/// ICMP errors a second and CPU unless said otherwise: what Linux allows a whole machine.
const ICMP_RATE: u32 = 1000;
const MAX_ICMP_RATE: u32 = 1_000_000;

const MAX_DECAPSULATE: usize = 64;

/// Fragmented packets followed at once unless said otherwise.
const FRAGMENT_TABLE_ENTRIES: u32 = 1 << 15;

/// `None` if anything in it was wrong.
pub(crate) fn read(section: &Section<'_>, report: &mut Report<'_>) -> Option<(Director, Places)> {
    let interfaces = interfaces(section, report);
    let xdp_mode = section.read(report, "xdp_mode", value::word);
    let program_array = program_array::read(section, &xdp_mode, report);
    let flow_table_entries =
        section.read(report, "flow_table_entries", value::flow_table_entries).or(FLOW_TABLE_ENTRIES);
    let ring_slots = section.read(report, "ring_slots", value::ring_slots).or(RingSlots::Automatic);
    let hash_key_file = section.read(report, "hash_key_file", value::absolute_path).optional();
    let source_ipv4 = section.read(report, "source_ipv4", address::source_ipv4);
    let source_ipv6 = section.read(report, "source_ipv6", address::source_ipv6);
    let gue_port = section.read(report, "gue_port", |v| value::integer(v, 1..=65535)).or(GUE_PORT.into());
    let gue_ipv6_checksum = section.read(report, "gue_ipv6_checksum", value::word).or(GueChecksum::Computed);
    let answer_ping = section.read(report, "answer_ping", value::boolean).or(true);
    let send_too_big = section.read(report, "send_too_big", value::boolean).or(true);
    let icmp_rate = section.read(report, "icmp_rate", |v| value::integer(v, 0..=MAX_ICMP_RATE)).or(ICMP_RATE);
    let decapsulate = decapsulate(section, report);
    let fragment_table_entries = section
        .read(report, "fragment_table_entries", value::fragment_table_entries)
        .or(FRAGMENT_TABLE_ENTRIES);
    let places = Places {
        source_ipv4: source_ipv4.given().map(|given| given.span.clone()),
        source_ipv6: source_ipv6.given().map(|given| given.span.clone()),
        decapsulate: decapsulate.iter().flatten().map(|address| address.span.clone()).collect(),
    };
    let director = Director {
        interfaces: interfaces?,
        xdp_mode: xdp_mode.or(XdpMode::Auto)?,
        program_array: program_array.ok()?,
        flow_table_entries: flow_table_entries?,
        ring_slots: ring_slots?,
        hash_key_file: hash_key_file.ok()?,
        source_ipv4: source_ipv4.optional().ok()?,
        source_ipv6: source_ipv6.optional().ok()?,
        gue_port: gue_port? as u16,
        gue_ipv6_checksum: gue_ipv6_checksum?,
        answer_ping: answer_ping?,
        send_too_big: send_too_big?,
        icmp_rate: icmp_rate?,
        decapsulate: decapsulate?.into_iter().map(|address| address.value).collect(),
        fragment_table_entries: fragment_table_entries?,
    };
    Some((director, places))
}

/// Where those of its values stand that must fit the services.
pub(crate) struct Places {
    pub(crate) source_ipv4: Option<Span>,
    pub(crate) source_ipv6: Option<Span>,
    /// Of each address, in order.
    pub(crate) decapsulate: Vec<Span>,
}

fn decapsulate(section: &Section<'_>, report: &mut Report<'_>) -> Option<Vec<Located<IpAddr>>> {
    const NAME: &str = "decapsulate";
    let addresses = section.read_each(report, NAME, address::address)?;
    if let Some(first_too_many) = addresses.get(MAX_DECAPSULATE) {
        let what = format!("names {} addresses, more than {MAX_DECAPSULATE}", addresses.len());
        let wrong = Wrong::new(what).help("one address, or one of each family, serves every sender");
        section.wrong(report, NAME, &first_too_many.span, wrong);
        return None;
    }
    let mut all_right = true;
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].iter().any(|earlier| earlier.value == address.value) {
            let wrong = Wrong::new(format!("names {} twice", address.value)).help("name each address once");
            section.wrong(report, NAME, &address.span, wrong);
            all_right = false;
        }
    }
    all_right.then_some(addresses)
}

fn interfaces(section: &Section<'_>, report: &mut Report<'_>) -> Option<Vec<InterfaceName>> {
    const NAME: &str = "interfaces";
    let elements = section.require(report, NAME, |value| {
        let DeValue::Array(array) = value else { return Err(Wrong::type_of(value, "an array of strings")) };
        if array.is_empty() {
            return Err(Wrong::new("must name an interface at least"));
        }
        if array.len() > MAX_INTERFACES {
            let help = "one director serves up to 16; a bond or a VLAN trunk counts once";
            return Err(Wrong::new(format!("names {} interfaces, more than {MAX_INTERFACES}", array.len()))
                .help(help));
        }
        Ok(array.iter().collect::<Vec<&Spanned<DeValue<'_>>>>())
    })?;
    let mut interfaces = Vec::new();
    let mut all_right = true;
    for element in elements.value {
        let wrong = match value::interface(element.get_ref()) {
            Ok(interface) if interfaces.contains(&interface) => {
                Wrong::new(format!("names {interface} twice")).help("name each interface once")
            }
            Ok(interface) => {
                interfaces.push(interface);
                continue;
            }
            Err(wrong) => wrong,
        };
        section.wrong(report, NAME, &element.span(), wrong);
        all_right = false;
    }
    all_right.then_some(interfaces)
}
