//! A configuration as a file that leaves nothing unsaid.
//!
//! Owns: the way back. Invariant: `parse` of what is written here equals what it was written from.

use std::fmt::{self, Write as _};

use crate::model::{Config, RingSlots, Service};
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
    writeln!(out, "xdp_mode = \"{}\"", director.xdp_mode)?;
    writeln!(out, "flow_table_entries = {}", director.flow_table_entries)?;
    writeln!(out, "ring_slots = {}", number(director.ring_slots))?;
    // A path is made from a string in the file, so this loses nothing.
    match director.hash_key_file.as_ref().map(|path| path.to_string_lossy()) {
        Some(path) => writeln!(out, "hash_key_file = {}", quoted(&path))?,
        None => writeln!(out, "# hash_key_file: none, the key is random")?,
    }
    match director.source_ipv4 {
        Some(source) => writeln!(out, "source_ipv4 = \"{source}\"")?,
        None => writeln!(out, "# source_ipv4: as the route prefers")?,
    }
    match director.source_ipv6 {
        Some(source) => writeln!(out, "source_ipv6 = \"{source}\"")?,
        None => writeln!(out, "# source_ipv6: as the route prefers")?,
    }
    config.services.iter().try_for_each(|service| write_service(service, out))
}

fn write_service(service: &Service, out: &mut String) -> fmt::Result {
    writeln!(out, "\n[[service]]")?;
    writeln!(out, "name = {}", quoted(&service.name))?;
    writeln!(out, "vip = \"{}\"", service.key.vip)?;
    match service.key.port {
        0 => writeln!(out, "port = \"*\"")?,
        port => writeln!(out, "port = {port}")?,
    }
    writeln!(out, "protocol = \"{}\"", service.key.protocol)?;
    writeln!(out, "advertise = \"{}\"", service.advertise)?;
    writeln!(out, "encapsulation = \"{}\"", service.encapsulation)?;
    writeln!(out, "scheduler = \"{}\"", service.scheduler)?;
    writeln!(out, "ring_slots = {}", number(service.ring_slots))?;
    writeln!(out, "no_backend = \"{}\"", service.no_backend)?;
    writeln!(out, "idle_timeout = \"{}\"", duration_text(service.idle_timeout))?;
    writeln!(out, "drain = \"{}\"", duration_text(service.drain))?;
    for backend in &service.backends {
        writeln!(out, "\n[[service.backend]]")?;
        writeln!(out, "address = \"{}\"", backend.address)?;
        writeln!(out, "name = {}", quoted(&backend.name))?;
        writeln!(out, "weight = {}", backend.weight)?;
        if let Some(mac) = backend.mac {
            writeln!(out, "mac = \"{}\"", mac.map(|byte| format!("{byte:02x}")).join(":"))?;
        }
        if let Some(via) = backend.via {
            writeln!(out, "via = \"{via}\"")?;
        }
    }
    Ok(())
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
