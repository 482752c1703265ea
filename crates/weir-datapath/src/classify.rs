//! Flow to service.
//!
//! Owns the probe sequence and the order of the lookups. May not touch packet bytes.
use crate::Tables;
use weir_abi::{Address, Control, Family, Features, MAX_PROBES, Reason, Service, ServiceKey, service_index};

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
/// the packet. VIP prefixes are not looked at.
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

/// The key under which an address's services are found, protocol and port left out: its own if it is a VIP, else that of
/// the longest VIP prefix around it. `None`: it is none of ours.
#[inline(always)]
pub(crate) fn find_vip<T: Tables>(
    tables: &T,
    control: &Control<T::Words>,
    family: Family,
    address: Address,
) -> Option<ServiceKey> {
    let own = ServiceKey { vip: address, family, protocol: 0, port: 0, prefix_len: 0 };
    if find(tables, control, &own).is_some() {
        return Some(own);
    }
    if !control.features().has(Features::PREFIXES) {
        return None;
    }
    let prefix_len = tables.vip_prefix(family, address)?;
    let around = ServiceKey { vip: leading(address, prefix_len), prefix_len, ..own };
    find(tables, control, &around).map(|_| around)
}

/// An address of which only the first `len` bits are left.
#[inline(always)]
pub(crate) fn leading(address: Address, len: u8) -> Address {
    let len = len as u32;
    let keep = |bits: u32| if bits >= 64 { u64::MAX } else { !(u64::MAX >> (bits & 63)) };
    let (first, second) = (if len > 64 { 64 } else { len }, len.saturating_sub(64));
    // Masks are of packet bytes, whose first is the most significant.
    Address([address.0[0] & keep(first).to_be(), address.0[1] & keep(second).to_be()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    #[test]
    fn the_leading_bits_of_an_address_are_those_that_come_first_in_the_packet() {
        for len in 0..=32u8 {
            let address = Ipv4Addr::new(198, 51, 100, 219);
            let mask = if len == 0 { 0 } else { u32::MAX << (32 - len) };
            let expected = Ipv4Addr::from(u32::from(address) & mask);
            assert_eq!(leading(address.into(), len).to_ip(Family::V4), IpAddr::V4(expected), "/{len}");
        }
        for len in 0..=128u8 {
            let address = Ipv6Addr::from(0x2001_0db8_85a3_ff33_9bc4_8a2e_0370_7335_u128);
            let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
            let expected = Ipv6Addr::from(u128::from(address) & mask);
            assert_eq!(leading(address.into(), len).to_ip(Family::V6), IpAddr::V6(expected), "/{len}");
        }
    }
}
