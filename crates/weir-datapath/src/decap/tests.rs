use super::memory::*;
use super::*;
use core::cell::RefCell;
use proptest::prelude::*;
use std::vec::Vec;
use std::{format, vec};
use weir_abi::agent::Verdict;
use weir_wire::{IpProtocol, checksum};

mod gue;
mod tags;

/// One director, one own address and one VIP of each family.
struct Known {
    gue_port: u16,
    counted: RefCell<Vec<(Reason, u64)>>,
}

fn is(family: Family, address: Address, v4: [u8; 4], v6: [u8; 16]) -> bool {
    match family {
        Family::V4 => address == outer::v4_address(v4),
        Family::V6 => address == outer::v6_address(v6),
    }
}

impl AgentTables for Known {
    fn is_director(&self, family: Family, address: Address) -> bool {
        is(family, address, DIRECTOR4, DIRECTOR6)
    }
    fn is_own(&self, family: Family, address: Address) -> bool {
        is(family, address, OWN4, OWN6)
    }
    fn is_vip(&self, family: Family, address: Address) -> bool {
        is(family, address, VIP4, VIP6)
    }
    fn gue_port(&self) -> GuePort {
        GuePort::new(self.gue_port)
    }
    fn count(&self, reason: Reason, bytes: u64) {
        self.counted.borrow_mut().push((reason, bytes));
    }
}

/// Runs the packet; it must be counted once, and must be byte-identical when it is passed. Where no tags are looked behind
/// the same happens to it, unless it has one.
fn run(packet: &Memory) -> (Reason, Memory) {
    run_with(Gue::PORT, packet)
}

fn run_with(gue_port: u16, packet: &Memory) -> (Reason, Memory) {
    let [tagged, untagged] = [unwrap_tagged::<Memory, Known>, unwrap::<Memory, Known>].map(|program| {
        let (known, mut frame) = (Known { gue_port, counted: RefCell::default() }, packet.clone());
        let reason = program(&mut frame, &known);
        assert_eq!(*known.counted.borrow(), [(reason, packet.0.len() as u64)]);
        if reason.verdict() == Verdict::Pass {
            assert_eq!(&frame, packet, "passed but changed: {}", reason.label());
        }
        (reason, frame)
    });
    let has_tag = packet.at::<Ethernet>(0).is_some_and(|ethernet| ethernet.ether_type().is_vlan());
    if has_tag {
        assert_eq!(untagged.0, Reason::VlanTagged);
    } else {
        assert_eq!(untagged, tagged);
    }
    tagged
}

fn inner4(tos: u8, payload: &[u8]) -> Vec<u8> {
    ipv4(CLIENT4, VIP4, tos, IpProtocol::TCP, payload)
}

fn inner6(class: u8, payload: &[u8]) -> Vec<u8> {
    ipv6(CLIENT6, VIP6, class, IpProtocol::TCP, payload)
}

fn in4(inner: &[u8], protocol: IpProtocol, tos: u8) -> Memory {
    framed(EtherType::IPV4, &ipv4(DIRECTOR4, OWN4, tos, protocol, inner))
}

fn in6(inner: &[u8], next: IpProtocol, class: u8) -> Memory {
    framed(EtherType::IPV6, &ipv6(DIRECTOR6, OWN6, class, next, inner))
}

#[test]
fn each_pair_of_families_is_unwrapped_to_the_packet_that_was_wrapped() {
    let (four, six) = (inner4(0, b"hello"), inner6(0, b"hello"));
    let plain4 = framed(EtherType::IPV4, &four);
    let plain6 = framed(EtherType::IPV6, &six);
    for (wrapped, expected, reason) in [
        (in4(&four, IpProtocol::IPV4, 0), &plain4, Reason::Unwrapped4In4),
        (in6(&six, IpProtocol::IPV6, 0), &plain6, Reason::Unwrapped6In6),
        (in6(&four, IpProtocol::IPV4, 0), &plain4, Reason::Unwrapped4In6),
        (in4(&six, IpProtocol::IPV6, 0), &plain6, Reason::Unwrapped6In4),
    ] {
        assert_eq!(run(&wrapped), (reason, expected.clone()));
    }
}

