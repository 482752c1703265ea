//! What sections have in common that they may not, or that must fit together.
//!
//! Owns: keys and names that are taken, VIPs, and where packets would go round. May not touch: single values.
//! Invariant: what is said of two places names the line of the other.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::diagnostic::{Report, Span};
use crate::director::Places;
use crate::model::{Director, ServiceKey, Source};
use crate::prefix::Prefix;
use crate::section::{Field, Located};
use crate::words::Advertise;

/// As many backends, in all services, are taken.
const MAX_BACKENDS: usize = 100_000;

/// What has been read so far that later sections must not repeat or contradict.
#[derive(Default)]
pub(crate) struct Seen {
    keys: HashMap<ServiceKey, Span>,
    names: HashMap<String, Span>,
    vips: HashMap<Prefix, (Advertise, Span)>,
    /// The lengths of `vips`.
    lengths: BTreeSet<u8>,
    /// How many there are, right or wrong.
    backends: usize,
    /// Backends on other machines.
    remote: Vec<(IpAddr, Span)>,
}

impl Seen {
    /// Whether it is the first with this key.
    pub(crate) fn key(&mut self, key: ServiceKey, span: &Span, report: &mut Report<'_>) -> bool {
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

    pub(crate) fn name(&mut self, name: &Located<String>, report: &mut Report<'_>) {
        if let Some(first) = self.names.get(&name.value) {
            let line = report.position(first).line;
            let message =
                format!("the service name \"{}\" is taken by the service of line {line}", name.value);
            report.error(&name.span, message, "give each service a `name` of its own, or none");
        } else {
            self.names.insert(name.value.clone(), name.span.clone());
        }
    }

    /// A service's addresses and whether they are advertised.
    pub(crate) fn vip(
        &mut self,
        vip: &Located<Prefix>,
        advertise: &Field<Advertise>,
        report: &mut Report<'_>,
    ) {
        self.lengths.insert(vip.value.len);
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

    /// The backends of a service: how many there are, and where those on other machines are.
    pub(crate) fn backends(&mut self, count: usize, remote: impl IntoIterator<Item = (IpAddr, Span)>) {
        self.backends += count;
        self.remote.extend(remote);
    }

    /// Looks at everything together.
    pub(crate) fn finish(&self, director: Option<&(Director, Places)>, report: &mut Report<'_>) {
        if self.backends > MAX_BACKENDS {
            let message = format!("there are {} backends, more than {MAX_BACKENDS}", self.backends);
            report.whole_file(message, "split the services between directors");
        }
        let decapsulate = director.map_or(&[][..], |(director, _)| &director.decapsulate);
        for (address, span) in &self.remote {
            if self.vip_of(*address).is_some() {
                let message = format!("backend {address} is a VIP of this director, too");
                report.warning(span, format!("{message}; packets wrapped for it would come back here"));
            } else if decapsulate.contains(address) {
                let message = format!("backend {address} is in this director's `decapsulate`, too");
                report.warning(span, format!("{message}; packets wrapped for it would be unwrapped here"));
            }
        }
        let Some((director, places)) = director else { return };
        for (address, span) in director.decapsulate.iter().zip(&places.decapsulate) {
            if let Some((vip, line)) = self.vip_of(*address).map(|(vip, at)| (vip, report.position(at).line))
            {
                let message = format!("`decapsulate` cannot have {address}: line {line} makes {vip} a VIP");
                report.error(span, message, "give an address of the director itself");
            }
        }
        self.sources(director, places, report);
    }

    /// Real servers refuse what comes from an address of their own.
    fn sources(&self, director: &Director, places: &Places, report: &mut Report<'_>) {
        let sources = [
            (director.source_ipv4.map(Prefix::from), &places.source_ipv4),
            (director.source_ipv6.map(Prefix::from), &places.source_ipv6),
        ];
        for (source, span) in sources {
            let (Some(source), Some(span)) = (source, span) else { continue };
            // In IPv6 the low 64 bits vary, no more.
            let len = if source.network.is_ipv4() { source.len } else { source.len.max(64) };
            let used = Prefix::of(source.network, len);
            let overlaps = |vip: &&Prefix| vip.contains(used.network) || used.contains(vip.network);
            let warning = if let Some(vip) = self.vips.keys().filter(overlaps).min() {
                format!("the source {source} covers the VIP {vip}")
            } else if let Some((backend, _)) = self.remote.iter().find(|(b, _)| used.contains(*b)) {
                format!("the source {source} covers the backend {backend}")
            } else {
                continue;
            };
            report
                .warning(span, format!("{warning}; real servers refuse packets from addresses of their own"));
        }
    }

    /// The VIP that an address is or is in, the longest if there are several, and where it stands.
    fn vip_of(&self, address: IpAddr) -> Option<(Prefix, &Span)> {
        self.lengths.iter().rev().find_map(|&len| {
            let vip = Prefix::of(address, len);
            self.vips.get(&vip).filter(|_| vip.len == len).map(|(_, span)| (vip, span))
        })
    }
}

impl<A: Into<IpAddr>> From<Source<A>> for Prefix {
    fn from(source: Source<A>) -> Self {
        match source {
            Source::Fixed(address) => Self::single(address.into()),
            Source::Spread { network, prefix_len } => Self::of(network.into(), prefix_len),
        }
    }
}
