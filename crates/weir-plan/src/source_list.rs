//! A service's clients as the datapath looks them up.
//!
//! Owns: the numbers that stand for backends in a list, and the lists' ids. May not touch: what is in the tables.
//! Invariant: what a list's entries say is settled by its fingerprint alone, so that lists of one fingerprint can share an
//! id, and a list that a service names need not be read back.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use weir_abi::{PrefixKey, SourceRule};
use weir_config::{SourceAction, Sources};

/// A list with something in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceList {
    sources: Sources,
    /// The backends that clients are sent to, by place among the service's, ascending; and their numbers.
    numbers: Vec<(usize, u32)>,
}

impl SourceList {
    /// What `sources` says, where the service's backends have these addresses; `None` if it says nothing.
    ///
    /// A backend's number comes from its address: it stays the same when backends are added, taken out or put into
    /// another order, so that a list which is still in use means the same while the next one is written.
    pub fn new(sources: &Sources, backends: &[IpAddr]) -> Option<Self> {
        if sources.is_empty() {
            return None;
        }
        let mut targets: Vec<(IpAddr, usize)> = sources
            .targets()
            .iter()
            .filter_map(|&index| backends.get(index).map(|address| (*address, index)))
            .collect();
        targets.sort_unstable();
        let mut used = BTreeSet::new();
        let mut numbers: Vec<(usize, u32)> = targets
            .into_iter()
            .map(|(address, index)| {
                let mut number = number_of(address);
                while !used.insert(number) {
                    number = number.wrapping_add(1);
                }
                (index, number)
            })
            .collect();
        numbers.sort_unstable();
        Some(Self { sources: sources.clone(), numbers })
    }

    /// How many prefixes it has.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Equal for lists that say the same.
    pub fn fingerprint(&self) -> u64 {
        self.sources.fingerprint()
    }

    /// The backends that clients are sent to, by place among the service's, and what the list calls them.
    pub fn numbers(&self) -> &[(usize, u32)] {
        &self.numbers
    }

    /// What is stored for it under the id `list`.
    pub fn entries(&self, list: u32) -> impl Iterator<Item = (PrefixKey, SourceRule)> {
        self.sources.iter().map(move |rule| {
            let key = PrefixKey::sources(list, rule.prefix.network.into(), rule.prefix.len);
            let rule = match rule.action {
                SourceAction::Allow => SourceRule::ALLOW,
                SourceAction::Deny => SourceRule::DENY,
                SourceAction::Backend(index) => self.rule_to(index),
            };
            (key, rule)
        })
    }

    fn rule_to(&self, backend: usize) -> SourceRule {
        match self.numbers.binary_search_by_key(&backend, |(index, _)| *index) {
            Ok(at) => SourceRule::server(self.numbers[at].1),
            // Not of a valid configuration.
            Err(_) => SourceRule::DENY,
        }
    }
}

/// An IPv4 address itself, or 32 bits of a hash.
fn number_of(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            weir_maglev::fingerprint(&[96, 64, 32, 0].map(|shift| (bits >> shift) as u32)) as u32
        }
    }
}

/// The lists' ids: never 0, the same for the same content, different for different content.
///
/// An id is the fingerprint's low half. (Where two lists share that, one of them gets another. Against a list that went
/// out of use in the moment before there is no such guard: of four thousand million changes, one would take the old
/// list for the new.)
pub(crate) fn list_ids<'l>(lists: impl Iterator<Item = Option<&'l SourceList>>) -> Vec<u32> {
    let mut by_fingerprint: HashMap<u64, u32> = HashMap::new();
    let mut used = BTreeSet::from([0]);
    lists
        .map(|list| {
            let Some(fingerprint) = list.map(SourceList::fingerprint) else { return 0 };
            *by_fingerprint.entry(fingerprint).or_insert_with(|| {
                let mut id = fingerprint as u32;
                let step = (fingerprint >> 32) as u32 | 1;
                while !used.insert(id) {
                    id = id.wrapping_add(step);
                }
                id
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> SourceList {
        let head = "director = { interfaces = [\"eth0\"] }\n[[service]]\nvip = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\n";
        let config = weir_config::parse("", &format!("{head}{text}")).expect("valid");
        let service = &config.services[0];
        let addresses: Vec<_> = service.backends.iter().map(|backend| backend.address).collect();
        SourceList::new(&service.sources, &addresses).expect("not empty")
    }

    #[test]
    fn entries_say_what_the_file_says() {
        let list = list(
            "deny = [\"198.51.100.0/24\"]\nallow = [\"0.0.0.0/0\"]\nbackend = [{ address = \"10.0.0.1\" },
             { address = \"2001:db8::1\", sources = [\"203.0.113.7\"] }, { address = \"10.0.0.2\", sources = [\"203.0.113.8\"] }]",
        );
        let [(1, six), (2, four)] = list.numbers()[..] else { panic!("two are named") };
        assert_eq!(four, 0x0a00_0002);
        let key = |network: [u8; 4], len| PrefixKey::sources(9, IpAddr::from(network).into(), len);
        assert_eq!(
            list.entries(9).collect::<Vec<_>>(),
            [
                (key([0; 4], 0), SourceRule::ALLOW),
                (key([198, 51, 100, 0], 24), SourceRule::DENY),
                (key([203, 0, 113, 7], 32), SourceRule::server(six)),
                (key([203, 0, 113, 8], 32), SourceRule::server(four)),
            ]
        );
    }

    #[test]
    fn equal_lists_share_an_id_and_others_do_not() {
        let (a, b) = (list("deny = [\"10.0.0.0/8\"]"), list("deny = [\"10.0.0.0/9\"]"));
        let ids = list_ids([Some(&a), None, Some(&b), Some(&a.clone())].into_iter());
        assert_eq!((ids[0], ids[1]), (ids[3], 0));
        assert!(ids[0] != 0 && ids[2] != 0 && ids[0] != ids[2]);
    }
}
