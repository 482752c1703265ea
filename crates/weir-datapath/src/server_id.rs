//! Server ids: a packet that names its server by number.
//!
//! Owns: where each scheme keeps the number. May not touch: tables, mutation. Invariant: nothing outside the packet's own
//! payload is read as an id.
use crate::Frame;
use crate::layers::MAX_OFFSET;
use weir_abi::ServerIds;
use weir_wire::{Tcp, Udp, tcp_flags};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes that a connection id with a server id in it has at least: what Katran's servers make, and enough for all forms.
const CONNECTION_ID_LEN: usize = 8;
type ConnectionId = [u8; CONNECTION_ID_LEN];

/// A byte and what may be a connection id behind it. (In one piece: a single byte at an offset that is not known
/// beforehand is something that verifiers do not follow.)
///
/// Of a QUIC packet, the flags, and with a short header the destination's id. With a long one the id's place holds the
/// version (4 bytes) and the length of the destination's id, which follows (RFC 8999, section 5.1).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    first: u8,
    id: ConnectionId,
}

/// Flag of a long header.
const LONG: u8 = 0x80;
/// Bytes of a long header in front of the destination's id.
const LONG_LEN: usize = 6;
/// QUIC version 2 (RFC 9369), whose packet types have other numbers.
const QUIC_V2: u32 = 0x6b33_43cf;
/// First byte of a UDP payload with stable routing.
const STABLE_ROUTING: u8 = 0x52;
/// Kind and length of the TCP option with a server id.
const OPTION: [u8; 2] = [0xb7, 6];
/// TCP options that are looked at.
const MAX_OPTIONS: usize = 15;

/// A server id that was found, or none: one word, for an `Option` leaves part of it unwritten, and what is unwritten a BPF
/// program may not even copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found(u64);

impl Found {
    /// There is none.
    pub(crate) const NONE: Self = Self(u64::MAX);

    #[inline(always)]
    const fn new(id: u32) -> Self {
        Self(id as u64)
    }
    /// The id.
    #[inline(always)]
    pub(crate) fn id(self) -> Option<u32> {
        if self.0 >> 32 == 0 { Some(self.0 as u32) } else { None }
    }
}

/// A transport header and what follows it, by place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Where the header is, from the start of the frame.
    pub(crate) transport: usize,
    /// Bytes of header and payload that are there.
    pub(crate) payload: usize,
}

/// The server id in a packet from a client.
#[inline(always)]
pub(crate) fn find<F: Frame>(frame: &F, scheme: ServerIds, quic_lb: (u8, u8), at: Place) -> Found {
    match scheme {
        ServerIds::None => Found::NONE,
        ServerIds::TcpOption => tcp_option(frame, at),
        ServerIds::UdpStable => {
            let Some(head) = at_within::<F, Head>(frame, at, at.transport + Udp::LEN) else {
                return Found::NONE;
            };
            // As in layout 2 of Katran's connection ids, and only that.
            let is_one = head.first == STABLE_ROUTING && head.id[0] >> 6 == 2;
            if is_one { katran(&head.id) } else { Found::NONE }
        }
        ServerIds::Quic | ServerIds::QuicLb => {
            let data = at.transport + Udp::LEN;
            let Some(head) = at_within::<F, Head>(frame, at, data) else { return Found::NONE };
            if head.first & LONG == 0 {
                return in_connection_id(&head.id, scheme, quic_lb);
            }
            if !names_server(head) {
                return Found::NONE;
            }
            match at_within::<F, ConnectionId>(frame, at, data + LONG_LEN) {
                Some(id) => in_connection_id(id, scheme, quic_lb),
                None => Found::NONE,
            }
        }
    }
}

/// The server id in a packet *to* a client, as an ICMP error quotes it: of QUIC, a long header has the server's
/// connection id as its source. Other packets to clients do not name their server.
#[inline(always)]
pub(crate) fn find_quoted<F: Frame>(frame: &F, scheme: ServerIds, quic_lb: (u8, u8), at: Place) -> Found {
    if !matches!(scheme, ServerIds::Quic | ServerIds::QuicLb) {
        return Found::NONE;
    }
    let data = at.transport + Udp::LEN;
    let Some(head) = at_within::<F, Head>(frame, at, data) else { return Found::NONE };
    let destination_len = head.id[4];
    if head.first & LONG == 0 || destination_len > 20 {
        return Found::NONE;
    }
    // The source's id, its length in front.
    let source_at = data + LONG_LEN + destination_len as usize;
    let Some(source) = at_within::<F, Head>(frame, at, source_at) else { return Found::NONE };
    if (source.first as usize) < CONNECTION_ID_LEN {
        return Found::NONE;
    }
    in_connection_id(&source.id, scheme, quic_lb)
}

