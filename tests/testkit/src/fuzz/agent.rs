//! Any frame through the real server agent's datapath: unwrapping, and the clamp of announced segment sizes.

use std::cell::RefCell;
use std::net::IpAddr;

use weir_abi::agent::{Clamp, ClampReason, GuePort, Reason, SegmentLimits, Verdict};
use weir_abi::{Address, Family};
use weir_datapath::decap::{self, AgentTables};
use weir_datapath::mss::{self as clamp, LeavingFrame, SegmentTables};
use weir_datapath::{Frame, Header, NoRoom};

use super::bytes;
use crate::MemoryFrame;
use crate::image::director_address;

/// The largest segment sizes the VIPs may announce, IPv4 and IPv6.
const LIMITS: (u16, u16) = (1420, 1400);

/// The port that GUE comes to.
const GUE_PORT: u16 = 6080;

/// The agent's tables, by the addresses of the fixtures. Remembers what was counted.
#[derive(Default)]
struct Agent {
    unwrapped: RefCell<Vec<(Reason, u64)>>,
    clamped: RefCell<Vec<(ClampReason, u64)>>,
}

fn is_director(address: IpAddr) -> bool {
    director_address(address) == address
}
fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => matches!(v4.octets(), [10, 0, 0, 11..=255]),
        IpAddr::V6(v6) => matches!(v6.segments(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11..=0xffff]),
    }
}
fn is_vip(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => matches!(v4.octets(), [192, 0, 2, 10]),
        IpAddr::V6(v6) => matches!(v6.segments(), [0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10]),
    }
}

impl AgentTables for Agent {
    fn is_director(&self, family: Family, address: Address) -> bool {
        is_director(address.to_ip(family))
    }
    fn is_own(&self, family: Family, address: Address) -> bool {
        is_own(address.to_ip(family))
    }
    fn is_vip(&self, family: Family, address: Address) -> bool {
        is_vip(address.to_ip(family))
    }
    fn gue_port(&self) -> GuePort {
        GuePort::new(GUE_PORT)
    }
    fn count(&self, reason: Reason, bytes: u64) {
        self.unwrapped.borrow_mut().push((reason, bytes));
    }
}

impl SegmentTables for Agent {
    fn is_vip(&self, family: Family, address: Address) -> bool {
        is_vip(address.to_ip(family))
    }
    fn limits(&self) -> SegmentLimits {
        SegmentLimits::new(LIMITS.0, LIMITS.1)
    }
    fn count(&self, reason: ClampReason, bytes: u64) {
        self.clamped.borrow_mut().push((reason, bytes));
    }
}

/// A frame of which only the first bytes can be read, as of a socket buffer after `bpf_skb_pull_data`.
struct Pulled {
    frame: MemoryFrame,
    readable: usize,
}

impl Pulled {
    fn new(data: &[u8], readable: usize) -> Self {
        Self { frame: MemoryFrame::new(data), readable }
    }
    fn reaches<T>(&self, offset: usize) -> bool {
        offset + size_of::<T>() <= self.readable
    }
}

impl Frame for Pulled {
    fn len(&self) -> usize {
        self.frame.len()
    }
    fn at<T: Header>(&self, offset: usize) -> Option<&T> {
        if self.reaches::<T>(offset) { self.frame.at(offset) } else { None }
    }
    fn at_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        if self.reaches::<T>(offset) { self.frame.at_mut(offset) } else { None }
    }
    fn grow_head(&mut self, by: usize) -> Result<(), NoRoom> {
        self.frame.grow_head(by).map(|()| self.readable += by)
    }
    fn shrink_head(&mut self, by: usize) -> Result<(), NoRoom> {
        self.frame.shrink_head(by).map(|()| self.readable -= by)
    }
}

impl LeavingFrame for Pulled {
    fn mend_checksum(&mut self, offset: usize, old: [u8; 2], new: [u8; 2]) {
        clamp::mend_complete(self, offset, old, new);
    }
}

