//! Packets in, packets out, and exactly which counter moved.
use super::*;
use core::cell::{Cell, RefCell};
use std::{collections::HashMap, net::IpAddr, vec, vec::Vec};
use weir_wire::checksum;
use zerocopy::IntoBytes;

use crate::Header;

const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HEADROOM: usize = 64;

/// A frame with headroom full of garbage, as a driver's buffer has.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new(frame: &[u8], headroom: usize) -> Self {
        let mut bytes = vec![0xa5; headroom];
        bytes.extend_from_slice(frame);
        Self { bytes, start: headroom }
    }
    fn frame(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Frame for Buffer {
    fn len(&self) -> usize {
        self.frame().len()
    }
    fn at<T: Header>(&self, offset: usize) -> Option<&T> {
        Some(T::ref_from_prefix(self.frame().get(offset..)?).ok()?.0)
    }
    fn at_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        let start = self.start;
        Some(T::mut_from_prefix(self.bytes[start..].get_mut(offset..)?).ok()?.0)
    }
    fn grow_head(&mut self, by: usize) -> Result<(), NoRoom> {
        self.start = self.start.checked_sub(by).ok_or(NoRoom)?;
        Ok(())
    }
    fn shrink_head(&mut self, by: usize) -> Result<(), NoRoom> {
        if by > self.len() {
            return Err(NoRoom);
        }
        self.start += by;
        Ok(())
    }
}

#[derive(Default)]
struct Maps {
    tunnels: HashMap<Vip, Tunnel>,
    mtu: u32,
    id: Cell<u16>,
    counted: RefCell<Vec<u8>>,
    dropped: RefCell<Vec<DropReason>>,
}

impl Tables for Maps {
    fn tunnel(&self, vip: &Vip) -> Option<Tunnel> {
        self.tunnels.get(vip).copied()
    }
    fn mtu(&self) -> u32 {
        self.mtu
    }
    fn fresh_id(&self) -> [u8; 2] {
        self.id.get().to_be_bytes()
    }
    fn count(&self, protocol: u8) {
        self.counted.borrow_mut().push(protocol);
    }
    fn count_drop(&self, reason: DropReason) {
        self.dropped.borrow_mut().push(reason);
    }
}

