//! A frame in memory and headers to put into it, for the tests of this crate's agent side.
use crate::mss::{LeavingFrame, mend_complete};
use crate::{Frame, Header, NoRoom};
use std::vec::Vec;
use weir_wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv4Repr, Ipv6, Ipv6Repr, checksum};
use zerocopy::IntoBytes as _;

pub(crate) const ETHERNET: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
pub(crate) const CLIENT4: [u8; 4] = [198, 51, 100, 7];
pub(crate) const VIP4: [u8; 4] = [192, 0, 2, 10];
pub(crate) const DIRECTOR4: [u8; 4] = [10, 0, 0, 1];
pub(crate) const OWN4: [u8; 4] = [10, 0, 0, 11];
pub(crate) const CLIENT6: [u8; 16] = v6(0xc1);
pub(crate) const VIP6: [u8; 16] = v6(0x10);
pub(crate) const DIRECTOR6: [u8; 16] = v6(0xd1);
pub(crate) const OWN6: [u8; 16] = v6(0x0b);

const fn v6(last: u8) -> [u8; 16] {
    [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// A frame in a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory(pub(crate) Vec<u8>);

impl Frame for Memory {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn at<T: Header>(&self, offset: usize) -> Option<&T> {
        T::ref_from_prefix(self.0.get(offset..)?).ok().map(|(header, _)| header)
    }
    fn at_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        T::mut_from_prefix(self.0.get_mut(offset..)?).ok().map(|(header, _)| header)
    }
    fn grow_head(&mut self, by: usize) -> Result<(), NoRoom> {
        self.0.splice(..0, std::iter::repeat_n(0xa5, by));
        Ok(())
    }
    fn shrink_head(&mut self, by: usize) -> Result<(), NoRoom> {
        if by + Ethernet::LEN > self.0.len() {
            return Err(NoRoom);
        }
        self.0.drain(..by);
        Ok(())
    }
}

impl LeavingFrame for Memory {
    fn mend_checksum(&mut self, offset: usize, old: [u8; 2], new: [u8; 2]) {
        mend_complete(self, offset, old, new);
    }
}

/// `ip` behind an Ethernet header.
pub(crate) fn framed(ether_type: EtherType, ip: &[u8]) -> Memory {
    let mut bytes = Ethernet::new(ETHERNET.0, ETHERNET.1, ether_type).as_bytes().to_vec();
    bytes.extend_from_slice(ip);
    Memory(bytes)
}

/// An IPv4 packet.
pub(crate) fn ipv4(
    source: [u8; 4],
    destination: [u8; 4],
    tos: u8,
    protocol: IpProtocol,
    payload: &[u8],
) -> Vec<u8> {
    ipv4_with_options(source, destination, tos, protocol, &[], payload)
}

/// An IPv4 packet with options (a multiple of four bytes).
pub(crate) fn ipv4_with_options(
    source: [u8; 4],
    destination: [u8; 4],
    tos: u8,
    protocol: IpProtocol,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let total_len = (Ipv4::LEN + options.len() + payload.len()) as u16;
    let repr = Ipv4Repr { tos, total_len, id: [0x12, 0x34], ttl: 61, protocol, source, destination };
    let mut bytes = Ipv4::with_checksum(&repr, [0; 2]).as_bytes().to_vec();
    bytes.extend_from_slice(options);
    bytes[0] += (options.len() / 4) as u8;
    let sum = checksum::finish(checksum::sum(&bytes));
    bytes[10..12].copy_from_slice(&sum);
    bytes.extend_from_slice(payload);
    bytes
}

/// An IPv6 packet.
pub(crate) fn ipv6(
    source: [u8; 16],
    destination: [u8; 16],
    class: u8,
    next: IpProtocol,
    payload: &[u8],
) -> Vec<u8> {
    let repr = Ipv6Repr {
        traffic_class: class,
        flow_label: 0x5_4321,
        payload_len: payload.len() as u16,
        next_header: next,
        hop_limit: 61,
        source,
        destination,
    };
    let mut bytes = Ipv6::emit(&repr).as_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}