/// A frame that arrives at a real server: counted once; passed as it came; unwrapped only if a director sent it here with a
/// VIP inside, and then to what was inside, its VLAN tags kept; where tags are not looked behind, tagged frames are passed
/// and no more of the others is read than the programs make readable.
pub fn unwrap(data: &[u8]) {
    let agent = Agent::default();
    let mut frame = Pulled::new(data, usize::MAX / 2);
    let reason = decap::unwrap_tagged(&mut frame, &agent);
    assert_eq!(*agent.unwrapped.borrow(), [(reason, data.len() as u64)], "counted other than once");

    let mut pulled = Pulled::new(data, decap::HEAD_LEN);
    let again = decap::unwrap(&mut pulled, &agent);
    let link = bytes::link_len(data);
    if data.len() >= bytes::ETHERNET && link != bytes::ETHERNET {
        assert_eq!(again, Reason::VlanTagged);
        assert_eq!(pulled.frame.bytes(), data, "tagged and passed, but changed");
    } else {
        assert_eq!(again, reason, "more is read than the first HEAD_LEN bytes");
        assert_eq!(pulled.frame.bytes(), frame.frame.bytes(), "more is read than the first HEAD_LEN bytes");
    }

    let output = frame.frame.bytes();
    match reason.verdict() {
        Verdict::Pass => assert_eq!(output, data, "{}: passed, but changed", reason.label()),
        Verdict::Drop => assert!(director_sent(data), "{}: dropped, but no director's", reason.label()),
        Verdict::Unwrap => {
            assert!(director_sent(data), "{}: unwrapped, but no director's", reason.label());
            check_unwrapped(data, output);
        }
    }
}

/// Whether a frame is a packet in a packet from a director to this machine.
fn director_sent(frame: &[u8]) -> bool {
    let packet = &frame[bytes::link_len(frame)..];
    let outer = bytes::ip(bytes::version(frame), packet);
    let wraps = match outer.protocol {
        4 | 41 => true,
        17 => bytes::port(packet, &outer) == GUE_PORT,
        _ => false,
    };
    is_director(outer.source) && is_own(outer.destination) && wraps
}

/// Where the inner packet of an outer one begins, and its version.
fn inside(packet: &[u8], outer: &bytes::Ip) -> (usize, u8) {
    let version = |protocol: u8| if protocol == 4 { 4 } else { 6 };
    if outer.protocol != 17 {
        return (outer.header_len, version(outer.protocol));
    }
    // Variant 1 of GUE has no header; variant 0 has one of four bytes, whose second is the protocol.
    let gue = outer.header_len + 8;
    match packet[gue] >> 4 {
        0 => {
            assert!(matches!(packet[gue..gue + 4], [0, 4 | 41, 0, 0]), "unwrapped, but no plain GUE");
            (gue + 4, version(packet[gue + 1]))
        }
        version @ (4 | 6) => (gue, version),
        _ => panic!("unwrapped, but no GUE"),
    }
}

/// Checks that `output` is what is inside `input`, every byte of it but the congestion mark.
fn check_unwrapped(input: &[u8], output: &[u8]) {
    let link = bytes::link_len(input);
    let outer = bytes::ip(bytes::version(input), &input[link..]);
    let (at, version) = inside(&input[link..], &outer);
    let packet = &input[link + at..];
    let inner = bytes::ip(version, packet);
    assert!(is_vip(inner.destination), "unwrapped, but {} is no VIP", inner.destination);
    assert_eq!(output[..link - 2], input[..link - 2], "Ethernet addresses and tags");
    assert_eq!(bytes::version(output), version, "EtherType");

    // RFC 6040, figure 4; the one forbidden combination must not come here.
    let class = match (inner.class & 3, outer.class & 3) {
        (0, 3) => panic!("congestion was marked in a packet that cannot say so, and it was not dropped"),
        (_, 3) => inner.class | 3,
        (2, 1) => inner.class & !3 | 1,
        _ => inner.class,
    };
    let mut expected = packet.to_vec();
    if version == 4 {
        expected[1] = class;
        // The checksum is not ours to know, only that it is as right or wrong as before.
        let got = &output[link..];
        expected[10..12].copy_from_slice(&got[10..12]);
        let (before, after) = (bytes::sum(&packet[..inner.header_len]), bytes::sum(&got[..inner.header_len]));
        assert_eq!(before, after, "the checksum does not follow the mark");
        assert!(class != inner.class || got[10..12] == packet[10..12], "a checksum changed for nothing");
    } else {
        expected[0] = expected[0] & 0xf0 | class >> 4;
        expected[1] = expected[1] & 0x0f | class << 4;
    }
    assert_eq!(output[link..], expected, "unwrapped to something else than what was inside");
}

