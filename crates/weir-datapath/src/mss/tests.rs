use super::*;
use crate::decap::memory::*;
use core::cell::RefCell;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;
use weir_abi::agent::Clamp;
use zerocopy::IntoBytes as _;

#[derive(Default)]
struct Known {
    counted: RefCell<Vec<ClampReason>>,
}

impl SegmentTables for Known {
    fn is_vip(&self, family: Family, address: Address) -> bool {
        match family {
            Family::V4 => address == core::net::Ipv4Addr::from(VIP4).into(),
            Family::V6 => address == core::net::Ipv6Addr::from(VIP6).into(),
        }
    }
    fn limits(&self) -> SegmentLimits {
        SegmentLimits::new(1420, 1400)
    }
    fn count(&self, reason: ClampReason, _bytes: u64) {
        self.counted.borrow_mut().push(reason);
    }
}

fn run(packet: &Memory) -> (ClampReason, Memory) {
    let (known, mut frame) = (Known::default(), packet.clone());
    let reason = clamp(&mut frame, &known);
    assert_eq!(*known.counted.borrow(), [reason]);
    if reason.verdict() == Clamp::Untouched {
        assert_eq!(&frame, packet, "untouched but changed: {}", reason.label());
    }
    (reason, frame)
}

/// Sum of the pseudo-header (RFC 9293, section 3.1) of a TCP segment.
fn pseudo(addresses: &[u8], segment_len: usize) -> u32 {
    checksum::sum(addresses)
        + checksum::sum(&[0, IpProtocol::TCP.0])
        + checksum::sum(&(segment_len as u16).to_be_bytes())
}

/// A TCP segment with options and a right checksum.
fn segment(flags: u8, options: &[u8], addresses: &[u8]) -> Vec<u8> {
    let mut padded = options.to_vec();
    padded.resize(options.len().next_multiple_of(4), END_OF_OPTIONS);
    let mut bytes = Tcp::new(80, 40000, 1, 2, flags, 65535).as_bytes().to_vec();
    bytes[12] = (((20 + padded.len()) / 4) << 4) as u8;
    bytes.extend(&padded);
    let sum = checksum::finish(checksum::sum(&bytes) + pseudo(addresses, bytes.len()));
    bytes[16..18].copy_from_slice(&sum);
    bytes
}

fn from4(source: [u8; 4], flags: u8, options: &[u8]) -> Memory {
    let tcp = segment(flags, options, &[source, CLIENT4].concat());
    framed(EtherType::IPV4, &ipv4(source, CLIENT4, 0, IpProtocol::TCP, &tcp))
}

fn from6(flags: u8, options: &[u8]) -> Memory {
    let tcp = segment(flags, options, &[VIP6, CLIENT6].concat());
    framed(EtherType::IPV6, &ipv6(VIP6, CLIENT6, 0, IpProtocol::TCP, &tcp))
}

fn mss(value: u16) -> [u8; 4] {
    let [high, low] = value.to_be_bytes();
    [MSS, MSS_LEN, high, low]
}

const SYN_ACK: u8 = tcp_flags::SYN | tcp_flags::ACK;

#[test]
fn a_vips_syn_and_syn_ack_announce_no_more_than_the_limit() {
    for flags in [tcp_flags::SYN, SYN_ACK] {
        let lowered = run(&from4(VIP4, flags, &mss(1460)));
        assert_eq!(lowered, (ClampReason::Lowered, from4(VIP4, flags, &mss(1420))));
        let lowered = run(&from6(flags, &mss(1440)));
        assert_eq!(lowered, (ClampReason::Lowered, from6(flags, &mss(1400))));
        // What real stacks send: the option first, last, and at an odd place.
        for before in
            [vec![], vec![NO_OPERATION], vec![4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], vec![NO_OPERATION; 3]]
        {
            let with = |value| [before.as_slice(), &mss(value), &[3, 3, 7]].concat();
            let (reason, frame) = run(&from4(VIP4, flags, &with(9000)));
            assert_eq!(reason, ClampReason::Lowered);
            assert_eq!(frame, from4(VIP4, flags, &with(1420)), "behind {before:?}");
        }
    }
}

#[test]
fn everything_else_leaves_untouched() {
    let options = mss(1460);
    let mut short = from4(VIP4, tcp_flags::SYN, &options);
    short.0.truncate(14 + 20 + 22);
    let udp = framed(EtherType::IPV4, &ipv4(VIP4, CLIENT4, 0, IpProtocol::UDP, &[0; 40]));
    for (packet, reason) in [
        (from4(VIP4, tcp_flags::ACK, &options), ClampReason::NotSyn),
        (from4(OWN4, SYN_ACK, &options), ClampReason::NotFromVip),
        (from4(VIP4, SYN_ACK, &mss(1420)), ClampReason::Fits),
        (from4(VIP4, SYN_ACK, &mss(536)), ClampReason::Fits),
        (from4(VIP4, SYN_ACK, &[]), ClampReason::NoOption),
        (from4(VIP4, SYN_ACK, &[NO_OPERATION; 40]), ClampReason::NoOption),
        (from4(VIP4, SYN_ACK, &[END_OF_OPTIONS, 2, 4, 0xff]), ClampReason::NoOption),
        (from4(VIP4, SYN_ACK, &[8, 1, 0, 0]), ClampReason::Malformed),
        (from4(VIP4, SYN_ACK, &[8, 10, 0, 0]), ClampReason::Malformed),
        (from4(VIP4, SYN_ACK, &[MSS, 3, 0xff, 0]), ClampReason::Malformed),
        (short, ClampReason::Malformed),
        (udp, ClampReason::NotSyn),
        (framed(EtherType::ARP, &[0; 28]), ClampReason::NotSyn),
        (Memory(vec![]), ClampReason::NotSyn),
    ] {
        assert_eq!(run(&packet).0, reason, "{packet:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn the_checksum_stays_right_wherever_the_option_is(value: u16, nops in 0usize..36, v6: bool) {
        let with = |value| [vec![NO_OPERATION; nops], mss(value).to_vec()].concat();
        let packet = if v6 { from6(SYN_ACK, &with(value)) } else { from4(VIP4, SYN_ACK, &with(value)) };
        let limit = if v6 { 1400 } else { 1420 };
        let (reason, frame) = run(&packet);
        prop_assert_eq!(reason, if value > limit { ClampReason::Lowered } else { ClampReason::Fits });
        let expected = value.min(limit);
        // 0x0000 and 0xffff are the same number to a checksum, so compare by verifying, not by bytes.
        let (ip, tcp) = if v6 { (22..54, 54) } else { (26..34, 34) };
        let segment = &frame.0[tcp..];
        prop_assert_eq!(checksum::fold(checksum::sum(segment) + pseudo(&frame.0[ip], segment.len())), 0xffff);
        prop_assert_eq!(&segment[20 + nops + 2..20 + nops + 4], &expected.to_be_bytes()[..]);
    }

    #[test]
    fn no_bytes_panic(mut options in proptest::collection::vec(any::<u8>(), 0..40), cut: prop::sample::Index, whole: bool) {
        options.truncate(40);
        let mut frame = from4(VIP4, SYN_ACK, &options);
        if !whole { frame.0.truncate(cut.index(frame.0.len() + 1)); }
        let (reason, after) = run(&frame);
        if reason == ClampReason::Lowered {
            prop_assert_eq!(after.0.len(), frame.0.len());
        }
    }

    #[test]
    fn no_arbitrary_frame_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        run(&Memory(bytes));
    }
}
