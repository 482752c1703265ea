//! Any frame through `weir iptunnel`'s datapath.

use std::cell::RefCell;
use std::net::IpAddr;

use weir_abi::iptunnel::{AF_INET, DropReason, Tunnel, Vip, ported};
use weir_datapath::iptunnel::{Pass, Tables, Verdict, process};

use super::bytes;
use crate::image::{DIRECTOR_MAC, NEXT_HOP_MAC, director_address};
use crate::{How, MemoryFrame, outer};

/// The maps, by the addresses of the fixtures. Remembers what was asked for and counted.
#[derive(Default)]
struct Maps {
    mtu: u32,
    asked: RefCell<Vec<Vip>>,
    wrapped: RefCell<Vec<u8>>,
    dropped: RefCell<Vec<DropReason>>,
}

/// Where a packet is sent.
enum Entry {
    To(IpAddr),
    /// The next hop is not known yet.
    Nowhere,
    /// The addresses are of no family.
    Broken,
}

/// Entries for TCP port 80, UDP port 53, ICMP and SCTP port 9 of the VIPs, in as many kinds as there are.
fn entry(vip: &Vip) -> Option<Entry> {
    let text = |text: &str| Entry::To(text.parse().expect("a literal address"));
    let first = match vip.daddr().octets() {
        [192, 0, 2, last, rest @ ..] if vip.family() == AF_INET && rest == [0; 12] => u16::from(last),
        [0x20, 0x01, 0x0d, 0xb8, 0, 1, rest @ ..] if vip.family() != AF_INET && rest[..9] == [0; 9] => {
            0x100 | u16::from(rest[9])
        }
        _ => return None,
    };
    match (first, vip.protocol(), u16::from_be_bytes(vip.dport())) {
        (0x00a, 6, 80) | (0x110, 17, 53) => Some(text("10.0.0.11")),
        (0x110, 6, 80) | (0x00a, 17, 53) | (0x00a | 0x110, 132, 9) => Some(text("2001:db8::11")),
        (0x00a, 1 | 44, 0) => Some(text("10.0.0.12")),
        (0x110, 58 | 44, 0) => Some(text("2001:db8::12")),
        (0x00b | 0x111, 6, 80) => Some(Entry::Nowhere),
        (0x00b | 0x111, 17, 53) => Some(Entry::Broken),
        _ => None,
    }
}

impl Tables for Maps {
    fn tunnel(&self, vip: &Vip) -> Option<Tunnel> {
        self.asked.borrow_mut().push(*vip);
        let somewhere = IpAddr::from([10, 0, 0, 11]);
        let (backend, dmac) = match entry(vip)? {
            Entry::To(backend) => (backend, NEXT_HOP_MAC),
            Entry::Nowhere if vip.family() == AF_INET => (somewhere, [0; 6]),
            Entry::Nowhere => ("2001:db8::11".parse().expect("a literal address"), [0; 6]),
            Entry::Broken => (somewhere, NEXT_HOP_MAC),
        };
        let mut bytes = Tunnel::new(director_address(backend), backend, dmac).to_bytes();
        if matches!(entry(vip), Some(Entry::Broken)) {
            bytes[32..34].fill(0);
        }
        Some(Tunnel::from_bytes(bytes))
    }
    fn mtu(&self) -> u32 {
        self.mtu
    }
    fn fresh_id(&self) -> [u8; 2] {
        [0xbe, 0xef]
    }
    fn count(&self, protocol: u8) {
        self.wrapped.borrow_mut().push(protocol);
    }
    fn count_drop(&self, reason: DropReason) {
        self.dropped.borrow_mut().push(reason);
    }
}

/// An MTU (two bytes, little-endian; 0 = none) and a frame: looked up at most once, by what stands in it; wrapped once and
/// within the MTU if there is an entry that says how, counted as the verdict says, and otherwise left as it came.
pub fn iptunnel(data: &[u8]) {
    let Some((mtu, packet)) = data.split_first_chunk() else { return };
    let maps = Maps { mtu: u32::from(u16::from_le_bytes(*mtu)), ..Maps::default() };
    let mut frame = MemoryFrame::new(packet);
    let verdict = process(&mut frame, &maps);
    let (asked, wrapped, dropped) = (maps.asked.take(), maps.wrapped.take(), maps.dropped.take());

    let asks =
        !matches!(verdict, Verdict::Pass(Pass::NotIp | Pass::Group | Pass::Malformed | Pass::Fragment));
    assert_eq!(asked.len(), usize::from(asks), "{verdict:?}: looked up {asked:?}");
    if verdict != Verdict::Transmit {
        assert_eq!(frame.bytes(), packet, "{verdict:?}: changed");
    }
    let Some(vip) = asked.first() else {
        assert_eq!((wrapped, dropped), (vec![], vec![]), "{verdict:?}");
        return;
    };
    check_key(packet, vip);
    match verdict {
        Verdict::Transmit => {
            assert_eq!((wrapped, dropped), (vec![vip.protocol()], vec![]), "{verdict:?}");
            let Some(Entry::To(backend)) = entry(vip) else { panic!("wrapped for nobody") };
            check_sent(packet, frame.bytes(), backend, maps.mtu);
        }
        Verdict::Drop(reason) => assert_eq!((wrapped, dropped), (vec![], vec![reason])),
        Verdict::Pass(why) => {
            assert_eq!((wrapped, dropped), (vec![], vec![]), "{verdict:?}");
            assert_eq!(why == Pass::NotVip, entry(vip).is_none(), "{why:?}");
        }
    }
}

/// Checks that a packet was looked up by what stands in it.
fn check_key(frame: &[u8], vip: &Vip) {
    let packet = &frame[bytes::ETHERNET..];
    let ip = bytes::ip(bytes::version(frame), packet);
    let port = if ported(ip.protocol).is_some() { bytes::port(packet, &ip) } else { 0 };
    assert_eq!(*vip, Vip::new(ip.destination, port, ip.protocol), "looked up by another key");
}

fn check_sent(input: &[u8], output: &[u8], backend: IpAddr, mtu: u32) {
    assert_eq!(output[6..12], input[..6], "sent from another address than it was sent to");
    let mut as_directors = output.to_vec();
    as_directors[6..12].copy_from_slice(&DIRECTOR_MAC);
    if let Err(why) = outer::check_wrapped(input, &as_directors, backend, How::default()) {
        panic!("{why}");
    }
    let len = bytes::ip_len(&output[bytes::ETHERNET..]);
    assert!(mtu == 0 || len <= mtu as usize, "{len} bytes do not fit an MTU of {mtu}");
}
