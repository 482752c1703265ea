//! What a configuration says about the director itself, checked against the machine.
//!
//! Owns: interfaces' existence, the hash key's file, table sizes, what can be changed while running. May not touch:
//! services.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use weir_abi::RingSlot;
use weir_config::{Config, InterfaceName, Service, XdpMode};
use weir_kernel::bpf::{Director, Options, Sizes, XdpRequest};
use weir_kernel::net::Rtnl;
use weir_plan::ring_size;

use super::array;
use crate::advice::Advise as _;

/// An interface to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) ifindex: u32,
}

/// The configured interfaces as the machine has them.
pub(super) fn interfaces(rtnl: &Rtnl, config: &Config) -> anyhow::Result<Vec<Interface>> {
    let links = rtnl.links()?;
    let find = |name: &InterfaceName| {
        if let Some(link) = links.iter().find(|link| link.name == name.as_str()) {
            return Ok(Interface { name: link.name.clone(), ifindex: link.index });
        }
        let there: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        Err(anyhow!("cannot use interface {name}: there is no such interface"))
            .advise(suggestion(name.as_str(), &there))
    };
    config.director.interfaces.iter().map(find).collect()
}

/// The interfaces to attach to: all, or none where a root program calls the director.
pub(super) fn attachments(rtnl: &Rtnl, config: &Config) -> anyhow::Result<Vec<Interface>> {
    if config.director.program_array.is_some() { Ok(Vec::new()) } else { interfaces(rtnl, config) }
}

fn suggestion(name: &str, there: &[&str]) -> String {
    let nearest = there.iter().max_by(|a, b| strsim::jaro(name, a).total_cmp(&strsim::jaro(name, b)));
    match nearest {
        Some(nearest) if strsim::jaro(name, nearest) > 0.75 => {
            format!(
                "did you mean {nearest}? Correct `interfaces` in [director]; there are: {}",
                there.join(", ")
            )
        }
        _ => format!("correct `interfaces` in [director]; there are: {}", there.join(", ")),
    }
}

/// How to attach.
pub(super) fn request(config: &Config) -> XdpRequest {
    match config.director.xdp_mode {
        XdpMode::Auto => XdpRequest::Auto,
        XdpMode::Native => XdpRequest::Native,
        XdpMode::Generic => XdpRequest::Generic,
    }
}

/// What the tables are made with.
pub(super) fn options(config: &Config) -> anyhow::Result<Options> {
    let hash_key = config.director.hash_key_file.as_deref().map(read_hash_key).transpose()?;
    Ok(Options { sizes: sizes(config), hash_key })
}

/// Table sizes with room for the configuration to double before a restart is needed, never below the defaults.
fn sizes(config: &Config) -> Sizes {
    let least = Sizes::default();
    let vips: BTreeSet<_> = config.services.iter().map(|service| service.key.vips()).collect();
    // Each half of the service table at most a quarter full, so that short probe sequences are easily found. An address to
    // unwrap for takes three places.
    let half = 4 * (config.services.len() + vips.len() + 3 * config.director.decapsulate.len());
    let backends: usize = config.services.iter().map(|service| service.backends.len()).sum();
    // The rings in force; as much again is needed to build the next ones in.
    let slots: u64 = config.services.iter().map(|service| u64::from(ring_size(service).slots())).sum();
    let ids = |service: &Service| service.backends.iter().map(|b| b.server_ids.len()).sum::<usize>();
    let servers: usize =
        config.services.iter().map(|service| ids(service) + service.sources.targets().len()).sum();
    let room = |wanted: u64, least: u32| wanted.next_power_of_two().clamp(u64::from(least), 1 << 31) as u32;
    let lookup = |wanted: usize, least: u32| (2 * wanted as u64).clamp(u64::from(least), 1 << 31) as u32;
    Sizes {
        services: room(2 * 2 * half as u64, least.services),
        ring_slots: room(2 * 2 * slots, least.ring_slots),
        backends: room(2 * (backends as u64 + 1), least.backends).min(1 << RingSlot::BACKEND_BITS),
        flow_buckets: config.director.flow_table_entries / weir_abi::FLOWS_PER_BUCKET as u32,
        fragment_buckets: config.director.fragment_table_entries / weir_abi::FLOWS_PER_BUCKET as u32,
        servers: lookup(servers, least.servers),
        // A list that changes is there twice for a moment.
        sources: lookup(prefixes_of_clients(&[config]), least.sources),
        prefixes: lookup(vips.iter().filter(|vip| !vip.is_single()).count(), least.prefixes),
    }
}

/// How many prefixes there are in the lists of these configurations; each list counts once.
fn prefixes_of_clients(configs: &[&Config]) -> usize {
    let services = configs.iter().flat_map(|config| &config.services);
    let lists: BTreeMap<u64, usize> =
        services.map(|service| (service.sources.fingerprint(), service.sources.len())).collect();
    lists.values().sum()
}

