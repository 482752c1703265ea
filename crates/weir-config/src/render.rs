//! A configuration as a file that leaves nothing unsaid.
//!
//! Owns: the way back. Invariant: `parse` of what is written here equals what it was written from.

use std::fmt::{self, Write as _};

use crate::model::{Backend, Config, ProgramArray, RingSlots, ServerIds, Service};
use crate::prefix::Prefix;
use crate::value::duration_text;

/// The whole configuration in the file's own syntax, defaults written out.
pub fn effective_toml(config: &Config) -> String {
    let mut out = String::new();
    write(config, &mut out).expect("a String takes everything");
    out
}

fn write(config: &Config, out: &mut String) -> fmt::Result {
    let director = &config.director;
    let interfaces: Vec<String> = director.interfaces.iter().map(|name| quoted(name.as_str())).collect();
    writeln!(out, "[director]")?;
    writeln!(out, "interfaces = [{}]", interfaces.join(", "))?;
    match &director.program_array {
        Some(ProgramArray { path, position, next }) => {
            writeln!(out, "program_array = {}", quoted(&path.to_string_lossy()))?;
            writeln!(out, "program_position = {position}")?;
            if let Some(next) = next {
                writeln!(out, "next_position = {next}")?;
            }
        }
        None => writeln!(out, "xdp_mode = \"{}\"", director.xdp_mode)?,
    }
    writeln!(out, "flow_table_entries = {}", director.flow_table_entries)?;
    writeln!(out, "ring_slots = {}", number(director.ring_slots))?;
    // A path is made from a string in the file, so this loses nothing.
    match director.hash_key_file.as_ref().map(|path| path.to_string_lossy()) {
        Some(path) => writeln!(out, "hash_key_file = {}", quoted(&path))?,
        None => writeln!(out, "# hash_key_file: none, the key is random")?,
    }
    match director.source_ipv4.map(Prefix::from) {
        Some(source) => writeln!(out, "source_ipv4 = \"{source}\"")?,
        None => writeln!(out, "# source_ipv4: as the route prefers")?,
    }
    match director.source_ipv6.map(Prefix::from) {
        Some(source) => writeln!(out, "source_ipv6 = \"{source}\"")?,
        None => writeln!(out, "# source_ipv6: as the route prefers")?,
    }
    writeln!(out, "gue_port = {}", director.gue_port)?;
    writeln!(out, "gue_ipv6_checksum = \"{}\"", director.gue_ipv6_checksum)?;
    writeln!(out, "answer_ping = {}", director.answer_ping)?;
    writeln!(out, "send_too_big = {}", director.send_too_big)?;
    writeln!(out, "icmp_rate = {}", director.icmp_rate)?;
    writeln!(out, "decapsulate = {}", list(&director.decapsulate))?;
    writeln!(out, "fragment_table_entries = {}", director.fragment_table_entries)?;
    config.services.iter().try_for_each(|service| write_service(service, out))
}

fn write_service(service: &Service, out: &mut String) -> fmt::Result {
    writeln!(out, "\n[[service]]")?;
    writeln!(out, "name = {}", quoted(&service.name))?;
    writeln!(out, "vip = \"{}\"", service.key.vips())?;
    match service.key.port {
        0 => writeln!(out, "port = \"*\"")?,
        port => writeln!(out, "port = {port}")?,
    }
    writeln!(out, "protocol = \"{}\"", service.key.protocol)?;
    writeln!(out, "advertise = \"{}\"", service.advertise)?;
    writeln!(out, "encapsulation = \"{}\"", service.encapsulation)?;
    writeln!(out, "scheduler = \"{}\"", service.scheduler)?;
    writeln!(out, "hash = \"{}\"", service.hash)?;
    if let Some(bits) = service.source_prefix {
        writeln!(out, "source_prefix = {bits}")?;
    }
    writeln!(out, "persistence = {}", service.persistence)?;
    writeln!(out, "tracking = \"{}\"", service.tracking)?;
    writeln!(out, "new_flow_budget = {}", service.new_flow_budget.unwrap_or(0))?;
    writeln!(out, "server_ids = \"{}\"", service.server_ids.scheme())?;
    if let ServerIds::QuicLb { rotation, id_length } = service.server_ids {
        writeln!(out, "quic_lb_rotation = {rotation}\nquic_lb_id_length = {id_length}")?;
    }
    writeln!(out, "allow = {}", list(&service.allow))?;
    writeln!(out, "deny = {}", list(&service.deny))?;
    match service.sources_file.as_ref().map(|path| path.to_string_lossy()) {
        Some(path) => writeln!(out, "sources_file = {}", quoted(&path))?,
        None => writeln!(out, "# sources_file: none")?,
    }
    writeln!(out, "ring_slots = {}", number(service.ring_slots))?;
    writeln!(out, "no_backend = \"{}\"", service.no_backend)?;
    writeln!(out, "idle_timeout = \"{}\"", duration_text(service.idle_timeout))?;
    writeln!(out, "drain = \"{}\"", duration_text(service.drain))?;
    service.backends.iter().try_for_each(|backend| write_backend(backend, out))
}

fn write_backend(backend: &Backend, out: &mut String) -> fmt::Result {
    writeln!(out, "\n[[service.backend]]")?;
    writeln!(out, "address = \"{}\"", backend.address)?;
    writeln!(out, "name = {}", quoted(&backend.name))?;
    writeln!(out, "weight = {}", backend.weight)?;
    if !backend.local {
        writeln!(out, "encapsulation = \"{}\"", backend.encapsulation)?;
    }
    writeln!(out, "state = \"{}\"", backend.state)?;
    if !backend.server_ids.is_empty() {
        let ids: Vec<String> = backend.server_ids.iter().map(u32::to_string).collect();
        writeln!(out, "server_ids = [{}]", ids.join(", "))?;
    }
    if !backend.sources.is_empty() {
        writeln!(out, "sources = {}", list(&backend.sources))?;
    }
    if let Some(mac) = backend.mac {
        writeln!(out, "mac = \"{}\"", mac.map(|byte| format!("{byte:02x}")).join(":"))?;
    }
    if let Some(via) = backend.via {
        writeln!(out, "via = \"{via}\"")?;
    }
    if let Some(vlan) = backend.vlan {
        writeln!(out, "vlan = {vlan}")?;
    }
    writeln!(out, "local = {}", backend.local)
}

/// Addresses or prefixes as TOML writes them.
fn list(elements: &[impl fmt::Display]) -> String {
    let elements: Vec<String> = elements.iter().map(|element| format!("\"{element}\"")).collect();
    format!("[{}]", elements.join(", "))
}

fn number(slots: RingSlots) -> u32 {
    match slots {
        RingSlots::Automatic => 0,
        RingSlots::Exactly(slots) => slots,
    }
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
