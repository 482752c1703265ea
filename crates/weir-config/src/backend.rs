//! The sections `[[service.backend]]`.
//!
//! Owns: their keys and defaults, and what the backends of one service may not have in common.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::diagnostic::{Report, Span};
use crate::model::Backend;
use crate::section::{Field, Key, Kind, Located, Reported, Section, Wrong};
use crate::value;

pub(crate) const KIND: Kind = Kind {
    title: "[[service.backend]]",
    keys: &[
        Key::new("address", "\"10.0.0.11\"").alias(&["ip", "addr", "host", "server", "real"]),
        Key::new("name", "\"rs1\""),
        Key::new("weight", "1"),
        Key::new("mac", "\"02:00:00:00:00:01\"").alias(&["lladdr", "hwaddr", "mac_address"]),
        Key::new("via", "\"10.0.0.1\"").alias(&["gateway", "next_hop", "nexthop", "router"]),
    ],
};

/// Each backend of one service, at its address, in the file's order; `None` for one in which something is wrong.
pub(crate) fn read_all(
    sections: &[Section<'_>],
    vip: Option<IpAddr>,
    report: &mut Report<'_>,
) -> Vec<Option<Located<Backend>>> {
    let mut addresses: HashMap<IpAddr, Span> = HashMap::new();
    let mut names: HashMap<String, Span> = HashMap::new();
    sections
        .iter()
        .map(|section| {
            let (address, name, backend) = read(section, vip, report)?;
            if let Some(first) = addresses.get(&address.value) {
                let line = report.position(first).line;
                let message = format!("backend {} is in this service already, on line {line}", address.value);
                report.error(
                    &address.span,
                    message,
                    "remove one of the two; `weight` gives a backend more flows",
                );
                return None;
            }
            addresses.insert(address.value, address.span.clone());
            if let Some(first) = names.get(&name.value) {
                let line = report.position(first).line;
                let message = format!("the backend name \"{}\" is taken on line {line}", name.value);
                report.error(
                    &name.span,
                    message,
                    "give each backend of a service a `name` of its own, or none",
                );
                return None;
            }
            names.insert(name.value, name.span);
            Some(Located { span: address.span, value: backend? })
        })
        .collect()
}

type Read = (Located<IpAddr>, Located<String>, Option<Backend>);

fn read(section: &Section<'_>, vip: Option<IpAddr>, report: &mut Report<'_>) -> Option<Read> {
    let address = section.require(report, "address", value::address);
    let name = section.read(report, "name", value::name);
    let weight = section.read(report, "weight", value::weight).or(1);
    let mac = section.read(report, "mac", value::mac).optional();
    let via = section.read(report, "via", value::next_hop);

    let address = address?;
    let fits_vip = vip.is_none_or(|vip| match wrong_for_vip(address.value, vip) {
        Some(wrong) => {
            section.wrong(report, "address", &address.span, wrong);
            false
        }
        None => true,
    });
    let via = match via {
        Field::Given(via) => match wrong_via(via.value, address.value, vip) {
            Some(wrong) => {
                section.wrong(report, "via", &via.span, wrong);
                Err(Reported)
            }
            None => Ok(Some(via.value)),
        },
        other => other.optional(),
    };
    let name = match name {
        Field::Given(name) => Some(name),
        Field::Absent => Some(Located { span: address.span.clone(), value: address.value.to_string() }),
        Field::Wrong => None,
    };
    let name = name?;
    let backend = match (fits_vip, weight, mac, via) {
        (true, Some(weight), Ok(mac), Ok(via)) => {
            Some(Backend { name: name.value.clone(), address: address.value, weight, mac, via })
        }
        _ => None,
    };
    Some((address, name, backend))
}

fn wrong_for_vip(address: IpAddr, vip: IpAddr) -> Option<Wrong> {
    if address == vip {
        let help = "give the real server's own address; the VIP is on it as well, but packets are not sent there by it";
        Some(Wrong::new(format!("cannot be {address}, the service's own VIP")).help(help))
    } else if vip.is_ipv6() && address.is_ipv4() {
        let message = format!("cannot be {address} behind the IPv6 VIP {vip}: IPv6-in-IPv4 is not supported");
        Some(Wrong::new(message).help("give the backend an IPv6 address"))
    } else {
        None
    }
}

fn wrong_via(via: IpAddr, address: IpAddr, vip: Option<IpAddr>) -> Option<Wrong> {
    if via.is_ipv4() != address.is_ipv4() {
        let (family, other) = if address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        let message = format!("must be an {family} address as the backend's is, not {via}");
        Some(
            Wrong::new(message)
                .help(format!("an {family} packet needs an {family} next hop, not one of {other}")),
        )
    } else if Some(via) == vip {
        Some(
            Wrong::new(format!("cannot be {via}, the service's own VIP"))
                .help("give the router's own address"),
        )
    } else {
        None
    }
}
