//! The sections `[[service.backend]]`.
//!
//! Owns: their keys and defaults, and what the backends of one service may not have in common.

use std::collections::HashMap;
use std::net::IpAddr;

use toml::de::DeValue;

use crate::diagnostic::{Report, Span};
use crate::model::{Backend, ServerIds};
use crate::prefix::Prefix;
use crate::section::{Field, Key, Kind, Located, Reported, Section, Wrong};
use crate::sources::{SourceAction, SourceList};
use crate::words::{Encapsulation, State};
use crate::{address, value};

pub(crate) const KIND: Kind = Kind {
    title: "[[service.backend]]",
    keys: &[
        Key::new("address", "\"10.0.0.11\"").alias(&["ip", "addr", "host", "server", "real"]),
        Key::new("name", "\"rs1\""),
        Key::new("weight", "1"),
        Key::new("encapsulation", "\"gue\"").alias(&["encap", "forward", "tunnel", "lb_kind", "lvs_method"]),
        Key::new("state", "\"up\"").alias(&["status", "admin_state", "enabled", "disabled", "down"]),
        Key::new("server_id", "1").alias(&["id", "quic_id", "cid", "tpr_id"]),
        Key::new("server_ids", "[1, 2]").alias(&["ids", "quic_ids"]),
        Key::new("sources", "[\"198.51.100.0/24\"]").alias(&["source", "src", "clients", "src_routing"]),
        Key::new("mac", "\"02:00:00:00:00:01\"").alias(&["lladdr", "hwaddr", "mac_address"]),
        Key::new("via", "\"10.0.0.1\"").alias(&["gateway", "next_hop", "nexthop", "router"]),
        Key::new("vlan", "100").alias(&["vlan_id", "vid", "tag"]),
        Key::new("local", "false").alias(&["local_vip", "localnode", "local_node", "localhost"]),
    ],
};

/// What a backend must fit of its service.
pub(crate) struct Around {
    pub(crate) vip: Option<Prefix>,
    pub(crate) encapsulation: Option<Encapsulation>,
    pub(crate) server_ids: Option<ServerIds>,
}

impl Around {
    /// The VIP, if it is one address.
    fn one_vip(&self) -> Option<IpAddr> {
        self.vip.filter(Prefix::is_single).map(|vip| vip.network)
    }
}

/// What the backends of a service have taken so far.
#[derive(Default)]
struct Taken {
    addresses: HashMap<IpAddr, Span>,
    names: HashMap<String, Span>,
    server_ids: HashMap<u32, Span>,
}

