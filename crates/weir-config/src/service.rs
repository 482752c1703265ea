//! The sections `[[service]]`.
//!
//! Owns: their keys and defaults, and what services may not have in common. May not touch: the director's section
//! (but for the ring size it lends).

use std::time::Duration;

use crate::backend::{self, Around};
use crate::balancing::{self, Known};
use crate::diagnostic::{Position, Report, Span};
use crate::model::{Backend, RingSlots, ServerIds, Service, ServiceKey};
use crate::prefix::{Prefix, bits};
use crate::section::{Field, Key, Kind, Located, Section, Wrong};
use crate::seen::Seen;
use crate::sources::{self, Entry, SourceAction, SourceList};
use crate::words::{Advertise, Encapsulation, NoBackend, Protocol, Scheduler, ServerIdScheme, State};
use crate::{address, value};

pub(crate) const KIND: Kind = Kind {
    title: "[[service]]",
    keys: &[
        Key::new("name", "\"web\""),
        Key::new("vip", "\"192.0.2.10\"").alias(&["address", "ip", "virtual_address", "addr"]),
        Key::new("port", "80").alias(&["ports"]),
        Key::new("protocol", "\"tcp\"").alias(&["proto"]),
        Key::new("advertise", "\"none\"").alias(&["announce"]),
        Key::new("encapsulation", "\"ipip\"").alias(&["encap", "forward", "tunnel", "lb_kind", "lvs_method"]),
        Key::new("scheduler", "\"maglev\"").alias(&["sched", "algorithm", "lb_algo", "lvs_sched", "balance"]),
        Key::new("hash", "\"source\"").alias(&["hash_by", "hash_type", "hash_on", "key"]),
        Key::new("source_prefix", "24").alias(&[
            "persistence_granularity",
            "persistence_mask",
            "netmask",
            "source_mask",
            "hash_mask",
        ]),
        Key::new("persistence", "true").alias(&[
            "persistent",
            "persistence_timeout",
            "sticky",
            "affinity",
            "session_affinity",
        ]),
        Key::new("tracking", "\"always\"").alias(&["track", "conntrack", "lru", "bypass_lru", "ops"]),
        Key::new("new_flow_budget", "100000").alias(&["new_flow_rate", "flow_budget", "max_new_flows"]),
        Key::new("server_ids", "\"quic\"").alias(&["server_id", "quic", "quic_vip", "udp_stable_routing"]),
        Key::new("quic_lb_rotation", "0").alias(&["rotation", "config_rotation", "config_id"]),
        Key::new("quic_lb_id_length", "2").alias(&["id_length", "server_id_length"]),
        Key::new("allow", "[\"198.51.100.0/24\"]").alias(&["allowed", "permit", "accept", "whitelist"]),
        Key::new("deny", "[\"198.51.100.0/24\"]").alias(&["denied", "block", "reject", "blacklist"]),
        Key::new("sources_file", "\"/etc/weir/sources\"").alias(&[
            "source_file",
            "sources",
            "acl",
            "acl_file",
        ]),
        Key::new("ring_slots", "65536").alias(&["ring", "ring_size"]),
        Key::new("no_backend", "\"drop\"").alias(&["fallback"]),
        Key::new("idle_timeout", "\"15m\"").alias(&["timeout", "idle"]),
        Key::new("drain", "\"5m\"").alias(&["drain_timeout", "draining"]),
        Key::new("backend", "[{ address = \"10.0.0.11\" }]")
            .alias(&["backends", "real", "reals", "server", "servers"]),
    ],
};

/// How long a silent flow is remembered unless the service says otherwise.
const fn idle_timeout(protocol: Protocol) -> Duration {
    match protocol {
        Protocol::Tcp => Duration::from_secs(15 * 60),
        Protocol::Udp => Duration::from_secs(2 * 60),
    }
}

/// How long a removed backend keeps its flows unless the service says otherwise.
const DRAIN: Duration = Duration::from_secs(5 * 60);

/// As many services are taken.
const MAX_SERVICES: usize = 10_000;

/// Slots for a backend from which on its weight is met within 1 %.
const SLOTS_PER_BACKEND: usize = 100;

/// A service, and what it takes to add its sources file.
pub(crate) struct Read {
    pub(crate) service: Service,
    /// What the configuration itself says of clients.
    pub(crate) entries: Vec<Entry>,
    /// Where the file is named.
    pub(crate) file: Option<Position>,
}