impl Maps {
    fn with(vip: &str, port: u16, protocol: u8, source: &str, destination: &str) -> Self {
        let mut maps = Self::default();
        let tunnel = tunnel(source, destination);
        maps.tunnels.insert(Vip::new(ip(vip), port, protocol), tunnel);
        maps
    }
    /// Runs a packet; the verdict, the frame after it, and that the counters moved by just what the verdict says.
    fn run(&self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.run_in(Buffer::new(frame, HEADROOM), frame)
    }
    fn run_in(&self, mut buffer: Buffer, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.counted.take();
        self.dropped.take();
        let verdict = process(&mut buffer, self);
        let (counted, dropped) = (self.counted.take(), self.dropped.take());
        match verdict {
            Verdict::Transmit => assert_eq!((counted.len(), dropped.len()), (1, 0)),
            Verdict::Drop(reason) => assert_eq!((counted.len(), dropped), (0, vec![reason])),
            Verdict::Pass(_) => assert_eq!((counted.len(), dropped.len()), (0, 0)),
        }
        if verdict != Verdict::Transmit {
            assert_eq!(buffer.frame(), frame, "{verdict:?} changed the packet");
        }
        (verdict, buffer.frame().to_vec())
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn tunnel(source: &str, destination: &str) -> Tunnel {
    Tunnel::new(ip(source), ip(destination), NEXT_HOP)
}

/// An IPv4 frame with `options` (a multiple of four bytes) and `payload`.
fn v4(protocol: u8, destination: &str, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let IpAddr::V4(destination) = ip(destination) else { panic!("not IPv4") };
    let mut frame = Ethernet::new(DIRECTOR, ROUTER, EtherType::IPV4).as_bytes().to_vec();
    let total = 20 + options.len() + payload.len();
    let start = frame.len();
    frame.extend_from_slice(&[0x45 + (options.len() / 4) as u8, 0xb9]);
    frame.extend_from_slice(&(total as u16).to_be_bytes());
    frame.extend_from_slice(&[0x12, 0x34, 0, 0, 61, protocol, 0, 0, 198, 51, 100, 7]);
    frame.extend_from_slice(&destination.octets());
    frame.extend_from_slice(options);
    let sum = checksum::finish(checksum::sum(&frame[start..]));
    frame[start + 10..start + 12].copy_from_slice(&sum);
    frame.extend_from_slice(payload);
    frame
}

fn v6(protocol: u8, destination: &str, payload: &[u8]) -> Vec<u8> {
    let IpAddr::V6(destination) = ip(destination) else { panic!("not IPv6") };
    let mut frame = Ethernet::new(DIRECTOR, ROUTER, EtherType::IPV6).as_bytes().to_vec();
    frame.extend_from_slice(&[0x6b, 0x91, 0x23, 0x45]);
    frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[protocol, 61]);
    frame.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    frame.extend_from_slice(&destination.octets());
    frame.extend_from_slice(payload);
    frame
}

/// A transport header of `len` bytes: ports, then recognisable bytes.
fn segment(port: u16, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len as u8).collect();
    bytes[..2].copy_from_slice(&40_000u16.to_be_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes
}

#[test]
fn v4_in_v4_is_the_golden_packet() {
    let maps = Maps::with("10.99.0.1", 80, 6, "10.1.1.1", "10.1.1.2");
    maps.id.set(0xbeef);
    let inner = v4(6, "10.99.0.1", &[], &segment(80, 20));
    let (verdict, frame) = maps.run(&inner);
    assert_eq!(verdict, Verdict::Transmit);
    #[rustfmt::skip]
    let mut golden = vec![
        2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 2, 0x08, 0x00, // to the next hop, from the address it was sent to
        0x45, 0xb9, 0, 60, 0xbe, 0xef, 0x40, 0, 64, 4, 0x65, 0x11, // class copied, fresh id, DF, IPv4 follows
        10, 1, 1, 1, 10, 1, 1, 2,
    ];
    golden.extend_from_slice(&inner[14..]);
    assert_eq!(frame, golden);
    assert!(checksum::is_valid(&frame[14..34]));
}

#[test]
fn v6_in_v6_is_the_golden_packet() {
    let maps = Maps::with("2001:db8:99::1", 443, 17, "2001:db8:1::1", "2001:db8:1::2");
    let inner = v6(17, "2001:db8:99::1", &segment(443, 8));
    let (verdict, frame) = maps.run(&inner);
    assert_eq!(verdict, Verdict::Transmit);
    #[rustfmt::skip]
    let mut golden = vec![
        2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 2, 0x86, 0xdd,
        0x6b, 0x90, 0, 0, 0, 48, 41, 64, // class copied, no flow label, IPv6 follows
        0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
    ];
    golden.extend_from_slice(&inner[14..]);
    assert_eq!(frame, golden);
}

#[test]
fn v4_in_v6_is_wrapped() {
    let maps = Maps::with("10.99.0.1", 80, 6, "2001:db8:1::1", "2001:db8:1::2");
    let inner = v4(6, "10.99.0.1", &[], &segment(80, 20));
    let (verdict, frame) = maps.run(&inner);
    assert_eq!(verdict, Verdict::Transmit);
    assert_eq!(frame[12..14], [0x86, 0xdd]);
    assert_eq!(frame[14..22], [0x6b, 0x90, 0, 0, 0, 40, 4, 64]);
    assert_eq!(frame[54..], inner[14..]);
}

#[test]
fn v6_in_v4_is_left_alone() {
    let maps = Maps::with("2001:db8:99::1", 80, 6, "10.1.1.1", "10.1.1.2");
    let (verdict, _) = maps.run(&v6(6, "2001:db8:99::1", &segment(80, 20)));
    assert_eq!(verdict, Verdict::Pass(Pass::Unsupported));
}

/// The sample folds one carry only: for some headers its checksum is one off. Every id is tried, so every carry is.
#[test]
fn the_outer_checksum_is_right_for_every_id() {
    let inner = v4(6, "10.99.0.1", &[], &segment(80, 20));
    let mut twice_folded = 0;
    for (source, destination) in [("10.1.1.1", "10.1.1.2"), ("255.255.255.254", "255.255.254.255")] {
        let maps = Maps::with("10.99.0.1", 80, 6, source, destination);
        for id in 0..=u16::MAX {
            maps.id.set(id);
            let (verdict, frame) = maps.run(&inner);
            assert_eq!(verdict, Verdict::Transmit);
            assert!(checksum::is_valid(&frame[14..34]), "{source} -> {destination}, id {id:#06x}");
            let mut header = frame[14..34].to_vec();
            header[10..12].fill(0);
            let sum = checksum::sum(&header);
            twice_folded += usize::from((sum & 0xffff) + (sum >> 16) > 0xffff);
        }
    }
    assert!(twice_folded > 0, "no header here needs a second fold");
}

#[test]
fn options_are_not_read_as_ports() {
    let options = [7, 7, 4, 0, 0, 80, 0, 80];
    let maps = Maps::with("10.99.0.1", 80, 6, "10.1.1.1", "10.1.1.2");
    let (verdict, frame) = maps.run(&v4(6, "10.99.0.1", &options, &segment(80, 20)));
    assert_eq!(verdict, Verdict::Transmit);
    assert_eq!(frame[16..18], [0, 68], "outer length: 20 + 20 + 8 + 20");
    let other = v4(6, "10.99.0.1", &[0, 0, 0, 80], &segment(81, 20));
    assert_eq!(maps.run(&other).0, Verdict::Pass(Pass::NotVip));
}

#[test]
fn fragments_are_not_read_as_ports() {
    let maps = Maps::with("10.99.0.1", 80, 6, "10.1.1.1", "10.1.1.2");
    for (flags, verdict) in [
        (0x2000u16, Verdict::Pass(Pass::Fragment)),
        (0x2001, Verdict::Pass(Pass::Fragment)),
        (0x0001, Verdict::Pass(Pass::Fragment)),
        (0x4000, Verdict::Transmit),
    ] {
        let mut frame = v4(6, "10.99.0.1", &[], &segment(80, 20));
        frame[20..22].copy_from_slice(&flags.to_be_bytes());
        assert_eq!(maps.run(&frame).0, verdict, "{flags:#06x}");
    }
    let maps = Maps::with("2001:db8:99::1", 80, 6, "2001:db8::1", "2001:db8::2");
    let mut payload = vec![6, 0, 0, 1, 0, 0, 0, 9];
    payload.extend(segment(80, 20));
    assert_eq!(maps.run(&v6(44, "2001:db8:99::1", &payload)).0, Verdict::Pass(Pass::NotVip));
}

#[test]
fn protocols_with_ports_match_by_port_and_others_by_protocol() {
    for (protocol, least) in [(6, 20), (17, 8), (33, 12), (132, 12), (136, 8)] {
        let maps = Maps::with("10.99.0.1", 80, protocol, "10.1.1.1", "10.1.1.2");
        assert_eq!(maps.run(&v4(protocol, "10.99.0.1", &[], &segment(80, least))).0, Verdict::Transmit);
        let other = maps.run(&v4(protocol, "10.99.0.1", &[], &segment(81, least))).0;
        assert_eq!(other, Verdict::Pass(Pass::NotVip));
        let short = maps.run(&v4(protocol, "10.99.0.1", &[], &segment(80, least - 1))).0;
        assert_eq!(short, Verdict::Pass(Pass::Malformed), "protocol {protocol}");
    }
    for protocol in [0, 1, 2, 47, 50, 89, 255] {
        let maps = Maps::with("10.99.0.1", 0, protocol, "10.1.1.1", "10.1.1.2");
        let mut frame = v4(protocol, "10.99.0.1", &[], &[8, 0]);
        assert_eq!(maps.run(&frame).0, Verdict::Transmit, "protocol {protocol}");
        frame[20] = 0x20;
        assert_eq!(maps.run(&frame).0, Verdict::Transmit, "without ports a fragment is like any other");
    }
}

#[test]
fn what_is_not_for_the_vip_is_passed() {
    let maps = Maps::with("10.99.0.1", 80, 6, "10.1.1.1", "10.1.1.2");
    let tcp = v4(6, "10.99.0.1", &[], &segment(80, 20));
    let not_vip = [
        v4(6, "10.99.0.2", &[], &segment(80, 20)),
        v4(6, "10.99.0.1", &[], &segment(81, 20)),
        v4(17, "10.99.0.1", &[], &segment(80, 20)),
        v4(1, "10.99.0.1", &[], &segment(80, 20)),
        v6(6, "2001:db8::1", &segment(80, 20)),
    ];
    for frame in not_vip {
        assert_eq!(maps.run(&frame).0, Verdict::Pass(Pass::NotVip));
    }
    let mut vlan = tcp.clone();
    vlan.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(maps.run(&vlan).0, Verdict::Pass(Pass::NotIp));
    let arp = Ethernet::new([0xff; 6], ROUTER, EtherType::ARP);
    assert_eq!(maps.run(arp.as_bytes()).0, Verdict::Pass(Pass::NotIp));
    let mut broadcast = tcp;
    broadcast[..6].fill(0xff);
    assert_eq!(maps.run(&broadcast).0, Verdict::Pass(Pass::Group));
}

#[test]
fn every_truncation_is_passed() {
    let v4_maps = Maps::with("10.99.0.1", 80, 6, "10.1.1.1", "10.1.1.2");
    let v6_maps = Maps::with("2001:db8:99::1", 80, 6, "2001:db8::1", "2001:db8::2");
    for (maps, whole) in [
        (&v4_maps, v4(6, "10.99.0.1", &[1; 8], &segment(80, 24))),
        (&v6_maps, v6(6, "2001:db8:99::1", &segment(80, 24))),
    ] {
        assert_eq!(maps.run(&whole).0, Verdict::Transmit);
        for len in 0..whole.len() {
            assert_eq!(maps.run(&whole[..len]).0, Verdict::Pass(Pass::Malformed), "{len} bytes");
        }
    }
}

#[test]
fn headers_that_contradict_themselves_are_passed() {
    let maps = Maps::with("10.99.0.1", 80, 6, "10.1.1.1", "10.1.1.2");
    let whole = v4(6, "10.99.0.1", &[], &segment(80, 20));
    for (offset, value) in [(14, 0x55), (14, 0x44), (14, 0x4f), (16, 1), (17, 19), (17, 39)] {
        let mut frame = whole.clone();
        frame[offset] = value;
        let (verdict, _) = maps.run(&frame);
        assert_eq!(verdict, Verdict::Pass(Pass::Malformed), "byte {offset} = {value:#x}");
    }
    let maps = Maps::with("2001:db8:99::1", 80, 6, "2001:db8::1", "2001:db8::2");
    let whole = v6(6, "2001:db8:99::1", &segment(80, 20));
    for (offset, value) in [(14, 0x4b), (18, 1), (19, 19)] {
        let mut frame = whole.clone();
        frame[offset] = value;
        let (verdict, _) = maps.run(&frame);
        assert_eq!(verdict, Verdict::Pass(Pass::Malformed), "byte {offset} = {value:#x}");
    }
}

/// Short frames are padded to 60 bytes on the wire; the padding is no part of the packet.
#[test]
fn padding_is_not_counted() {
    let maps = Maps::with("10.99.0.1", 80, 17, "10.1.1.1", "10.1.1.2");
    let mut frame = v4(17, "10.99.0.1", &[], &segment(80, 8));
    frame.resize(60, 0);
    let (verdict, wrapped) = maps.run(&frame);
    assert_eq!(verdict, Verdict::Transmit);
    assert_eq!((wrapped.len(), &wrapped[16..18]), (80, &[0, 48][..]));
}

#[test]
fn the_mtu_is_that_of_the_wrapped_packet() {
    for (destination, outer) in [("10.1.1.2", 20), ("2001:db8::2", 40)] {
        let mut maps = Maps::with("10.99.0.1", 80, 6, destination, destination);
        maps.mtu = 1500;
        for (len, verdict) in
            [(1500 - outer, Verdict::Transmit), (1501 - outer, Verdict::Drop(DropReason::TooBig))]
        {
            let mut payload = segment(80, 20);
            payload.resize(len - 20, 0);
            assert_eq!(maps.run(&v4(6, "10.99.0.1", &[], &payload)).0, verdict, "{len} into {destination}");
        }
    }
}

#[test]
fn a_length_no_outer_header_can_hold_is_too_big() {
    let mut payload = segment(80, 20);
    payload.resize(65535 - 20, 0);
    let frame = v4(6, "10.99.0.1", &[], &payload);
    let in_v4 = Maps::with("10.99.0.1", 80, 6, "10.1.1.1", "10.1.1.2");
    assert_eq!(in_v4.run(&frame).0, Verdict::Drop(DropReason::TooBig));
    let in_v6 = Maps::with("10.99.0.1", 80, 6, "2001:db8::1", "2001:db8::2");
    assert_eq!(in_v6.run(&frame).0, Verdict::Transmit);
}

#[test]
fn an_unknown_next_hop_or_no_headroom_drops() {
    let mut maps = Maps::with("10.99.0.1", 80, 6, "10.1.1.1", "10.1.1.2");
    let frame = v4(6, "10.99.0.1", &[], &segment(80, 20));
    assert_eq!(maps.run_in(Buffer::new(&frame, 20), &frame).0, Verdict::Transmit);
    let tight = maps.run_in(Buffer::new(&frame, 19), &frame).0;
    assert_eq!(tight, Verdict::Drop(DropReason::NoHeadroom));
    let nowhere = Tunnel::new(ip("10.1.1.1"), ip("10.1.1.2"), [0; 6]);
    maps.tunnels.values_mut().for_each(|tunnel| *tunnel = nowhere);
    assert_eq!(maps.run(&frame).0, Verdict::Drop(DropReason::NoNextHop));
}
