//! The sections `[[service]]`.
//!
//! Owns: their keys and defaults, and what services may not have in common. May not touch: the director's section
//! (but for the ring size it lends).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::backend;
use crate::diagnostic::{Report, Span};
use crate::model::{
    Advertise, Backend, Encapsulation, NoBackend, Protocol, RingSlots, Scheduler, Service, ServiceKey,
};
use crate::section::{Field, Key, Kind, Located, Section};
use crate::value;

pub(crate) const KIND: Kind = Kind {
    title: "[[service]]",
    keys: &[
        Key::new("name", "\"web\""),
        Key::new("vip", "\"192.0.2.10\"").alias(&["address", "ip", "virtual_address", "addr"]),
        Key::new("port", "80").alias(&["ports"]),
        Key::new("protocol", "\"tcp\"").alias(&["proto"]),
        Key::new("advertise", "\"none\"").alias(&["announce"]),
        Key::new("encapsulation", "\"ipip\"").alias(&["encap", "forward", "tunnel"]),
        Key::new("scheduler", "\"maglev\"").alias(&["sched", "algorithm"]),
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

/// As many services and backends, in all, are taken.
const MAX_SERVICES: usize = 10_000;
const MAX_BACKENDS: usize = 100_000;

/// Slots for a backend from which on its weight is met within 1 %.
const SLOTS_PER_BACKEND: usize = 100;

/// Those of the services that are right.
pub(crate) fn read_all(
    sections: &[Section<'_>],
    director_slots: RingSlots,
    report: &mut Report<'_>,
) -> Vec<Service> {
    if let Some(first_too_many) = sections.get(MAX_SERVICES) {
        let message = format!("there are {} services, more than {MAX_SERVICES}", sections.len());
        report.error(
            &first_too_many.span,
            message,
            "use `port = \"*\"` where a VIP has many ports, or more directors",
        );
        return Vec::new();
    }
    let mut seen = Seen::default();
    let services: Vec<Service> =
        sections.iter().filter_map(|section| read(section, director_slots, &mut seen, report)).collect();
    seen.finish(report);
    services
}

fn read(
    section: &Section<'_>,
    slots: RingSlots,
    seen: &mut Seen,
    report: &mut Report<'_>,
) -> Option<Service> {
    let name = section.read(report, "name", value::name);
    let vip = section.require(report, "vip", value::address);
    let port = section.require(report, "port", value::port);
    let protocol = section.require(report, "protocol", |v| value::word(v, Protocol::WORDS));
    let advertise = section.read(report, "advertise", |v| value::word(v, Advertise::WORDS));
    let encapsulation = section
        .read(report, "encapsulation", |v| value::word(v, Encapsulation::WORDS))
        .or(Encapsulation::Ipip);
    let scheduler =
        section.read(report, "scheduler", |v| value::word(v, Scheduler::WORDS)).or(Scheduler::Maglev);
    let ring_slots = section.read(report, "ring_slots", value::ring_slots);
    let no_backend =
        section.read(report, "no_backend", |v| value::word(v, NoBackend::WORDS)).or(NoBackend::Drop);
    let idle = section.read(report, "idle_timeout", value::idle_timeout).optional();
    let drain = section.read(report, "drain", value::drain).or(DRAIN);

    let vip_value = vip.as_ref().map(|vip| vip.value);
    let sections = section.tables(report, "backend", &backend::KIND);
    let backends = backend::read_all(&sections, vip_value, report);
    seen.backends
        .extend(backends.iter().map(|backend| backend.as_ref().map(|b| (b.value.address, b.span.clone()))));

    if let Some(vip) = &vip {
        seen.advertise(vip, &advertise, report);
    }
    let mut is_new = true;
    let key = match (&vip, port, protocol) {
        (Some(vip), Some(port), Some(protocol)) => {
            let key = ServiceKey { vip: vip.value, port: port.value, protocol: protocol.value };
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
    let slots_at = ring_slots.given().map_or(&section.span, |given| &given.span).clone();
    let ring_slots = ring_slots.or(slots);
    if let Some(RingSlots::Exactly(slots)) = ring_slots {
        check_ring(slots as usize, &slots_at, &backends, report);
    }

    let key = key?;
    Some(Service {
        name: name?.value,
        key,
        advertise: advertise.or(Advertise::None)?,
        encapsulation: encapsulation?,
        scheduler: scheduler?,
        ring_slots: ring_slots?,
        no_backend: no_backend?,
        idle_timeout: idle.ok()?.unwrap_or(idle_timeout(key.protocol)),
        drain: drain?,
        backends: backends.into_iter().map(|backend| backend.map(|b| b.value)).collect::<Option<_>>()?,
    })
}

/// Someone must be able to take a flow, if there is anyone at all.
fn check_weights(
    section: &Section<'_>,
    name: Option<&Located<String>>,
    backends: &[Option<Located<Backend>>],
    report: &mut Report<'_>,
) {
    let name = name.map_or(String::new(), |name| format!(" {}", name.value));
    if backends.is_empty() {
        report.warning(&section.span, format!("service{name} has no backend; its packets meet `no_backend`"));
    } else if backends.iter().all(|backend| backend.as_ref().is_some_and(|b| b.value.weight == 0)) {
        report.error(
            &section.span,
            format!("no backend of service{name} can take a flow: every weight is 0"),
            "give one backend at least a `weight` of 1 or more, or remove the backends to say that there is none",
        );
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

/// What has been read so far that later sections must not repeat or contradict.
#[derive(Default)]
struct Seen {
    keys: HashMap<ServiceKey, Span>,
    names: HashMap<String, Span>,
    vips: HashMap<IpAddr, (Advertise, Span)>,
    backends: Vec<Option<(IpAddr, Span)>>,
}

impl Seen {
    /// Whether it is the first with this key.
    fn key(&mut self, key: ServiceKey, span: &Span, report: &mut Report<'_>) -> bool {
        if let Some(first) = self.keys.get(&key) {
            let line = report.position(first).line;
            let message =
                format!("service {key} is there already: line {line} has the same vip, port and protocol");
            report.error(
                span,
                message,
                format!("remove one of the two, or move its backends to that of line {line}"),
            );
            return false;
        }
        self.keys.insert(key, span.clone());
        true
    }

    fn name(&mut self, name: &Located<String>, report: &mut Report<'_>) {
        if let Some(first) = self.names.get(&name.value) {
            let line = report.position(first).line;
            let message =
                format!("the service name \"{}\" is taken by the service of line {line}", name.value);
            report.error(&name.span, message, "give each service a `name` of its own, or none");
        } else {
            self.names.insert(name.value.clone(), name.span.clone());
        }
    }

    fn advertise(&mut self, vip: &Located<IpAddr>, advertise: &Field<Advertise>, report: &mut Report<'_>) {
        let (says, span) = match advertise {
            Field::Given(given) => (given.value, &given.span),
            Field::Absent => (Advertise::None, &vip.span),
            Field::Wrong => return,
        };
        let (first, at) = self.vips.entry(vip.value).or_insert_with(|| (says, span.clone()));
        if *first != says {
            let (first, line) = (*first, report.position(at).line);
            let message = format!(
                "VIP {} cannot be both `advertise = \"{says}\"` and `advertise = \"{first}\"`, as on line {line}",
                vip.value
            );
            report.error(span, message, "write the same `advertise` in every service of the VIP");
        }
    }

    fn finish(&self, report: &mut Report<'_>) {
        if self.backends.len() > MAX_BACKENDS {
            let message = format!("there are {} backends, more than {MAX_BACKENDS}", self.backends.len());
            report.whole_file(message, "split the services between directors");
        }
        for (address, span) in self.backends.iter().flatten() {
            if self.vips.contains_key(address) {
                let message = format!("backend {address} is a VIP of this director, too");
                report.warning(span, format!("{message}; packets wrapped for it would come back here"));
            }
        }
    }
}