/// A header of the payload.
#[inline(always)]
fn at_within<F: Frame, T: crate::Header>(frame: &F, place: Place, at: usize) -> Option<&T> {
    if at + size_of::<T>() > place.transport + place.payload {
        return None;
    }
    frame.at::<T>(at & MAX_OFFSET)
}

/// Whether the destination's id in a long header was made by a server. Not that of Initial and 0-RTT packets, which the
/// client made up (RFC 9000, section 7.2).
#[inline(always)]
fn names_server(head: &Head) -> bool {
    let [v0, v1, v2, v3, len, ..] = head.id;
    // In version 2 each type's number is one higher, and Retry's is zero.
    let version_2 = u32::from_be_bytes([v0, v1, v2, v3]) == QUIC_V2;
    let kind = if version_2 { (head.first >> 4).wrapping_sub(1) & 3 } else { head.first >> 4 & 3 };
    // Initial 0, 0-RTT 1, Handshake 2, Retry 3.
    kind >= 2 && (len as usize) >= CONNECTION_ID_LEN
}

#[inline(always)]
fn in_connection_id(id: &ConnectionId, scheme: ServerIds, quic_lb: (u8, u8)) -> Found {
    if scheme == ServerIds::Quic { katran(id) } else { plaintext(id, quic_lb) }
}

/// Katran's layouts: the first two bits are the layout's number.
#[inline(always)]
fn katran(id: &ConnectionId) -> Found {
    match id[0] >> 6 {
        // 16 bits right behind the two.
        1 => Found::new(u32::from(id[0] & 0x3f) << 10 | (id[1] as u32) << 2 | (id[2] as u32) >> 6),
        2 => Found::new(u32::from_be_bytes([0, id[1], id[2], id[3]])),
        3 => Found::new(u32::from_be_bytes([id[1], id[2], id[3], id[4]])),
        _ => Found::NONE,
    }
}

/// QUIC-LB's plaintext form: three bits of config rotation, five of length or noise, then the server id
/// (draft-ietf-quic-load-balancers, sections 3 and 5.2).
#[inline(always)]
fn plaintext(id: &ConnectionId, (rotation, len): (u8, u8)) -> Found {
    if id[0] >> 5 != rotation {
        return Found::NONE;
    }
    let four = u32::from_be_bytes([id[1], id[2], id[3], id[4]]);
    match len {
        1..=4 => Found::new(four >> ((32 - 8 * len as u32) & 31)),
        _ => Found::NONE,
    }
}

/// The TCP option, in anything but a SYN. Its number is little-endian, as the servers that Katran's users run write it.
#[inline(always)]
fn tcp_option<F: Frame>(frame: &F, place: Place) -> Found {
    let Some(tcp) = at_within::<F, Tcp>(frame, place, place.transport) else { return Found::NONE };
    let header_len = tcp.header_len() & 0x3c;
    if tcp.flags & tcp_flags::SYN != 0 || header_len > place.payload {
        return Found::NONE;
    }
    let mut at = Tcp::LEN;
    let mut seen = 0;
    while seen < MAX_OPTIONS {
        // Changes nothing: a header has at most 60 bytes, and options end within. It tells the verifier so.
        at &= 0x3f;
        if at + OPTION[1] as usize > header_len {
            return Found::NONE;
        }
        let Some(&[kind, len, a, b, c, d]) = frame.at::<[u8; 6]>((place.transport + at) & MAX_OFFSET) else {
            return Found::NONE;
        };
        match kind {
            0 => return Found::NONE,
            1 => at += 1,
            _ if len < 2 || at + len as usize > header_len => return Found::NONE,
            _ if [kind, len] == OPTION => return Found::new(u32::from_le_bytes([a, b, c, d])),
            _ => at += len as usize,
        }
        seen += 1;
    }
    Found::NONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn katrans_layouts() {
        assert_eq!(katran(&[0x41, 0x00, 0x83, 4, 5, 6, 7, 0]).id(), Some(1026));
        assert_eq!(katran(&[0x80, 0x03, 0x04, 0x02, 5, 6, 7, 0]).id(), Some(0x03_0402));
        assert_eq!(katran(&[0xff, 0x01, 0x02, 0x03, 0x04, 6, 7, 0]).id(), Some(0x0102_0304));
        assert_eq!(katran(&[0x3f, 1, 2, 3, 4, 5, 6, 7]).id(), None);
    }

    #[test]
    fn plaintext_ids_of_every_length() {
        let id = [0x5f, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5, 0, 0];
        let lengths: std::vec::Vec<_> = (0..6).map(|len| plaintext(&id, (2, len)).id()).collect();
        assert_eq!(lengths, [None, Some(0xa1), Some(0xa1b2), Some(0xa1_b2c3), Some(0xa1b2_c3d4), None]);
        assert_eq!(plaintext(&id, (1, 2)).id(), None, "another rotation");
        assert_eq!(plaintext(&[0xff; 8], (7, 2)).id(), Some(0xffff), "the caller never asks for rotation 7");
    }
}
