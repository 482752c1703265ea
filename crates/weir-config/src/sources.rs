//! What becomes of which clients: a service's one list of prefixes.
//!
//! Owns: putting together what is said in several places, and finding contradictions. May not touch: files (see
//! `sources_file`). Invariant: a list holds each prefix once, all of one family, in order; 24 bytes a prefix, however it
//! was written.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::Hasher as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use siphasher::sip::SipHasher24;

use crate::diagnostic::{Report, Span};
use crate::prefix::Prefix;

/// What becomes of a client's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceAction {
    /// They are balanced.
    Allow,
    /// They are dropped.
    Deny,
    /// They go to that backend: the index into the service's backends.
    Backend(usize),
}

/// A prefix of a service's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceRule {
    /// Clients in it, but for those in a longer one of the list.
    pub prefix: Prefix,
    /// What becomes of them.
    pub action: SourceAction,
}

/// A service's list of clients. The longest prefix that a client is in says what becomes of it.
///
/// Cloning it copies nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Sources {
    /// By network, then length.
    entries: Arc<Vec<Entry>>,
    ipv4: bool,
    others_denied: bool,
    fingerprint: u64,
    targets: Arc<[usize]>,
}

impl Sources {
    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is said of any client.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What becomes of clients in none of the prefixes: denied if any is allowed by name, else allowed.
    pub fn others(&self) -> SourceAction {
        if self.others_denied { SourceAction::Deny } else { SourceAction::Allow }
    }

    /// A number that lists with the same prefixes and actions share and others do not, on every machine. A backend counts
    /// by its address, not by its place in the file; what becomes of [other clients](Self::others) does not count.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The backends that clients are sent to, ascending.
    pub fn targets(&self) -> &[usize] {
        &self.targets
    }

    /// Each prefix once, by network, a shorter one before those within it.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = SourceRule> {
        self.entries.iter().map(|entry| entry.rule(self.ipv4))
    }
}

/// How many there are: nobody reads millions.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sources({} prefixes, others {:?})", self.len(), self.others())
    }
}

/// A prefix as it is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// In host order, the highest word first. IPv4 takes the first alone.
    network: [u32; 4],
    /// The length, then 24 bits of action.
    meaning: u32,
    /// The line it is from while the list is put together, with [`Entry::IN_FILE`] if of the sources file; then 0.
    origin: u32,
}

const _: () = assert!(size_of::<Entry>() == 24);

impl Entry {
    /// Marks a line of the sources file.
    pub(crate) const IN_FILE: u32 = 1 << 31;

    /// The bits of `meaning` that are the action, and what they are for [`SourceAction::Allow`].
    const ACTION: u32 = 0xff_ffff;
    const ALLOW: u32 = 0;
    const DENY: u32 = 1;
    const FIRST_BACKEND: u32 = 2;

    pub(crate) fn new(prefix: Prefix, action: SourceAction, origin: u32) -> Self {
        let network = match prefix.network {
            IpAddr::V4(v4) => [v4.to_bits(), 0, 0, 0],
            IpAddr::V6(v6) => [96, 64, 32, 0].map(|shift| (v6.to_bits() >> shift) as u32),
        };
        let action = match action {
            SourceAction::Allow => Self::ALLOW,
            SourceAction::Deny => Self::DENY,
            SourceAction::Backend(index) => Self::FIRST_BACKEND + index as u32,
        };
        Self { network, meaning: u32::from(prefix.len) << 24 | action, origin }
    }

    pub(crate) fn rule(&self, ipv4: bool) -> SourceRule {
        let network = if ipv4 {
            Ipv4Addr::from_bits(self.network[0]).into()
        } else {
            let bits = self.network.iter().fold(0_u128, |bits, &word| bits << 32 | u128::from(word));
            Ipv6Addr::from_bits(bits).into()
        };
        let action = match self.meaning & Self::ACTION {
            Self::ALLOW => SourceAction::Allow,
            Self::DENY => SourceAction::Deny,
            backend => SourceAction::Backend((backend - Self::FIRST_BACKEND) as usize),
        };
        SourceRule { prefix: Prefix { network, len: (self.meaning >> 24) as u8 }, action }
    }

    /// The line of the sources file it is from; `Err`: of the configuration itself.
    pub(crate) fn line(&self) -> Result<u32, u32> {
        if self.origin & Self::IN_FILE != 0 { Ok(self.origin & !Self::IN_FILE) } else { Err(self.origin) }
    }