/// Each backend of one service, at its address, in the file's order; `None` for one in which something is wrong.
pub(crate) fn read_all(
    sections: &[Section<'_>],
    around: &Around,
    clients: &mut SourceList,
    report: &mut Report<'_>,
) -> Vec<Option<Located<Backend>>> {
    let mut taken = Taken::default();
    sections
        .iter()
        .enumerate()
        .map(|(index, section)| {
            let read = read(section, around, report);
            for prefix in &read.sources {
                clients.add(prefix.value, SourceAction::Backend(index), &prefix.span, report);
            }
            let (address, name) = (read.address?, read.name?);
            if let Some(first) = taken.addresses.get(&address.value) {
                let line = report.position(first).line;
                let message = format!("backend {} is in this service already, on line {line}", address.value);
                report.error(
                    &address.span,
                    message,
                    "remove one of the two; `weight` gives a backend more flows",
                );
                return None;
            }
            taken.addresses.insert(address.value, address.span.clone());
            if let Some(first) = taken.names.get(&name.value) {
                let line = report.position(first).line;
                let message = format!("the backend name \"{}\" is taken on line {line}", name.value);
                report.error(
                    &name.span,
                    message,
                    "give each backend of a service a `name` of its own, or none",
                );
                return None;
            }
            taken.names.insert(name.value, name.span);
            for id in read.server_ids {
                if let Some(first) = taken.server_ids.get(&id.value) {
                    let line = report.position(first).line;
                    let message = format!("server id {} is taken on line {line}", id.value);
                    report.error(&id.span, message, "give each backend of a service ids of its own");
                }
                taken.server_ids.insert(id.value, id.span);
            }
            Some(Located { span: address.span, value: read.backend? })
        })
        .collect()
}

/// What is right in a section.
struct Read {
    address: Option<Located<IpAddr>>,
    name: Option<Located<String>>,
    server_ids: Vec<Located<u32>>,
    sources: Vec<Located<Prefix>>,
    /// If all of it is.
    backend: Option<Backend>,
}

fn read(section: &Section<'_>, around: &Around, report: &mut Report<'_>) -> Read {
    let address = section.require(report, "address", address::address);
    let name = section.read(report, "name", value::name);
    let weight = section.read(report, "weight", value::weight).or(1);
    let encapsulation = section.read(report, "encapsulation", value::word);
    let state = section.read(report, "state", value::word).or(State::Up);
    let server_ids = server_ids(section, around.server_ids, report);
    let vip = around.vip.map(|vip| vip.network);
    let sources = section.read_each(report, "sources", |v| address::clients(v, vip));
    let mac = section.read(report, "mac", value::mac);
    let via = section.read(report, "via", address::next_hop);
    let vlan = section.read(report, "vlan", |v| value::integer(v, 1..=4094));
    let local = section.read(report, "local", value::boolean).or(false);

    let name = match name {
        Field::Given(name) => Some(name),
        Field::Absent => address
            .as_ref()
            .map(|address| Located { span: address.span.clone(), value: address.value.to_string() }),
        Field::Wrong => None,
    };
    if local == Some(true) {
        let stays = [
            ("encapsulation", encapsulation.given().map(|given| &given.span)),
            ("mac", mac.given().map(|given| &given.span)),
            ("via", via.given().map(|given| &given.span)),
            ("vlan", vlan.given().map(|given| &given.span)),
        ];
        for (key, span) in stays.into_iter().filter_map(|(key, span)| Some((key, span?))) {
            let wrong = Wrong::new("has no effect with `local = true`: packets do not leave this machine");
            section.wrong(report, key, span, wrong.help("remove one of the two"));
        }
    }
    let encapsulation = match encapsulation {
        Field::Absent => around.encapsulation,
        given => given.optional().ok().flatten(),
    };
    let (mac, vlan) = (mac.optional(), vlan.optional());
    let mut fits = true;
    let via = match (via, &address) {
        (Field::Given(via), Some(address)) => match wrong_via(via.value, address.value, around) {
            Some(wrong) => {
                section.wrong(report, "via", &via.span, wrong);
                Err(Reported)
            }
            None => Ok(Some(via.value)),
        },
        (via, _) => via.optional(),
    };
    if let (Some(address), Some(false)) = (&address, local)
        && let Some(wrong) = wrong_for_vip(address.value, around, encapsulation)
    {
        section.wrong(report, "address", &address.span, wrong);
        fits = false;
    }

    let values = |located: &Vec<Located<u32>>| located.iter().map(|id| id.value).collect();
    let backend = (|| {
        fits.then_some(Backend {
            name: name.as_ref()?.value.clone(),
            address: address.as_ref()?.value,
            weight: weight?,
            encapsulation: encapsulation?,
            state: state?,
            server_ids: values(server_ids.as_ref()?),
            sources: sources.as_ref()?.iter().map(|prefix| prefix.value).collect(),
            mac: mac.ok()?,
            via: via.ok()?,
            vlan: vlan.ok()?.map(|vlan| vlan as u16),
            local: local?,
        })
    })();
    let (server_ids, sources) = (server_ids.unwrap_or_default(), sources.unwrap_or_default());
    Read { address, name, server_ids, sources, backend }
}

/// `server_id` or `server_ids`, in the range of the service's scheme.
fn server_ids(
    section: &Section<'_>,
    scheme: Option<ServerIds>,
    report: &mut Report<'_>,
) -> Option<Vec<Located<u32>>> {
    let highest = scheme.map_or(Some(u32::MAX), ServerIds::highest);
    let id = |v: &DeValue<'_>| value::integer(v, 0..=highest.unwrap_or(u32::MAX));
    let one = section.read(report, "server_id", id);
    let mut ids = section.read_each(report, "server_ids", id)?;
    match one {
        Field::Wrong => return None,
        Field::Given(one) if ids.is_empty() => ids.push(one),
        Field::Given(one) => {
            let wrong =
                Wrong::new("cannot stand beside `server_ids`").help("write all of them in `server_ids`");
            section.wrong(report, "server_id", &one.span, wrong);
            return None;
        }
        Field::Absent => {}
    }
    if let (None, Some(first)) = (highest, ids.first()) {
        let help = "say in the service where packets carry ids: `server_ids = \"quic\"`";
        let message = "this backend has a server id, but its service has no `server_ids`";
        report.error(&first.span, message, help);
        return None;
    }
    Some(ids)
}

fn wrong_for_vip(address: IpAddr, around: &Around, encapsulation: Option<Encapsulation>) -> Option<Wrong> {
    if Some(address) == around.one_vip() {
        let help = "give the real server's own address; the VIP is on it as well, but packets are not sent there by it";
        return Some(Wrong::new(format!("cannot be {address}, the service's own VIP")).help(help));
    }
    let vip = around.vip?;
    if encapsulation == Some(Encapsulation::L2) && vip.network.is_ipv4() != address.is_ipv4() {
        let family = if vip.network.is_ipv4() { "IPv4" } else { "IPv6" };
        let what = format!("cannot be {address} behind the {family} VIP {vip} with `encapsulation = \"l2\"`");
        return Some(Wrong::new(what).help(format!(
            "give the backend's {family} address, or wrap packets for it: `encapsulation = \"ipip\"`"
        )));
    }
    None
}

fn wrong_via(via: IpAddr, address: IpAddr, around: &Around) -> Option<Wrong> {
    if via.is_ipv4() != address.is_ipv4() {
        let (family, other) = if address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        let message = format!("must be an {family} address as the backend's is, not {via}");
        Some(
            Wrong::new(message)
                .help(format!("an {family} packet needs an {family} next hop, not one of {other}")),
        )
    } else if Some(via) == around.one_vip() {
        Some(
            Wrong::new(format!("cannot be {via}, the service's own VIP"))
                .help("give the router's own address"),
        )
    } else {
        None
    }
}
