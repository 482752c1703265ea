//! GUE: UDP between the outer IP header and the inner packet.
use super::*;
use weir_wire::Udp;
use zerocopy::IntoBytes as _;

const CHECKSUM: [u8; 2] = [0xbe, 0xef];

fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut udp = Udp::new(51234, port, (Udp::LEN + payload.len()) as u16);
    udp.checksum = CHECKSUM;
    [udp.as_bytes(), payload].concat()
}

/// The inner packet at once.
pub(super) fn variant1(inner: &[u8]) -> Vec<u8> {
    datagram(Gue::PORT, inner)
}

/// A header first.
pub(super) fn variant0(inner: &[u8]) -> Vec<u8> {
    let protocol =
        if inner.first().is_some_and(|first| first >> 4 == 6) { IpProtocol::IPV6 } else { IpProtocol::IPV4 };
    behind(Gue::new(protocol).as_bytes(), inner)
}

fn behind(header: &[u8], inner: &[u8]) -> Vec<u8> {
    datagram(Gue::PORT, &[header, inner].concat())
}

pub(super) fn in4(udp: &[u8], tos: u8) -> Memory {
    super::in4(udp, IpProtocol::UDP, tos)
}

pub(super) fn in6(udp: &[u8], class: u8) -> Memory {
    super::in6(udp, IpProtocol::UDP, class)
}

#[test]
fn both_variants_are_unwrapped_in_each_pair_of_families() {
    let (four, six) = (inner4(0, b"hello"), inner6(0, b"hello"));
    let plain4 = framed(EtherType::IPV4, &four);
    let plain6 = framed(EtherType::IPV6, &six);
    for variant in [variant1, variant0] {
        for (wrapped, expected, reason) in [
            (in4(&variant(&four), 0), &plain4, Reason::UnwrappedGue4In4),
            (in6(&variant(&six), 0), &plain6, Reason::UnwrappedGue6In6),
            (in6(&variant(&four), 0), &plain4, Reason::UnwrappedGue4In6),
            (in4(&variant(&six), 0), &plain6, Reason::UnwrappedGue6In4),
        ] {
            assert_eq!(run(&wrapped), (reason, expected.clone()));
        }
    }
}

#[test]
fn a_checksum_of_zero_is_as_good_as_another() {
    let four = inner4(0, b"x");
    for (mut wrapped, udp) in [(in4(&variant1(&four), 0), 34), (in6(&variant1(&four), 0), 54)] {
        assert_eq!(wrapped.0[udp + 6..udp + 8], CHECKSUM);
        wrapped.0[udp + 6..udp + 8].fill(0);
        assert_eq!(run(&wrapped).1, framed(EtherType::IPV4, &four));
    }
}

#[test]
fn congestion_marks_move_inside_in_each_pair_of_families() {
    for (inner, outer, expected) in
        [(0b10, 0b11, Some(0b11)), (0b10, 0b01, Some(0b01)), (0, 0b11, None), (0b01, 0, Some(0b01))]
    {
        for variant in [variant1, variant0] {
            let (four, six) = (variant(&inner4(inner, b"p")), variant(&inner6(inner, b"p")));
            let runs = [in4(&four, outer), in6(&four, outer), in4(&six, outer), in6(&six, outer)];
            for (at, wrapped) in runs.iter().enumerate() {
                let (reason, frame) = run(wrapped);
                match expected {
                    None => assert_eq!(reason, Reason::EcnViolation),
                    Some(ecn) if at < 2 => assert_eq!(frame, framed(EtherType::IPV4, &inner4(ecn, b"p"))),
                    Some(ecn) => assert_eq!(frame, framed(EtherType::IPV6, &inner6(ecn, b"p"))),
                }
            }
        }
    }
}

#[test]
fn only_the_gue_port_of_a_director_is_looked_into() {
    let vip = inner4(0, b"x");
    let udp = variant1(&vip);
    let from =
        |source, destination| framed(EtherType::IPV4, &ipv4(source, destination, 0, IpProtocol::UDP, &udp));
    let elsewhere = variant1(&ipv4(CLIENT4, OWN4, 0, IpProtocol::TCP, b"x"));
    for (packet, reason) in [
        (in4(&datagram(6081, &vip), 0), Reason::NotTunnel),
        (in6(&datagram(6081, &vip), 0), Reason::NotTunnel),
        (in4(&udp[..7], 0), Reason::NotTunnel),
        (from(CLIENT4, OWN4), Reason::NotDirector),
        (from(DIRECTOR4, [10, 0, 0, 12]), Reason::NotOwnAddress),
        (in4(&elsewhere, 0), Reason::NotVip),
        (in6(&elsewhere, 0), Reason::NotVip),
    ] {
        assert_eq!(run(&packet).0, reason);
    }
    // Another port, and none: not even port 0.
    assert_eq!(run_with(6081, &in4(&udp, 0)).0, Reason::NotTunnel);
    assert_eq!(run_with(6081, &in4(&datagram(6081, &vip), 0)).0, Reason::UnwrappedGue4In4);
    for port in [0, Gue::PORT] {
        assert_eq!(run_with(0, &in4(&datagram(port, &vip), 0)).0, Reason::NotTunnel);
        assert_eq!(run_with(0, &in6(&datagram(port, &vip), 0)).0, Reason::NotTunnel);
    }
}