/// A frame that leaves a real server: counted once; of a VIP's first segments the announced size is lowered to the limit
/// where it exceeds it, and the checksum follows; nothing else changes.
pub fn mss(data: &[u8]) {
    let agent = Agent::default();
    let mut frame = Pulled::new(data, usize::MAX / 2);
    let reason = clamp::clamp(&mut frame, &agent);
    assert_eq!(*agent.clamped.borrow(), [(reason, data.len() as u64)], "counted other than once");

    let mut pulled = Pulled::new(data, clamp::HEAD_LEN);
    assert_eq!(clamp::clamp(&mut pulled, &agent), reason, "more is read than the first HEAD_LEN bytes");
    assert_eq!(pulled.frame.bytes(), frame.frame.bytes(), "more is read than the first HEAD_LEN bytes");

    let output = frame.frame.bytes();
    let too_large = too_large(data);
    assert_eq!(reason.verdict() == Clamp::Lowered, too_large.is_some(), "{}", reason.label());
    let Some(TooLarge { tcp, value, limit }) = too_large else {
        assert_eq!(output, data, "{}: untouched, but changed", reason.label());
        return;
    };
    let mut expected = data.to_vec();
    expected[value..value + 2].copy_from_slice(&limit.to_be_bytes());
    expected[tcp + 16..tcp + 18].copy_from_slice(&output[tcp + 16..tcp + 18]);
    assert_eq!(output, expected, "more changed than the segment size and the checksum");
    assert_eq!(bytes::sum(&output[tcp..]), bytes::sum(&data[tcp..]), "the checksum does not follow");
}

/// An announced segment size that has to be lowered.
struct TooLarge {
    /// Where the TCP header is.
    tcp: usize,
    /// Where the size is.
    value: usize,
    limit: u16,
}

/// What there is to lower in a frame, read front to back as RFC 9293 says.
fn too_large(frame: &[u8]) -> Option<TooLarge> {
    let packet = frame.get(bytes::ETHERNET..)?;
    let (ip_len, source, limit) = match frame[12..14] {
        [0x08, 0x00] => {
            let header = packet.first_chunk::<20>()?;
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
            let len = usize::from(header[0] & 15) * 4;
            if header[9] != 6 || fragment || len < 20 {
                return None;
            }
            (len, IpAddr::from([header[12], header[13], header[14], header[15]]), LIMITS.0)
        }
        [0x86, 0xdd] => {
            let header = packet.first_chunk::<40>()?;
            if header[6] != 6 {
                return None;
            }
            (40, IpAddr::from(*header[8..].first_chunk::<16>()?), LIMITS.1)
        }
        _ => return None,
    };
    let tcp = packet.get(ip_len..)?;
    let header = tcp.first_chunk::<20>()?;
    if header[13] & 2 == 0 || !is_vip(source) {
        return None;
    }
    let end = usize::from(header[12] >> 4) * 4;
    let mut at = 20;
    while at < end {
        let len = match *tcp.get(at)? {
            0 => return None,
            1 => 1,
            kind => {
                let len = usize::from(*tcp.get(at + 1)?);
                if len < 2 || at + len > end {
                    return None;
                }
                if kind == 2 {
                    let value = u16::from_be_bytes(*tcp.get(at + 2..)?.first_chunk()?);
                    let found = TooLarge {
                        tcp: bytes::ETHERNET + ip_len,
                        value: bytes::ETHERNET + ip_len + at + 2,
                        limit,
                    };
                    return (len == 4 && value > limit).then_some(found);
                }
                len
            }
        };
        at += len;
    }
    None
}
