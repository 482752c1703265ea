//! How a service chooses backends and what it remembers.
//!
//! Owns: the keys that say so, and which of them go together. May not touch: addresses, backends.
//! Invariant: nothing that is written is without effect, but for what a warning names.

use std::time::Duration;

use crate::diagnostic::{Report, Span};
use crate::model::ServerIds;
use crate::section::{Field, Section, Wrong};
use crate::value;
use crate::words::{HashBy, Protocol, Scheduler, ServerIdScheme, Tracking};

/// What they say together.
pub(crate) struct Balancing {
    pub(crate) scheduler: Scheduler,
    pub(crate) hash: HashBy,
    pub(crate) source_prefix: Option<u8>,
    pub(crate) persistence: bool,
    pub(crate) tracking: Tracking,
    pub(crate) new_flow_budget: Option<u32>,
    pub(crate) server_ids: ServerIds,
}

/// What is known of the service from its other keys.
pub(crate) struct Known<'a> {
    /// Bits of its addresses.
    pub(crate) bits: Option<u8>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) port: Option<u16>,
    /// Times that concern flows that are remembered, by their keys.
    pub(crate) times: [(&'static str, &'a Field<Duration>); 2],
}

/// `None` if anything in it was wrong.
pub(crate) fn read(section: &Section<'_>, known: &Known<'_>, report: &mut Report<'_>) -> Option<Balancing> {
    let scheduler = section.read(report, "scheduler", value::word);
    let hash = section.read(report, "hash", value::word);
    let source_prefix =
        section.read(report, "source_prefix", |v| value::integer(v, 1..=known.bits.unwrap_or(128).into()));
    let persistence = section.read(report, "persistence", value::boolean);
    let tracking = section.read(report, "tracking", value::word);
    let budget = section.read(report, "new_flow_budget", value::new_flow_budget);
    let server_ids = server_ids(section, known.protocol, report);
    let fields = Fields { scheduler, hash, source_prefix, persistence, tracking };
    fields.check(section, report);
    fields.warn(known, &budget, report);

    let hash = fields.hash.in_force(HashBy::Flow)?;
    let by_source = matches!(hash, HashBy::Source | HashBy::SourceAndPort);
    let source_prefix = fields.source_prefix.in_force(known.bits.unwrap_or(128).into())? as u8;
    Some(Balancing {
        scheduler: fields.scheduler.in_force(Scheduler::Maglev)?,
        hash,
        source_prefix: by_source.then_some(source_prefix),
        persistence: fields.persistence.in_force(false)?,
        tracking: fields.tracking.in_force(Tracking::Always)?,
        new_flow_budget: budget.or(None)?,
        server_ids: server_ids?,
    })
}

/// Those that must fit one another.
struct Fields {
    scheduler: Field<Scheduler>,
    hash: Field<HashBy>,
    source_prefix: Field<u32>,
    persistence: Field<bool>,
    tracking: Field<Tracking>,
}

impl Fields {
    fn check(&self, section: &Section<'_>, report: &mut Report<'_>) {
        let scheduler = self.scheduler.in_force(Scheduler::Maglev);
        let takes_turns = scheduler.filter(|scheduler| *scheduler != Scheduler::Maglev);
        let persistent = self.persistence.in_force(false);
        let hash = self.hash.in_force(HashBy::Flow);

        if let Some(Tracking::Never) = self.tracking.in_force(Tracking::Always) {
            let needs = match (takes_turns, persistent) {
                (Some(scheduler), _) => Some(format!("`scheduler = \"{scheduler}\"`")),
                (None, Some(true)) => Some("`persistence = true`".to_owned()),
                _ => None,
            };
            if let (Some(needs), Field::Given(tracking)) = (needs, &self.tracking) {
                let wrong = Wrong::new(format!("cannot be \"never\" with {needs}, which must remember"));
                section.wrong(report, "tracking", &tracking.span, wrong.help("remove one of the two"));
            }
        }
        if let (Field::Given(persistence), Some(hash)) = (&self.persistence, hash)
            && persistence.value
            && hash != HashBy::Source
        {
            let wrong = Wrong::new(format!("cannot be true with `hash = \"{hash}\"`"));
            let help = "write `hash = \"source\"`: it is clients that are remembered";
            section.wrong(report, "persistence", &persistence.span, wrong.help(help));
        }
        if let (Field::Given(source_prefix), Some(hash)) = (&self.source_prefix, hash)
            && !matches!(hash, HashBy::Source | HashBy::SourceAndPort)
        {
            let wrong = Wrong::new(format!("has no effect with `hash = \"{hash}\"`"));
            let help = "write `hash = \"source\"` or \"source-and-port\", or remove it";
            section.wrong(report, "source_prefix", &source_prefix.span, wrong.help(help));
        }
        if let (Field::Given(hash), Some(scheduler), Some(false)) = (&self.hash, takes_turns, persistent)
            && hash.value != HashBy::Flow
        {
            let what = format!("cannot be \"{}\" with `scheduler = \"{scheduler}\"`", hash.value);
            let help = "remove it: new flows take turns, whatever they are; with `hash = \"source\"` and \
                        `persistence = true` new clients do";
            section.wrong(report, "hash", &hash.span, Wrong::new(what).help(help));
        }
    }

