//! Which bits of outer sources vary by flow.
//!
//! Owns: when a mask may change. Invariant: a backend's packets have sources in the network it was made with. The masks are
//! everybody's, and a backend that drains keeps its network: as long as there is one of another network than is wanted,
//! no bit is added to the mask, because it could be one of that network's.

use weir_abi::{Address, Family};

use crate::{DesiredDirector, ObservedBackend, SourceMasks};

/// The masks as they may be beside `others`, where they have been `old`. (Backends that are new do not count: their network
/// is the one that is wanted.)
pub(crate) fn allowed<'b>(
    director: &DesiredDirector,
    old: SourceMasks,
    others: impl Iterator<Item = &'b ObservedBackend>,
) -> SourceMasks {
    let wanted_v4 = director.spread_v4.map(|(network, len)| (Address::from(network), mask_v4(len)));
    let wanted_v6 = director.spread_v6.map(|(network, len)| (Address::from(network), mask_v6(len)));
    let (mut has_others_v4, mut has_others_v6) = (false, false);
    for backend in others.filter(|backend| backend.spreads_source()) {
        let is_other = |wanted: Option<Address>| wanted != Some(backend.source());
        match backend.encapsulation().and_then(weir_abi::Encapsulation::outer_family) {
            Some(Family::V4) => has_others_v4 |= is_other(wanted_v4.map(|(network, _)| network)),
            Some(Family::V6) => has_others_v6 |= is_other(wanted_v6.map(|(network, _)| network)),
            None => {}
        }
    }
    SourceMasks {
        v4: match (wanted_v4, has_others_v4) {
            (None, false) => 0,
            (None, true) => old.v4,
            (Some((_, mask)), false) => mask,
            (Some((_, mask)), true) => mask & old.v4,
        },
        v6: match (wanted_v6, has_others_v6) {
            (None, false) => 0,
            (None, true) => old.v6,
            (Some((_, mask)), false) => mask,
            (Some((_, mask)), true) => mask & old.v6,
        },
    }
}

/// The bits behind a prefix, as they stand in packets.
fn mask_v4(len: u8) -> u32 {
    u32::MAX.checked_shr(len.into()).unwrap_or(0).to_be()
}

/// The same of the last eight bytes of an IPv6 address.
fn mask_v6(len: u8) -> u64 {
    u64::MAX.checked_shr(len.saturating_sub(64).into()).unwrap_or(0).to_be()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use weir_abi::{BackendFields, BackendState, Encapsulation};

    use super::*;

    #[test]
    fn masks_are_what_a_prefix_leaves() {
        assert_eq!(mask_v4(16), u32::from_ne_bytes([0, 0, 255, 255]));
        assert_eq!(mask_v4(31), u32::from_ne_bytes([0, 0, 0, 1]));
        assert_eq!((mask_v6(16), mask_v6(64)), (u64::MAX, u64::MAX));
        assert_eq!(mask_v6(100), u64::from_ne_bytes([0, 0, 0, 0, 0x0f, 0xff, 0xff, 0xff]));
        assert_eq!(mask_v6(127), u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]));
    }

    fn backend(network: [u8; 4]) -> ObservedBackend {
        let fields = BackendFields {
            destination: Ipv4Addr::new(10, 0, 0, 11).into(),
            source: Ipv4Addr::from(network).into(),
            next_hop_mac: [2; 6],
            mtu: 1500,
            source_mac: [2; 6],
            state: BackendState::Draining,
            encapsulation: Encapsulation::Ip4InIp4,
            spread_source: true,
            ifindex: 2,
            vlan: 0,
            service_id: 1,
            drain_until: 100,
        };
        ObservedBackend { record: fields.record() }
    }

    #[test]
    fn a_mask_grows_only_when_nobody_is_left_of_another_network() {
        let wanted = |spread_v4| DesiredDirector { spread_v4, ..DesiredDirector::default() };
        let masks = |v4: u32| SourceMasks { v4: v4.to_be(), v6: 0 };
        let others = [backend([10, 1, 2, 0])];
        let narrow = wanted(Some(([10, 1, 2, 0].into(), 24)));
        let wide = wanted(Some(([172, 16, 0, 0].into(), 16)));
        assert_eq!(
            allowed(&narrow, masks(0), others.iter()),
            masks(0xff),
            "it is the network that is wanted"
        );
        assert_eq!(allowed(&wide, masks(0xff), others.iter()), masks(0xff));
        assert_eq!(allowed(&wide, masks(0xff), [].iter()), masks(0xffff));
        assert_eq!(
            allowed(&wanted(Some(([10, 9, 9, 0].into(), 28))), masks(0xff), others.iter()),
            masks(0xf)
        );
        assert_eq!(allowed(&wanted(None), masks(0xff), others.iter()), masks(0xff));
        assert_eq!(allowed(&wanted(None), masks(0xff), [].iter()), masks(0));
    }
}
