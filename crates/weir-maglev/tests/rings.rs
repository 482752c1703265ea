//! What rings promise, over random members; and rings that must never change.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::Index;

use weir_maglev::{BuildError, Identity, Member, Ring, RingSize, build, fingerprint, rotation};

/// Members of these weights; `cluster` gives them other identities.
fn members(cluster: u16, weights: &[u32]) -> Vec<Member> {
    (0..)
        .zip(weights)
        .map(|(value, &weight)| {
            let address = Ipv6Addr::new(0x2001, 0xdb8, cluster, 0, 0, 0, (value >> 16) as u16, value as u16);
            Member { identity: Identity::of_address(address.into()), weight, value }
        })
        .collect()
}

fn ring(size: RingSize, members: &[Member]) -> Ring {
    build(size, members).unwrap().expect("someone has a weight")
}

fn counts(ring: &Ring) -> HashMap<u32, u32> {
    let mut counts = HashMap::new();
    for &value in ring.slots() {
        *counts.entry(value).or_default() += 1;
    }
    counts
}

/// How many slots belong to someone else, and how many of them to others than `changed` before and after.
fn moved(before: &Ring, after: &Ring, changed: u32) -> (usize, usize) {
    let pairs = || before.slots().iter().zip(after.slots()).filter(|(a, b)| a != b);
    (pairs().count(), pairs().filter(|(a, b)| **a != changed && **b != changed).count())
}

fn size() -> impl Strategy<Value = RingSize> {
    (8_u32..=14).prop_map(|log| RingSize::new(1 << log).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_slot_belongs_to_a_member_with_a_weight_and_each_of_them_has_one(
        cluster: u16, size in size(), weights in prop::collection::vec(0_u32..=65535, 0..200),
    ) {
        let Some(ring) = build(size, &members(cluster, &weights)).unwrap() else {
            prop_assert!(weights.iter().all(|&weight| weight == 0));
            return Ok(());
        };
        prop_assert_eq!(ring.slots().len(), size.slots() as usize);
        let counts = counts(&ring);
        for (value, &weight) in (0..).zip(&weights) {
            prop_assert_eq!(counts.contains_key(&value), weight > 0);
        }
        prop_assert!(counts.keys().all(|&value| (value as usize) < weights.len()));
    }

    #[test]
    fn weights_are_met_within_one_per_cent_at_a_hundred_slots_each(
        cluster: u16, weights in prop::collection::vec(1_u32..=16, 1..60),
    ) {
        // No more than 16 to 1, so that a hundred slots for the lightest is what the automatic size gives.
        let size = RingSize::automatic(weights.iter().copied());
        let ring = ring(size, &members(cluster, &weights));
        let counts = counts(&ring);
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        for (value, &weight) in (0..).zip(&weights) {
            let exact = f64::from(size.slots()) * f64::from(weight) / total;
            prop_assert!(exact >= 100.0);
            prop_assert!((f64::from(counts[&value]) / exact - 1.0).abs() < 0.01);
        }
    }

    #[test]
    fn the_order_they_are_listed_in_makes_no_difference(
        cluster: u16,
        size in size(),
        (listed, shuffled) in prop::collection::vec(0_u32..=1000, 1..100).prop_flat_map(|weights| {
            let listed: Vec<(u32, u32)> = (0..).zip(weights).collect();
            (Just(listed.clone()), Just(listed).prop_shuffle())
        }),
    ) {
        let weights: Vec<u32> = listed.iter().map(|&(_, weight)| weight).collect();
        let members = members(cluster, &weights);
        let shuffled: Vec<Member> = shuffled.iter().map(|&(value, _)| members[value as usize]).collect();
        prop_assert_eq!(build(size, &members), build(size, &shuffled));
    }

    /// Nor do the values; the fingerprint sees neither.
    #[test]
    fn directors_may_call_their_backends_what_they_like(cluster: u16, weights in prop::collection::vec(1_u32..=10, 1..50)) {
        let ours = members(cluster, &weights);
        let theirs: Vec<Member> = ours.iter().map(|member| Member { value: !member.value, ..*member }).collect();
        let [ours, theirs] = [ours, theirs].map(|members| ring(RingSize::for_members(weights.len()), &members));
        prop_assert!(ours.slots().iter().zip(theirs.slots()).all(|(&a, &b)| a == !b));
        prop_assert_eq!(ours.fingerprint(), theirs.fingerprint());
        prop_assert_ne!(fingerprint(ours.slots()), fingerprint(theirs.slots()));
    }

    /// Read from left to right a member goes, from right to left it comes.
    #[test]
    fn one_of_n_equal_members_comes_or_goes(cluster: u16, n in 2_usize..150, who: Index) {
        let size = RingSize::for_members(n);
        let all = members(cluster, &vec![1; n]);
        let who = who.index(n);
        let mut rest = all.clone();
        rest.remove(who);
        let (full, less) = (ring(size, &all), ring(size, &rest));
        let (all_moved, others_moved) = moved(&full, &less, who as u32);
        let own = counts(&full)[&(who as u32)] as usize;
        prop_assert!(own.abs_diff(size.slots() as usize / n) <= 1);
        prop_assert_eq!(all_moved, own + others_moved);
        prop_assert!(others_moved * 100 <= size.slots() as usize * 5, "{others_moved} of {} slots", size.slots());
    }

    /// With weights, too, little moves beside what must.
    #[test]
    fn a_weight_changes(
        cluster: u16, weights in prop::collection::vec(1_u32..=10, 2..60), who: Index, weight in 0_u32..=10,
    ) {
        let size = RingSize::automatic(weights.iter().copied());
        let before = members(cluster, &weights);
        let mut after = before.clone();
        let who = who.index(weights.len());
        after[who].weight = weight;
        let (before, after) = (ring(size, &before), ring(size, &after));
        let (all_moved, others_moved) = moved(&before, &after, who as u32);
        let count = |ring: &Ring| counts(ring).get(&(who as u32)).copied().unwrap_or(0) as usize;
        let needed = count(&before).abs_diff(count(&after));
        prop_assert!(others_moved * 100 <= size.slots() as usize * 8, "{others_moved} of {} slots", size.slots());
        prop_assert!((all_moved - needed) * 100 <= size.slots() as usize * 10, "{all_moved} for {needed}");
        prop_assert!(weight != weights[who] || all_moved == 0);
    }

    /// What doubling keeps is about half of the owners (and by chance alone it would be one in `n`). A flow's slot in the
    /// larger ring does descend from its slot in the smaller; its owner, one time in two, is another.
    #[test]
    fn doubling_keeps_the_owner_of_two_slots_in_five_at_least(cluster: u16, n in 2_usize..60) {
        let all = members(cluster, &vec![1; n]);
        let size = RingSize::for_members(n);
        let twice = RingSize::new(size.slots() * 2).unwrap();
        let (small, large) = (ring(size, &all), ring(twice, &all));
        let kept = (0_u32..).zip(large.slots()).filter(|&(j, &owner)| owner == small.slots()[(j & size.mask()) as usize]).count();
        prop_assert!(kept * 100 >= twice.slots() as usize * 40, "{kept} of {}", twice.slots());
    }
}

#[test]
fn nobody_and_the_same_one_twice() {
    assert_eq!(build(RingSize::MIN, &[]), Ok(None));
    assert_eq!(build(RingSize::MIN, &members(0, &[0, 0])), Ok(None));
    let mut twice = members(0, &[1, 1, 1]);
    twice[2] = Member { weight: 0, value: 9, ..twice[0] };
    let error = build(RingSize::MIN, &twice).unwrap_err();
    assert_eq!(error, BuildError::DuplicateIdentity(0, 2));
    assert_eq!(error.to_string(), "members 0 and 2 have the same identity");
}

#[test]
fn more_members_than_slots() {
    let mut many = members(0, &[1; 257]);
    let error = build(RingSize::MIN, &many).unwrap_err();
    assert_eq!(error, BuildError::TooManyMembers { members: 257, size: RingSize::MIN });
    assert_eq!(error.to_string(), "257 members with a weight do not fit into a ring of 256 slots");
    many[0].weight = 0;
    assert_eq!(counts(&ring(RingSize::MIN, &many)).len(), 256, "each has exactly one");
}

/// If one of these fails, directors of the old version and the new disagree: connections break wherever both serve one
/// VIP. Change them only on purpose, with a word in the change log.
#[test]
fn rings_are_the_same_for_ever() {
    let v4 = |n: u8| Identity::of_address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)));
    let v6 = |n: u16| Identity::of_address(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)));
    let three: Vec<Member> =
        (1..=3).map(|n| Member { identity: v4(n), weight: 1, value: n.into() }).collect();
    let mixed: Vec<Member> =
        (1..=10).map(|n| Member { identity: v6(n), weight: n.into(), value: n.into() }).collect();

    let small = ring(RingSize::MIN, &three);
    assert_eq!(small.slots()[..16], [1, 3, 3, 1, 3, 1, 3, 3, 2, 2, 3, 2, 2, 3, 3, 2]);
    assert_eq!(
        (fingerprint(small.slots()), small.fingerprint()),
        (0x8650_c8ea_9556_708e, 0xef45_8fc0_4b2a_2668)
    );
    let large = ring(RingSize::new(65536).unwrap(), &mixed);
    assert_eq!(
        (fingerprint(large.slots()), large.fingerprint()),
        (0xc826_5fc3_6aeb_a81f, 0xd576_8b32_f36b_4ae8)
    );
}