fn read_hash_key(path: &Path) -> anyhow::Result<[u64; 2]> {
    let doing = || format!("cannot read the hash key from {}", path.display());
    let metadata = fs::metadata(path)
        .with_context(doing)
        .advise("make it by `(umask 077; od -An -N16 -tx1 /dev/urandom | tr -d ' ' > FILE)`")?;
    if metadata.permissions().mode() & 0o004 != 0 {
        return Err(anyhow!("everyone can read it, and it is a secret").context(doing()))
            .advise(format!("chmod 600 {}", path.display()));
    }
    let text = fs::read_to_string(path).with_context(doing).advise("give a text file of 32 hex digits")?;
    let key = weir_config::parse_hash_key(&text).map_err(|error| {
        let text = error.to_string();
        let (cause, advice) = crate::advice::split(&text, "\n  help: ");
        let error = Err::<(), _>(anyhow!("{}: {cause}", doing()));
        error.advise(advice.unwrap_or("give 32 hex digits")).expect_err("it is an error")
    })?;
    let (words, _) = key.as_chunks::<8>();
    Ok([u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])])
}

/// Refuses what takes a restart: the programs in place cannot be changed that far.
pub(super) fn refuse_what_needs_a_restart(
    director: &Director,
    old: &Config,
    new: &Config,
) -> anyhow::Result<()> {
    const RESTART: &str = "put the old value back, or stop weir and start it again";
    let changed = |what: &str, from: &str, to: &str| {
        let error = anyhow!("cannot change {what} from {from} to {to} while the director runs");
        Err::<(), _>(error).advise(RESTART)
    };
    let (was, is) = (&old.director, &new.director);
    if was.xdp_mode != is.xdp_mode {
        changed("`xdp_mode`", was.xdp_mode.as_str(), is.xdp_mode.as_str())?;
    }
    if was.program_array != is.program_array {
        let [from, to] = [was, is].map(|director| array::describe(director.program_array.as_ref()));
        changed("the program array", &from, &to)?;
    }
    if was.flow_table_entries != is.flow_table_entries {
        let (from, to) = (was.flow_table_entries.to_string(), is.flow_table_entries.to_string());
        changed("`flow_table_entries`", &from, &to)?;
    }
    if was.fragment_table_entries != is.fragment_table_entries {
        let (from, to) = (was.fragment_table_entries.to_string(), is.fragment_table_entries.to_string());
        changed("`fragment_table_entries`", &from, &to)?;
    }
    let (prefixes, room) = (prefixes_of_clients(&[old, new]), director.sources().capacity());
    if prefixes > room as usize {
        let of_new = prefixes_of_clients(&[new]);
        let problem = anyhow!(
            "cannot take {of_new} prefixes of clients while the director runs: with those in use until then there are \
             {prefixes}, and the table has room for {room}"
        );
        return Err(problem)
            .advise("stop weir and start it again: it makes room for twice as many as there are");
    }
    let in_use = director.control().record(0).map(|record| weir_abi::Control(record).hash_key());
    let wanted = options(new)?.hash_key;
    if wanted.is_some() && wanted != in_use {
        return Err(anyhow!("cannot change the hash key while the director runs: every flow would move"))
            .advise(RESTART);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_room_for_twice_what_is_configured() {
        let config = |text: &str| weir_config::parse("", text).expect("valid");
        let small = sizes(&config("director = { interfaces = [\"eth0\"], fragment_table_entries = 64 }"));
        assert_eq!(small, Sizes { flow_buckets: 1 << 17, fragment_buckets: 8, ..Sizes::default() });

        let list = |count: usize, of: fn(usize) -> String| {
            (0..count).map(|n| format!("\"{}\"", of(n))).collect::<Vec<_>>().join(", ")
        };
        let clients = list(2100, |n| format!("198.18.{}.{}", n / 256, n % 256));
        let ids = (0..8300).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        let service = |vip: &str| {
            format!(
                "[[service]]\nvip = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\nserver_ids = \"tcp-option\"\n\
                 deny = [{clients}]\nbackend = [{{ address = \"10.0.0.1\", server_ids = [{ids}],\n\
                 sources = [\"203.0.113.1\"] }}]\n"
            )
        };
        let head = "[director]\ninterfaces = [\"eth0\"]\n";
        let large = sizes(&config(&format!("{head}{}{}", service("192.0.2.1"), service("192.0.2.2"))));
        assert_eq!((large.servers, large.sources), (2 * 2 * 8301, 2 * 2101), "equal lists count once");
        let prefixes: String = (0..2100)
            .map(|n| {
                format!(
                    "[[service]]\nvip = \"10.{}.{}.0/24\"\nport = 80\nprotocol = \"tcp\"\n",
                    n / 256,
                    n % 256
                )
            })
            .collect::<Vec<_>>()
            .concat();
        let many = sizes(&config(&format!("{head}{prefixes}")));
        assert_eq!((many.prefixes, many.services), (4200, 1 << 17));
    }

    #[test]
    fn a_misspelt_interface_is_recognised() {
        let text = suggestion("etho", &["lo", "eth0", "wlan0"]);
        assert!(text.starts_with("did you mean eth0? "), "{text}");
        assert!(suggestion("zzz", &["lo", "eth0"]).starts_with("correct `interfaces`"));
    }
}