    /// The backend that clients are sent to.
    fn target(&self) -> Option<usize> {
        (self.meaning & Self::ACTION).checked_sub(Self::FIRST_BACKEND).map(|backend| backend as usize)
    }

    fn place(&self) -> ([u32; 4], u32) {
        (self.network, self.meaning >> 24)
    }
}

/// Puts `entries` in order, one for each prefix; `contradiction` is told of each that says something else than an
/// earlier one. `backends`: the addresses of the service's.
pub(crate) fn put_together(
    mut entries: Vec<Entry>,
    ipv4: bool,
    backends: &[IpAddr],
    mut contradiction: impl FnMut(&Entry, &Entry),
) -> Sources {
    entries.sort_unstable_by_key(|entry| (entry.place(), entry.origin));
    entries.dedup_by(|later, earlier| {
        let same = later.place() == earlier.place();
        if same && later.meaning != earlier.meaning {
            contradiction(earlier, later);
        }
        same
    });
    entries.shrink_to_fit();
    for entry in &mut entries {
        entry.origin = 0;
    }
    let others_denied = entries.iter().any(|entry| entry.meaning & Entry::ACTION == Entry::ALLOW);
    let targets: BTreeSet<usize> = entries.iter().filter_map(Entry::target).collect();
    Sources {
        fingerprint: fingerprint(&entries, ipv4, backends),
        entries: Arc::new(entries),
        ipv4,
        others_denied,
        targets: targets.into_iter().collect(),
    }
}

/// SipHash-2-4 under an all-zero key. (A secret would differ from machine to machine; and nobody gains by two lists that
/// share a number, but who writes both.)
fn fingerprint(entries: &[Entry], ipv4: bool, backends: &[IpAddr]) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write_u8(if ipv4 { 4 } else { 6 });
    for entry in entries {
        for word in entry.network {
            hasher.write_u32(word.to_le());
        }
        let Some(target) = entry.target() else {
            hasher.write_u32(entry.meaning.to_le());
            continue;
        };
        hasher.write_u32((entry.meaning & !Entry::ACTION | Entry::FIRST_BACKEND).to_le());
        match backends.get(target) {
            Some(IpAddr::V4(v4)) => hasher.write(&v4.to_ipv6_mapped().octets()),
            Some(IpAddr::V6(v6)) => hasher.write(&v6.octets()),
            // A service with a mistake in a backend: there will be no configuration.
            None => {}
        }
    }
    hasher.finish()
}

/// What the configuration itself says of a service's clients, so far.
#[derive(Default)]
pub(crate) struct SourceList {
    seen: HashMap<Prefix, (SourceAction, Span)>,
    entries: Vec<Entry>,
}

impl SourceList {
    /// Reports what contradicts an earlier place.
    pub(crate) fn add(&mut self, prefix: Prefix, action: SourceAction, span: &Span, report: &mut Report<'_>) {
        if let Some((first, at)) = self.seen.get(&prefix) {
            if *first == action {
                return;
            }
            let earlier = report.position(at).line;
            let message =
                format!("{prefix} {} here and {} on line {earlier}", said(action), said_too(*first, action));
            report.error(span, message, ONE_MEANING);
            return;
        }
        let line = report.position(span).line;
        self.seen.insert(prefix, (action, span.clone()));
        self.entries.push(Entry::new(prefix, action, line));
    }

    /// The entries with their lines.
    pub(crate) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}

/// What to do about a contradiction.
pub(crate) const ONE_MEANING: &str =
    "say it once; where only some of its addresses are meant, a longer prefix decides for them";

/// As in "198.51.100.0/24 is denied".
pub(crate) fn said(action: SourceAction) -> &'static str {
    match action {
        SourceAction::Allow => "is allowed",
        SourceAction::Deny => "is denied",
        SourceAction::Backend(_) => "is sent to one backend",
    }
}

/// The same of an earlier place that says another thing than `later`.
pub(crate) fn said_too(action: SourceAction, later: SourceAction) -> &'static str {
    match (action, later) {
        (SourceAction::Backend(_), SourceAction::Backend(_)) => "to another",
        (SourceAction::Backend(_), _) => "sent to a backend",
        (SourceAction::Allow, _) => "allowed",
        (SourceAction::Deny, _) => "denied",
    }
}
