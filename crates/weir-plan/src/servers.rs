//! Which backend a server's number means.
//!
//! Owns: what the packets' ids and the source lists' numbers stand for. Invariant: a number means a backend that exists
//! and is its service's, from before the first service asks for it until after the last.

use std::collections::{BTreeMap, BTreeSet};

use weir_abi::{ServerIds, ServerKey};

use crate::{DesiredService, Observed, Op, PlanError};

/// The servers as they are to be.
#[derive(Debug, Default)]
pub(crate) struct ServerPlan {
    next: BTreeMap<ServerKey, u32>,
    /// Services whose packets name servers.
    named_by_packets: BTreeSet<u32>,
    /// Backends that are configured.
    configured: BTreeSet<u32>,
}

impl ServerPlan {
    /// Adds a service's, where its backends have these ids.
    pub(crate) fn service(&mut self, service: &DesiredService, service_id: u32, ids: &[Option<u32>]) {
        if service.traits.server_ids() != ServerIds::None {
            self.named_by_packets.insert(service_id);
            self.configured.extend(ids.iter().flatten());
            for (backend, id) in service.backends.iter().zip(ids) {
                let Some(id) = id else { continue };
                for &number in &backend.server_ids {
                    self.next.insert(ServerKey::of_packet(service_id, number), *id);
                }
            }
        }
        for &(backend, number) in service.sources.iter().flat_map(crate::SourceList::numbers) {
            if let Some(&Some(id)) = ids.get(backend) {
                self.next.insert(ServerKey::of_source(service_id, number), id);
            }
        }
    }

    /// The steps before the services change, and those after it.
    pub(crate) fn steps(
        mut self,
        observed: &Observed,
        gone: &BTreeSet<u32>,
    ) -> Result<(Vec<Op>, Vec<Op>), PlanError> {
        // A backend that drains keeps the flows whose packets name it, unless another one has its id now.
        for (&key, &id) in &observed.servers {
            let drains = observed.backends.get(&id).is_some_and(|b| b.service_id() == key.service_id())
                && !gone.contains(&id)
                && !self.configured.contains(&id);
            if drains && key.is_of_packet() && self.named_by_packets.contains(&key.service_id()) {
                self.next.entry(key).or_insert(id);
            }
        }
        let old = observed.servers.keys().filter(|key| !self.next.contains_key(key));
        let after: Vec<Op> = old.map(|&key| Op::SetServer { key, backend: None }).collect();
        // While the services change, the old ones are there beside the new.
        let most = self.next.len() + after.len();
        if most > observed.limits.servers as usize {
            return Err(PlanError::TooManyServers(most, observed.limits.servers));
        }
        let changed = self.next.into_iter().filter(|(key, id)| observed.servers.get(key) != Some(id));
        Ok((changed.map(|(key, id)| Op::SetServer { key, backend: Some(id) }).collect(), after))
    }
}