    fn warn(&self, known: &Known<'_>, budget: &Field<Option<u32>>, report: &mut Report<'_>) {
        if let (Field::Given(hash), Some(port @ 1..)) = (&self.hash, known.port)
            && hash.value == HashBy::Port
        {
            let what = format!("every packet of this service has the destination port {port}");
            report.warning(&hash.span, format!("{what}; `hash = \"port\"` gives all of them to one backend"));
        }
        if let Some(Tracking::Never) = self.tracking.in_force(Tracking::Always) {
            let mut without_effect = |name: &str, span: &Span| {
                report.warning(
                    span,
                    format!("`{name}` has no effect with `tracking = \"never\"`: no flow is remembered"),
                );
            };
            if let Field::Given(budget) = budget
                && budget.value.is_some()
            {
                without_effect("new_flow_budget", &budget.span);
            }
            for (name, time) in known.times {
                if let Field::Given(time) = time
                    && !time.value.is_zero()
                {
                    without_effect(name, &time.span);
                }
            }
        }
    }
}

fn server_ids(
    section: &Section<'_>,
    protocol: Option<Protocol>,
    report: &mut Report<'_>,
) -> Option<ServerIds> {
    let scheme = section.read(report, "server_ids", value::word);
    let rotation = section.read(report, "quic_lb_rotation", |v| value::integer(v, 0..=6));
    let id_length = section.read(report, "quic_lb_id_length", |v| value::integer(v, 1..=4));
    let chosen = scheme.in_force(ServerIdScheme::None)?;
    let mut fits = true;
    if chosen != ServerIdScheme::QuicLb {
        for (name, field) in [("quic_lb_rotation", &rotation), ("quic_lb_id_length", &id_length)] {
            if let Field::Given(given) = field {
                let wrong = Wrong::new(format!("has no effect with `server_ids = \"{chosen}\"`"));
                let help = "write `server_ids = \"quic-lb\"`, or remove it";
                section.wrong(report, name, &given.span, wrong.help(help));
                fits = false;
            }
        }
    }
    let needs = match chosen {
        ServerIdScheme::None => None,
        ServerIdScheme::TcpOption => Some(Protocol::Tcp),
        _ => Some(Protocol::Udp),
    };
    if let (Some(needs), Some(protocol), Field::Given(scheme)) = (needs, protocol, &scheme)
        && needs != protocol
    {
        let help = match protocol {
            Protocol::Tcp => "TCP carries ids as \"tcp-option\"",
            Protocol::Udp => "UDP carries ids as \"quic\", \"quic-lb\" or \"udp-stable\"",
        };
        let wrong = Wrong::new(format!("cannot be \"{chosen}\" with `protocol = \"{protocol}\"`"));
        section.wrong(report, "server_ids", &scheme.span, wrong.help(help));
        fits = false;
    }
    let (rotation, id_length) = (rotation.or(0)? as u8, id_length.or(2)? as u8);
    fits.then_some(match chosen {
        ServerIdScheme::None => ServerIds::None,
        ServerIdScheme::Quic => ServerIds::Quic,
        ServerIdScheme::QuicLb => ServerIds::QuicLb { rotation, id_length },
        ServerIdScheme::UdpStable => ServerIds::UdpStable,
        ServerIdScheme::TcpOption => ServerIds::TcpOption,
    })
}