#[test]
fn other_kinds_of_gue_are_passed() {
    let vip = inner4(0, b"x");
    for payload in [
        behind(&[0x20, 4, 0, 0], &vip),             // a control message
        behind(&[0x01, 4, 0, 0, 0, 0, 0, 0], &vip), // an extension field
        behind(&[0x00, 4, 0x80, 0], &vip),          // a flag
        behind(&[0x00, 4, 0, 1], &vip),
        behind(&[0x00, 6, 0, 0], &vip),   // TCP
        behind(&[0x00, 59, 0, 0], &[]),   // a keep-alive
        datagram(Gue::PORT, &[0x55; 40]), // variant 1 of no version
        datagram(Gue::PORT, &[0x75; 40]),
        datagram(Gue::PORT, &[0x80, 4, 0, 0, 0x45]), // variants 2 and 3
        datagram(Gue::PORT, &[0xc0, 4, 0, 0, 0x45]),
        datagram(Gue::PORT, &[]),
        datagram(Gue::PORT, &[0, 4, 0]),
    ] {
        assert_eq!(run(&in4(&payload, 0)).0, Reason::GueUnsupported, "{payload:02x?}");
        assert_eq!(run(&in6(&payload, 0)).0, Reason::GueUnsupported, "{payload:02x?}");
    }
    // What stands behind a datagram's end, padding for example, is no part of it.
    let mut padded = in4(&datagram(Gue::PORT, &[]), 0);
    padded.0.extend(&vip);
    assert_eq!(run(&padded).0, Reason::GueUnsupported);
}

#[test]
fn lengths_that_do_not_fit_into_each_other_are_refused() {
    let (four, six) = (inner4(0, &[7; 30]), inner6(0, &[7; 30]));
    for variant in [variant1, variant0] {
        for length in [0u16, 7, u16::MAX] {
            let mut udp = variant(&four);
            udp[4..6].copy_from_slice(&length.to_be_bytes());
            assert_eq!(run(&in4(&udp, 0)).0, Reason::OuterMalformed);
            assert_eq!(run(&in6(&udp, 0)).0, Reason::OuterMalformed);
        }
        // The datagram is shorter than what is inside.
        for inner in [&four, &six] {
            let mut udp = variant(inner);
            udp[5] -= 1;
            assert_eq!(run(&in4(&udp, 0)).0, Reason::InnerMalformed);
            assert_eq!(run(&in6(&udp, 0)).0, Reason::InnerMalformed);
            // Two packets in one: datagrams that were merged. IP in IP may have something behind it.
            let two = [&inner[..], inner].concat();
            assert_eq!(run(&in4(&variant(&two), 0)).0, Reason::InnerMalformed);
            assert_eq!(run(&in6(&variant(&two), 0)).0, Reason::InnerMalformed);
            let cut = variant(&inner[..19]);
            assert_eq!(run(&in4(&cut, 0)).0, Reason::InnerMalformed);
        }
    }
    let trailer = [&four[..], &[0; 9]].concat();
    assert_eq!(run(&super::in4(&trailer, IpProtocol::IPV4, 0)).0, Reason::Unwrapped4In4);
    // The header names another version than the packet behind it has.
    let lying = behind(&[0, IpProtocol::IPV6.0, 0, 0], &four);
    assert_eq!(run(&in4(&lying, 0)).0, Reason::InnerMalformed);
}

#[test]
fn the_first_fragment_is_known_by_its_port_and_no_other_is_misread() {
    let mut first = in4(&variant1(&inner4(0, &[9; 100])), 0);
    first.0[20] = 0x20;
    first.0.truncate(14 + 20 + 48);
    first.0[16..18].copy_from_slice(&68u16.to_be_bytes());
    assert_eq!(run(&first).0, Reason::OuterFragment);
    // Bytes at the place of the port that happen to be it.
    let mut later = in4(&variant1(&inner4(0, &[9; 100])), 0);
    later.0[21] = 6;
    assert_eq!(run(&later).0, Reason::NotTunnel);
    let behind_fragment_header =
        [&[IpProtocol::UDP.0, 0, 0, 1, 0, 0, 0, 1][..], &variant1(&inner6(0, b"x"))].concat();
    assert_eq!(run(&super::in6(&behind_fragment_header, IpProtocol::FRAGMENT, 0)).0, Reason::NotTunnel);
}

#[test]
fn head_len_is_enough_for_the_longest_headers() {
    let inner = variant0(&inner6(0, b""));
    let longest = ipv4_with_options(DIRECTOR4, OWN4, 0, IpProtocol::UDP, &[1; 40], &inner);
    assert_eq!(framed(EtherType::IPV4, &longest).0.len(), HEAD_LEN);
}