#[test]
fn what_is_not_a_directors_wrapped_packet_to_a_vip_is_passed_untouched() {
    let vip = inner4(0, b"x");
    let wrap = |source, destination, protocol, inner: &[u8]| {
        framed(EtherType::IPV4, &ipv4(source, destination, 0, protocol, inner))
    };
    let other = ipv4(CLIENT4, OWN4, 0, IpProtocol::TCP, b"x");
    let mut fragment = wrap(DIRECTOR4, OWN4, IpProtocol::IPV4, &vip);
    fragment.0[20] = 0x20; // more fragments
    let mut short = wrap(DIRECTOR4, OWN4, IpProtocol::IPV4, &vip);
    short.0.pop();
    let destination_options = [&[IpProtocol::IPV4.0, 0, 4, 1, 4, 1, 1, 0][..], &vip].concat();
    let fragment6 = [&[IpProtocol::IPV6.0, 0, 0, 1, 0, 0, 0, 1][..], &vip].concat();
    let of_udp = [&[IpProtocol::UDP.0, 0, 0, 1, 0, 0, 0, 1][..], &vip].concat();
    for (packet, reason) in [
        (Memory(vec![0; 10]), Reason::NotIp),
        (framed(EtherType::ARP, &[0; 28]), Reason::NotIp),
        (framed(EtherType::IPV4, &vip), Reason::NotTunnel),
        (framed(EtherType::IPV6, &inner6(0, b"x")), Reason::NotTunnel),
        (wrap(CLIENT4, OWN4, IpProtocol::IPV4, &vip), Reason::NotDirector),
        (wrap(DIRECTOR4, [10, 0, 0, 12], IpProtocol::IPV4, &vip), Reason::NotOwnAddress),
        (wrap(DIRECTOR4, OWN4, IpProtocol::IPV4, &other), Reason::NotVip),
        (fragment, Reason::OuterFragment),
        (short, Reason::OuterMalformed),
        (framed(EtherType::IPV4, &[0x45]), Reason::OuterMalformed),
        (framed(EtherType::IPV6, &[0x60]), Reason::OuterMalformed),
        (in6(&destination_options, IpProtocol::DESTINATION_OPTIONS, 0), Reason::OuterExtension),
        (in6(&fragment6, IpProtocol::FRAGMENT, 0), Reason::OuterFragment),
        (in6(&of_udp, IpProtocol::FRAGMENT, 0), Reason::NotTunnel),
        (in6(&[], IpProtocol::FRAGMENT, 0), Reason::OuterMalformed),
    ] {
        assert_eq!(run(&packet).0, reason);
    }
}

#[test]
fn outer_options_are_taken_off_with_the_header() {
    let inner = inner4(0, b"data");
    for words in 1..=10 {
        let options = vec![1u8; words * 4];
        let outer = ipv4_with_options(DIRECTOR4, OWN4, 0, IpProtocol::IPV4, &options, &inner);
        let (reason, frame) = run(&framed(EtherType::IPV4, &outer));
        assert_eq!((reason, frame), (Reason::Unwrapped4In4, framed(EtherType::IPV4, &inner)));
    }
}

#[test]
fn what_a_director_wrapped_badly_is_dropped() {
    let (four, six) = (inner4(0, &[7; 30]), inner6(0, &[7; 30]));
    let mut long4 = four.clone();
    long4[3] += 1;
    let mut lying_ihl = four.clone();
    lying_ihl[0] = 0x44;
    let mut shorter_than_header = four.clone();
    shorter_than_header[2..4].copy_from_slice(&19u16.to_be_bytes());
    let mut long6 = six.clone();
    long6[5] += 1;
    for packet in [
        in4(&[], IpProtocol::IPV4, 0),
        in4(&four[..19], IpProtocol::IPV4, 0),
        in4(&four[..49], IpProtocol::IPV4, 0),
        in4(&six, IpProtocol::IPV4, 0),
        in4(&long4, IpProtocol::IPV4, 0),
        in4(&lying_ihl, IpProtocol::IPV4, 0),
        in4(&shorter_than_header, IpProtocol::IPV4, 0),
        in6(&six[..39], IpProtocol::IPV6, 0),
        in6(&six[..69], IpProtocol::IPV6, 0),
        in6(&four, IpProtocol::IPV6, 0),
        in6(&long6, IpProtocol::IPV6, 0),
    ] {
        assert_eq!(run(&packet).0, Reason::InnerMalformed, "{packet:?}");
    }
    // Padding of a short Ethernet frame is no part of the outer packet: the inner one must not reach into it.
    let mut padded = in4(&long4, IpProtocol::IPV4, 0);
    padded.0.extend([0; 20]);
    assert_eq!(run(&padded).0, Reason::InnerMalformed);
}

