//! Where in the service table each entry goes.
//!
//! Owns: the choice of seed and size. Invariant: every key is found within [`MAX_PROBES`] entries of where its probe
//! sequence begins, with no empty entry in between.

use weir_abi::{MAX_PROBES, ServiceKey, ServiceRecord, ServiceTable, service_index};

/// Seeds tried at one size before the table is doubled.
const SEEDS: u32 = 64;

/// Lays the entries out in a table that begins at `base` and has at most `1 << max_log2` entries. `None`: they do not
/// fit. The same entries give the same table.
pub(crate) fn lay_out(
    entries: &[(ServiceKey, ServiceRecord)],
    base: u32,
    max_log2: u32,
) -> Option<(ServiceTable, Vec<(u32, ServiceRecord)>)> {
    // Half full at most to begin with.
    let first_log2 = (entries.len().max(1) * 2).next_power_of_two().trailing_zeros().min(max_log2);
    (first_log2..=max_log2)
        .flat_map(|log2| (0..SEEDS).map(move |seed| ServiceTable::new(base, log2, seed)))
        .find_map(|table| Some((table, place_all(entries, table)?)))
}

/// Robin Hood hashing: whoever is further from home gets the place. No other order of the entries has a shorter longest
/// probe sequence.
fn place_all(
    entries: &[(ServiceKey, ServiceRecord)],
    table: ServiceTable,
) -> Option<Vec<(u32, ServiceRecord)>> {
    // For each place: the entry's index and how far it is from home.
    let mut places: Vec<Option<(usize, u32)>> = vec![None; table.mask() as usize + 1];
    for (index, (key, _)) in entries.iter().enumerate() {
        let (mut carried, mut distance) = (index, 0);
        let mut place = service_index(key, table.seed()) & table.mask();
        loop {
            if distance == MAX_PROBES {
                return None;
            }
            let Some((resident, from_home)) = &mut places[place as usize] else { break };
            if *from_home < distance {
                std::mem::swap(&mut carried, resident);
                std::mem::swap(&mut distance, from_home);
            }
            place = (place + 1) & table.mask();
            distance += 1;
        }
        places[place as usize] = Some((carried, distance));
    }
    let placed = (0..).zip(places).filter_map(|(place, who)| Some((place, entries[who?.0].1)));
    Some(placed.collect())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use weir_abi::{Address, Family};

    use super::*;

    fn entry(vip: IpAddr, port: u16) -> (ServiceKey, ServiceRecord) {
        let key = ServiceKey {
            vip: Address::from(vip),
            family: Family::of(vip),
            protocol: 6,
            port: port.to_be(),
            prefix_len: 0,
        };
        (key, [key.vip.0[0], key.vip.0[1], key.word(), 0, 1, 0, 0, 0])
    }

    /// As the datapath looks it up.
    fn found(table: ServiceTable, placed: &[(u32, ServiceRecord)], key: &ServiceKey) -> bool {
        let home = service_index(key, table.seed());
        for probe in 0..MAX_PROBES {
            let place = home.wrapping_add(probe) & table.mask();
            match placed.iter().find(|(at, _)| *at == place) {
                None => return false,
                Some((_, r)) if r[2] == key.word() && r[0] == key.vip.0[0] && r[1] == key.vip.0[1] => {
                    return true;
                }
                Some(_) => {}
            }
        }
        false
    }

    #[test]
    fn a_table_is_good_for_four_tenths_of_its_places() {
        let entries: Vec<_> =
            (0..1638_u32).map(|i| entry(Ipv4Addr::from(0xc000_0200 + i).into(), 80)).collect();
        let (table, placed) = lay_out(&entries, 4096, 12).expect("fits");
        assert_eq!(placed.len(), entries.len());
        assert_eq!(table.base(), 4096);
        assert!(entries.iter().all(|(key, _)| found(table, &placed, key)));
    }

    #[test]
    fn more_entries_than_places_do_not_fit() {
        let entries: Vec<_> = (0..5).map(|port| entry(Ipv4Addr::LOCALHOST.into(), port)).collect();
        assert!(lay_out(&entries, 0, 2).is_none());
        assert!(lay_out(&entries[..4], 0, 2).is_some());
    }

    proptest! {
        #[test]
        fn every_key_is_found(
            keys in prop::collection::hash_set((any::<u128>(), any::<bool>(), any::<u16>()), 0..300),
        ) {
            let entries: Vec<_> = keys.into_iter().map(|(bits, v6, port)| {
                let vip = if v6 { Ipv6Addr::from(bits).into() } else { Ipv4Addr::from(bits as u32).into() };
                entry(vip, port)
            }).collect();
            let (table, placed) = lay_out(&entries, 0, 12).expect("fits");
            for (key, _) in &entries {
                prop_assert!(found(table, &placed, key));
            }
        }
    }
}
