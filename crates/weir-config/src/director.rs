//! The section `[director]`.
//!
//! Owns: its keys and defaults. May not touch: services.

use toml::Spanned;
use toml::de::DeValue;

use crate::diagnostic::Report;
use crate::model::{Director, InterfaceName, RingSlots, XdpMode};
use crate::section::{Key, Kind, Section, Wrong};
use crate::value;

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
        Key::new("flow_table_entries", "1048576").alias(&["flow_table", "flow_entries", "flows", "lru_size"]),
        Key::new("ring_slots", "65536").alias(&["ring", "ring_size"]),
        Key::new("hash_key_file", "\"/etc/weir/key\"").alias(&["hash_key", "key_file", "key"]),
        Key::new("source_ipv4", "\"10.0.0.2\"").alias(&["source", "src", "source_v4"]),
        Key::new("source_ipv6", "\"2001:db8::2\"").alias(&["source_v6"]),
    ],
};

/// Entries of the flow table unless said otherwise: 8 MiB of memory.
const FLOW_TABLE_ENTRIES: u32 = 1 << 20;

const MAX_INTERFACES: usize = 16;

/// `None` if anything in it was wrong.
pub(crate) fn read(section: &Section<'_>, report: &mut Report<'_>) -> Option<Director> {
    let interfaces = interfaces(section, report);
    let xdp_mode = section.read(report, "xdp_mode", |v| value::word(v, XdpMode::WORDS)).or(XdpMode::Auto);
    let flow_table_entries =
        section.read(report, "flow_table_entries", value::flow_table_entries).or(FLOW_TABLE_ENTRIES);
    let ring_slots = section.read(report, "ring_slots", value::ring_slots).or(RingSlots::Automatic);
    let hash_key_file = section.read(report, "hash_key_file", value::absolute_path).optional();
    let source_ipv4 = section.read(report, "source_ipv4", value::ipv4).optional();
    let source_ipv6 = section.read(report, "source_ipv6", value::ipv6).optional();
    Some(Director {
        interfaces: interfaces?,
        xdp_mode: xdp_mode?,
        flow_table_entries: flow_table_entries?,
        ring_slots: ring_slots?,
        hash_key_file: hash_key_file.ok()?,
        source_ipv4: source_ipv4.ok()?,
        source_ipv6: source_ipv6.ok()?,
    })
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