#[test]
fn congestion_marks_move_inside_with_a_right_checksum() {
    for (inner, outer, expected) in
        [(0b10, 0b11, Some(0b11)), (0b10, 0b01, Some(0b01)), (0, 0b11, None), (0b01, 0, Some(0b01))]
    {
        let four = run(&in4(&inner4(inner, b"p"), IpProtocol::IPV4, outer));
        let six = run(&in6(&inner6(inner, b"p"), IpProtocol::IPV6, outer));
        match expected {
            None => assert_eq!((four.0, six.0), (Reason::EcnViolation, Reason::EcnViolation)),
            Some(ecn) => {
                assert_eq!(four.1, framed(EtherType::IPV4, &inner4(ecn, b"p")));
                assert_eq!(six.1, framed(EtherType::IPV6, &inner6(ecn, b"p")));
            }
        }
    }
}

/// Arbitrary bytes, or a good wrapped packet with some bytes changed and its end cut off.
fn any_frame() -> impl Strategy<Value = Memory> {
    let changed = (0usize..8, vec_of_changes(), any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(kind, changes, cut, whole)| {
            let (four, six) = (inner4(2, &[3; 40]), inner6(2, &[3; 40]));
            let mut frame = match kind {
                0 => in4(&four, IpProtocol::IPV4, 3),
                1 => in6(&six, IpProtocol::IPV6, 3),
                2 => in6(&four, IpProtocol::IPV4, 3),
                3 => in4(&six, IpProtocol::IPV6, 3),
                4 => gue::in4(&gue::variant1(&six), 3),
                5 => gue::in6(&gue::variant0(&four), 3),
                6 => tags::tagged(&[0x8005], &gue::in4(&gue::variant0(&six), 3)),
                _ => tags::tagged(&[0x8005, 0x2fff], &in6(&four, IpProtocol::IPV4, 3)),
            };
            for (at, value) in changes {
                let at = at.index(frame.0.len());
                frame.0[at] = value;
            }
            if !whole {
                frame.0.truncate(cut.index(frame.0.len() + 1));
            }
            frame
        },
    );
    prop_oneof![
        1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(Memory),
        4 => changed,
    ]
}

fn vec_of_changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_bytes_panic_and_only_the_outer_header_is_ever_removed(packet in any_frame()) {
        let (reason, frame) = run(&packet);
        if reason.verdict() == Verdict::Unwrap {
            let removed = packet.0.len() - frame.0.len();
            prop_assert!((20..=72).contains(&removed), "{removed}");
            // All but the link header and the inner header's mark and checksum is what it was.
            let tags = if packet.0[12..14] != [0x81, 0] && packet.0[12..14] != [0x88, 0xa8] {
                0
            } else if packet.0[16..18] != [0x81, 0] && packet.0[16..18] != [0x88, 0xa8] {
                1
            } else {
                2
            };
            let head = Ethernet::LEN + 4 * tags + 12;
            prop_assert_eq!(&frame.0[head..], &packet.0[head + removed..]);
            prop_assert_eq!(&frame.0[..12], &packet.0[..12]);
        }
    }

    #[test]
    fn unwrapping_what_was_wrapped_gives_the_packet_back(
        payload in proptest::collection::vec(any::<u8>(), 0..1400),
        dscp: u8,
        v6_inside: bool,
        v6_outside: bool,
        // Nothing, GUE variant 1, GUE variant 0.
        gue in 0usize..3,
        options in 0usize..=10,
        vlans in proptest::collection::vec(any::<u16>(), 0..3),
    ) {
        let tos = dscp & !3;
        let (inner, protocol, ether_type) = if v6_inside {
            (inner6(tos, &payload), IpProtocol::IPV6, EtherType::IPV6)
        } else {
            (inner4(tos, &payload), IpProtocol::IPV4, EtherType::IPV4)
        };
        let (protocol, wrapped) = match gue {
            0 => (protocol, inner.clone()),
            1 => (IpProtocol::UDP, gue::variant1(&inner)),
            _ => (IpProtocol::UDP, gue::variant0(&inner)),
        };
        let wrapped = if v6_outside {
            in6(&wrapped, protocol, tos)
        } else {
            let outer = ipv4_with_options(DIRECTOR4, OWN4, tos, protocol, &vec![1; options * 4], &wrapped);
            framed(EtherType::IPV4, &outer)
        };
        let (reason, frame) = run(&tags::tagged(&vlans, &wrapped));
        prop_assert_eq!(reason.verdict(), Verdict::Unwrap, "{}", format!("{reason:?}"));
        prop_assert_eq!(frame, tags::tagged(&vlans, &framed(ether_type, &inner)));
    }

    #[test]
    fn a_moved_mark_keeps_the_inner_checksum_right(dscp: u8, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        let (reason, frame) = run(&in4(&inner4(dscp & !3 | 2, &payload), IpProtocol::IPV4, 3));
        prop_assert_eq!(reason, Reason::Unwrapped4In4);
        prop_assert!(checksum::is_valid(&frame.0[14..34]));
    }
}