/// Those of the services that are right.
pub(crate) fn read_all(
    sections: &[Section<'_>],
    director_slots: RingSlots,
    seen: &mut Seen,
    report: &mut Report<'_>,
) -> Vec<Read> {
    if let Some(first_too_many) = sections.get(MAX_SERVICES) {
        let message = format!("there are {} services, more than {MAX_SERVICES}", sections.len());
        report.error(
            &first_too_many.span,
            message,
            "use `port = \"*\"` where a VIP has many ports, or more directors",
        );
        return Vec::new();
    }
    sections.iter().filter_map(|section| read(section, director_slots, seen, report)).collect()
}

fn read(section: &Section<'_>, slots: RingSlots, seen: &mut Seen, report: &mut Report<'_>) -> Option<Read> {
    let name = section.read(report, "name", value::name);
    let vip = section.require(report, "vip", address::vip);
    let port = section.require(report, "port", value::port);
    let protocol = section.require(report, "protocol", value::word);
    let advertise = section.read(report, "advertise", value::word);
    let encapsulation = section.read(report, "encapsulation", value::word).or(Encapsulation::Ipip);
    let ring_slots = section.read(report, "ring_slots", value::ring_slots);
    let no_backend = section.read(report, "no_backend", value::word).or(NoBackend::Drop);
    let idle = section.read(report, "idle_timeout", value::idle_timeout);
    let drain = section.read(report, "drain", value::drain);
    let known = Known {
        bits: vip.as_ref().map(|vip| bits(vip.value.network)),
        protocol: protocol.as_ref().map(|protocol| protocol.value),
        port: port.as_ref().map(|port| port.value),
        times: [("idle_timeout", &idle), ("drain", &drain)],
    };
    let balancing = balancing::read(section, &known, report);

    let around = Around {
        vip: vip.as_ref().map(|vip| vip.value),
        encapsulation,
        server_ids: balancing.as_ref().map(|balancing| balancing.server_ids),
    };
    let mut clients = SourceList::default();
    let allow = prefixes(section, "allow", SourceAction::Allow, &around, &mut clients, report);
    let deny = prefixes(section, "deny", SourceAction::Deny, &around, &mut clients, report);
    let sources_file = section.read(report, "sources_file", value::absolute_path);
    let sections = section.tables(report, "backend", &backend::KIND);
    let backends = backend::read_all(&sections, &around, &mut clients, report);
    let remote = backends.iter().flatten().filter(|backend| !backend.value.local);
    seen.backends(sections.len(), remote.map(|b| (b.value.address, b.span.clone())));

    if let Some(vip) = &vip {
        check_advertise(section, vip, &advertise, report);
        seen.vip(vip, &advertise, report);
    }
    let mut is_new = true;
    let key = match (&vip, port, protocol) {
        (Some(vip), Some(port), Some(protocol)) => {
            let prefix_len = (!vip.value.is_single()).then_some(vip.value.len);
            let key =
                ServiceKey { vip: vip.value.network, prefix_len, port: port.value, protocol: protocol.value };
            is_new = seen.key(key, &vip.span, report);
            Some(key)
        }
        _ => None,
    };
    let name = match name {
        Field::Given(name) => Some(name),
        Field::Absent => key.map(|key| Located { span: section.span.clone(), value: key.to_string() }),
        Field::Wrong => None,
    };
    // (That the default name of a repeated service repeats, too, needs no saying.)
    if let (Some(name), true) = (&name, is_new) {
        seen.name(name, report);
    }
    check_weights(section, name.as_ref(), &backends, report);
    check_ids(section, name.as_ref(), &around, &backends, report);
    if let (Some(Scheduler::Rr), Some(name)) = (balancing.as_ref().map(|b| b.scheduler), &name) {
        check_turns(section, name, &backends, report);
    }
    let slots_at = ring_slots.given().map_or(&section.span, |given| &given.span).clone();
    let ring_slots = ring_slots.or(slots);
    if let Some(RingSlots::Exactly(slots)) = ring_slots {
        check_ring(slots as usize, &slots_at, &backends, report);
    }
    let file = sources_file.given().map(|file| report.position(&file.span));
    if file.is_some() {
        check_names_for_file(&backends, report);
    }

    let (key, balancing) = (key?, balancing?);
    let entries = clients.into_entries();
    let addresses: Vec<_> = backends.iter().flatten().map(|backend| backend.value.address).collect();
    let service = Service {
        name: name?.value,
        key,
        advertise: advertise.or(Advertise::None)?,
        encapsulation: encapsulation?,
        scheduler: balancing.scheduler,
        hash: balancing.hash,
        source_prefix: balancing.source_prefix,
        persistence: balancing.persistence,
        tracking: balancing.tracking,
        new_flow_budget: balancing.new_flow_budget,
        server_ids: balancing.server_ids,
        allow: allow?,
        deny: deny?,
        sources_file: sources_file.optional().ok()?,
        sources: sources::put_together(entries.clone(), key.vip.is_ipv4(), &addresses, |_, _| {}),
        ring_slots: ring_slots?,
        no_backend: no_backend?,
        idle_timeout: idle.or(idle_timeout(key.protocol))?,
        drain: drain.or(DRAIN)?,
        backends: backends.into_iter().map(|backend| backend.map(|b| b.value)).collect::<Option<_>>()?,
    };
    Some(Read { service, entries, file })
}

/// A list of clients, which becomes part of what is said of clients in all.
fn prefixes(
    section: &Section<'_>,
    name: &'static str,
    action: SourceAction,
    around: &Around,
    clients: &mut SourceList,
    report: &mut Report<'_>,
) -> Option<Vec<Prefix>> {
    let vip = around.vip.map(|vip| vip.network);
    let prefixes = section.read_each(report, name, |v| address::clients(v, vip))?;
    for prefix in &prefixes {
        clients.add(prefix.value, action, &prefix.span, report);
    }
    Some(prefixes.into_iter().map(|prefix| prefix.value).collect())
}

/// Nobody can hold a whole prefix as a host address.
fn check_advertise(
    section: &Section<'_>,
    vip: &Located<Prefix>,
    advertise: &Field<Advertise>,
    report: &mut Report<'_>,
) {
    if let Field::Given(advertise) = advertise
        && advertise.value == Advertise::Address
        && !vip.value.is_single()
    {
        let wrong = Wrong::new(format!("cannot be \"address\" for the prefix {}", vip.value))
            .help("give the routers a route for it with this director as next hop, and remove `advertise`");
        section.wrong(report, "advertise", &advertise.span, wrong);
    }
}

/// Someone must be able to take a flow, if there is anyone at all.
fn check_weights(
    section: &Section<'_>,
    name: Option<&Located<String>>,
    backends: &[Option<Located<Backend>>],
    report: &mut Report<'_>,
) {
    let name = name.map_or(String::new(), |name| format!(" {}", name.value));
    let all = |holds: fn(&Backend) -> bool| {
        backends.iter().all(|backend| backend.as_ref().is_some_and(|b| holds(&b.value)))
    };
    if backends.is_empty() {
        report.warning(&section.span, format!("service{name} has no backend; its packets meet `no_backend`"));
    } else if all(|b| b.weight == 0) {
        let message = format!("no backend of service{name} can take a flow: every weight is 0");
        if all(|b| !b.server_ids.is_empty() || !b.sources.is_empty()) {
            report.warning(
                &section.span,
                format!("{message}; packets without a server id and from other sources meet `no_backend`"),
            );
        } else {
            report.error(
                &section.span,
                message,
                "give one backend at least a `weight` of 1 or more, or remove the backends to say that there is none",
            );
        }
    } else if all(|b| b.weight == 0 || b.state == State::Down) {
        let message = format!("no backend of service{name} can take a flow: each is down or has weight 0");
        report.warning(&section.span, format!("{message}; new flows meet `no_backend`"));
    }
}

/// Where packets carry ids, some backend should have one.
fn check_ids(
    section: &Section<'_>,
    name: Option<&Located<String>>,
    around: &Around,
    backends: &[Option<Located<Backend>>],
    report: &mut Report<'_>,
) {
    let (Some(name), Some(scheme)) = (name, around.server_ids.map(ServerIds::scheme)) else { return };
    let none = backends.iter().flatten().all(|backend| backend.value.server_ids.is_empty());
    if scheme != ServerIdScheme::None && none && !backends.is_empty() {
        let message = format!("service {} has `server_ids = \"{scheme}\"`", name.value);
        report.warning(&section.span, format!("{message}, but no backend has a `server_id`"));
    }
}

/// Who takes turns takes the same ones.
fn check_turns(
    section: &Section<'_>,
    name: &Located<String>,
    backends: &[Option<Located<Backend>>],
    report: &mut Report<'_>,
) {
    let mut weights = backends.iter().flatten().map(|b| b.value.weight).filter(|&weight| weight > 0);
    if let Some(first) = weights.next()
        && weights.any(|weight| weight != first)
    {
        let message = format!("service {} has different weights, which `scheduler = \"rr\"`", name.value);
        report.warning(&section.span, format!("{message} takes for the same; \"wrr\" heeds them"));
    }
}

/// In a sources file a backend's name stands where `allow` and `deny` may.
fn check_names_for_file(backends: &[Option<Located<Backend>>], report: &mut Report<'_>) {
    for backend in backends.iter().flatten() {
        if ["allow", "deny"].contains(&backend.value.name.as_str()) {
            let message = format!("a backend cannot be called \"{}\" in a service", backend.value.name);
            report.error(
                &backend.span,
                format!("{message} with a `sources_file`, where that is a word of its own"),
                "give the backend another `name`",
            );
        }
    }
}

/// Everyone who can take a flow needs a slot, and better a hundred.
fn check_ring(slots: usize, at: &Span, backends: &[Option<Located<Backend>>], report: &mut Report<'_>) {
    let members = backends.iter().flatten().filter(|backend| backend.value.weight > 0).count();
    if members > slots {
        let message = format!("a ring of {slots} slots is too small for {members} backends");
        report.error(at, message, "write `ring_slots = 0` to have the size chosen");
    } else if members * SLOTS_PER_BACKEND > slots {
        report.warning(
            at,
            format!("a ring of {slots} slots meets the weights of {members} backends only roughly"),
        );
    }
}
