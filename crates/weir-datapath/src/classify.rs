//! Flow to service.
//!
//! Owns the probe sequence and the order of the lookups. May not touch packet bytes.
use crate::Tables;
use weir_abi::{Control, MAX_PROBES, Reason, Service, ServiceKey, service_index};

/// The entry for exactly this key.
#[inline(always)]
pub fn find<T: Tables>(
    tables: &T,
    control: &Control<T::Words>,
    key: &ServiceKey,
) -> Option<Service<T::Words>> {
    let table = control.service_table();
    let start = service_index(key, table.seed());
    let mut probe = 0;
    while probe < MAX_PROBES {
        let service = tables.service(table.base().wrapping_add(start.wrapping_add(probe) & table.mask()))?;
        if service.matches(key) {
            return Some(service);
        }
        if service.is_empty() {
            return None;
        }
        probe += 1;
    }
    None
}

/// The service a flow belongs to: its own port's, else its VIP's "every port" service. The error is the reason to pass
/// the packet.
#[inline(always)]
pub fn classify<T: Tables>(
    tables: &T,
    control: &Control<T::Words>,
    key: &ServiceKey,
) -> Result<Service<T::Words>, Reason> {
    if let Some(service) = find(tables, control, key) {
        return Ok(service);
    }
    // Traffic of others is the common case here, and one more lookup settles it.
    if find(tables, control, &key.vip_only()).is_none() {
        return Err(Reason::NotService);
    }
    find(tables, control, &ServiceKey { port: 0, ..*key }).ok_or(Reason::VipOther)
}