/// SipHash-2-4's reference vectors have another key; here is one that any implementation can be asked for.
#[test]
fn a_fingerprint_is_siphash_of_the_slots_bytes() {
    assert_eq!(fingerprint(&[]), 0x1e92_4b9d_7377_00d7);
    assert_ne!(fingerprint(&[1, 0]), fingerprint(&[0, 1]));
}

#[test]
fn a_rotation_has_the_weights_of_a_ring_and_names_members_in_turn() {
    let list = |weights: &[u32]| -> Vec<Member> {
        let member = |(value, &weight): (u32, &u32)| Member {
            identity: Identity::of_address(IpAddr::from([10, 0, 0, value as u8])),
            weight,
            value,
        };
        (1..).zip(weights).map(member).collect()
    };
    let equal = rotation(RingSize::MIN, &list(&[7, 7, 0, 7])).unwrap().unwrap();
    assert!(
        equal
            .slots()
            .windows(3)
            .all(|three| three[0] != three[1] && three[1] != three[2] && three[0] != three[2])
    );
    assert!(!equal.slots().contains(&3));

    let mut members = list(&[1, 2, 5]);
    let weighted = rotation(RingSize::MIN, &members).unwrap().unwrap();
    let count = |value| weighted.slots().iter().filter(|&&slot| slot == value).count();
    assert_eq!([count(1), count(2), count(3)], [32, 64, 160]);
    members.reverse();
    assert_eq!(
        rotation(RingSize::MIN, &members).unwrap().unwrap(),
        weighted,
        "the order of the file does not count"
    );
    assert_ne!(build(RingSize::MIN, &members).unwrap().unwrap().fingerprint(), weighted.fingerprint());

    assert_eq!(rotation(RingSize::MIN, &list(&[0, 0])).unwrap(), None);
    let twice = [members[0], members[0]];
    assert_eq!(rotation(RingSize::MIN, &twice), Err(BuildError::DuplicateIdentity(0, 1)));
}
