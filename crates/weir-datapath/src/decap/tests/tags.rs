//! VLAN tags in front of the outer header.
use super::*;
use weir_wire::Vlan;
use zerocopy::IntoBytes as _;

/// The frame with tags of this content, the first one outermost.
pub(super) fn tagged(tags: &[u16], frame: &Memory) -> Memory {
    let mut bytes = frame.0.clone();
    for (at, tci) in tags.iter().enumerate().rev() {
        let kind = if at + 1 == tags.len() { EtherType::VLAN } else { EtherType::QINQ };
        let inside = EtherType(u16::from_be_bytes([bytes[12], bytes[13]]));
        bytes[12..14].copy_from_slice(&kind.0.to_be_bytes());
        bytes.splice(14..14, Vlan::new(*tci, inside).as_bytes().iter().copied());
    }
    Memory(bytes)
}

#[test]
fn one_and_two_tags_stay_in_front_of_what_was_inside() {
    let (four, six) = (inner4(0, b"hello"), inner6(0, b"hello"));
    let plain4 = framed(EtherType::IPV4, &four);
    let plain6 = framed(EtherType::IPV6, &six);
    for tags in [&[0xe005][..], &[0x2064, 0x0fff]] {
        for (wrapped, expected, reason) in [
            (in4(&four, IpProtocol::IPV4, 0), &plain4, Reason::Unwrapped4In4),
            (in6(&six, IpProtocol::IPV6, 0), &plain6, Reason::Unwrapped6In6),
            (in6(&four, IpProtocol::IPV4, 0), &plain4, Reason::Unwrapped4In6),
            (in4(&six, IpProtocol::IPV6, 0), &plain6, Reason::Unwrapped6In4),
            (gue::in6(&gue::variant1(&four), 0), &plain4, Reason::UnwrappedGue4In6),
            (gue::in4(&gue::variant0(&six), 0), &plain6, Reason::UnwrappedGue6In4),
        ] {
            assert_eq!(run(&tagged(tags, &wrapped)), (reason, tagged(tags, expected)));
        }
    }
}

#[test]
fn more_tags_are_not_looked_behind() {
    let wrapped = in4(&inner4(0, b"x"), IpProtocol::IPV4, 0);
    assert_eq!(run(&tagged(&[1, 2, 3], &wrapped)).0, Reason::VlanTagged);
}

#[test]
fn ordinary_and_cut_off_frames_with_tags_are_passed() {
    let vip = framed(EtherType::IPV4, &inner4(0, b"x"));
    let arp = framed(EtherType::ARP, &[0; 28]);
    for tags in [&[5][..], &[5, 6]] {
        assert_eq!(run(&tagged(tags, &vip)).0, Reason::NotTunnel);
        let frame = tagged(tags, &arp);
        assert_eq!(run(&frame).0, Reason::NotIp);
        for len in 14..14 + 4 * tags.len() {
            assert_eq!(run(&Memory(frame.0[..len].to_vec())).0, Reason::NotIp, "{len}");
        }
        let wrapped = tagged(tags, &in4(&inner4(0, b"x"), IpProtocol::IPV4, 0));
        let short = Memory(wrapped.0[..wrapped.0.len() - 1].to_vec());
        assert_eq!(run(&short).0, Reason::OuterMalformed);
    }
}
