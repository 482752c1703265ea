//! What the director must take out of a wrapped packet, worked out independently of the datapath: plain byte positions.
use crate::Image;
use crate::outer::plain_checksum;
use std::net::IpAddr;

/// What is inside a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inside {
    /// It is not wrapped, or not for an address that takes wrapped packets.
    NotWrapped,
    /// This frame.
    Frame(Vec<u8>),
    /// Nothing that may go on.
    Refused,
}

impl Inside {
    /// Looks into a frame, as a director with these tables should.
    pub fn of(frame: &[u8], image: &Image) -> Self {
        if image.decapsulate.is_empty() {
            return Self::NotWrapped;
        }
        let Some(outer) = outer(frame) else { return Self::NotWrapped };
        let gue = outer.protocol == 17;
        if !image.decapsulate.contains(&outer.destination)
            || gue && outer.port(frame) != Some(image.director.gue_port)
        {
            return Self::NotWrapped;
        }
        let at = outer.payload_at + if gue { 8 } else { 0 };
        let version = match outer.protocol {
            4 => 4,
            41 => 6,
            // Of GUE, the packet itself says it. The frame may go on behind the packet, but that is for nobody to read.
            _ => match frame.get(at..at + 2) {
                Some(bytes) if bytes[0] >> 4 == 4 => 4,
                Some(_) => 6,
                None => return Self::Refused,
            },
        };
        strip(frame, &outer, at, version).map_or(Self::Refused, Self::Frame)
    }

    /// The frame that goes on its way: the one inside, if there is one.
    pub fn or<'a>(&'a self, frame: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Frame(inner) => inner,
            Self::NotWrapped | Self::Refused => frame,
        }
    }
}

struct Outer {
    link_len: usize,
    destination: IpAddr,
    class: u8,
    /// 4, 17 or 41.
    protocol: u8,
    payload_at: usize,
    /// Where the packet ends; the frame may be longer.
    end: usize,
}

impl Outer {
    fn port(&self, frame: &[u8]) -> Option<u16> {
        let bytes = frame.get(self.payload_at..self.end)?.first_chunk::<8>()?;
        Some(u16::from_be_bytes([bytes[2], bytes[3]]))
    }
}

/// Reads the headers in front of what may be a packet; `None` where there is none, or not all of it.
fn outer(frame: &[u8]) -> Option<Outer> {
    let mut link_len = 14;
    while link_len < 22 && matches!(frame.get(link_len - 2..link_len)?, [0x81, 0x00] | [0x88, 0xa8]) {
        link_len += 4;
    }
    let packet = frame.get(link_len..)?;
    let (header, protocol, end, destination, class) = match frame[link_len - 2..link_len] {
        [0x08, 0x00] => {
            let ip = packet.first_chunk::<20>()?;
            let (header, len) =
                (usize::from(ip[0] & 15) * 4, usize::from(u16::from_be_bytes([ip[2], ip[3]])));
            if ip[0] >> 4 != 4 || header < 20 || len < header || (ip[6] & 0x3f | ip[7]) != 0 {
                return None;
            }
            let destination = IpAddr::from([ip[16], ip[17], ip[18], ip[19]]);
            (header, ip[9], len, destination, ip[1])
        }
        [0x86, 0xdd] => {
            let ip = packet.first_chunk::<40>()?;
            let len = 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            if ip[0] >> 4 != 6 || len > packet.len() {
                return None;
            }
            let (mut at, mut protocol) = (40, ip[6]);
            for _ in 0..6 {
                if !matches!(protocol, 0 | 43 | 44 | 60) {
                    break;
                }
                let header = packet[at..].first_chunk::<8>()?;
                let fragment = u16::from_be_bytes([header[2], header[3]]) & 0xfff9;
                let size = match protocol {
                    44 if fragment != 0 => return None,
                    44 => 8,
                    43 if header[3] != 0 => return None,
                    _ => (usize::from(header[1]) + 1) * 8,
                };
                protocol = header[0];
                at += size;
                // As far as a director looks.
                if at > len || link_len + at > 511 {
                    return None;
                }
            }
            let destination = IpAddr::from(*ip[24..].first_chunk::<16>()?);
            (at, protocol, len, destination, ip[0] << 4 | ip[1] >> 4)
        }
        _ => return None,
    };
    let wraps = matches!(protocol, 4 | 17 | 41) && end <= packet.len();
    wraps.then_some(Outer {
        link_len,
        destination,
        class,
        protocol,
        payload_at: link_len + header,
        end: link_len + end,
    })
}

/// The frame without its outer headers, with the congestion mark it has to bear (RFC 6040, figure 4).
fn strip(frame: &[u8], outer: &Outer, at: usize, version: u8) -> Option<Vec<u8>> {
    let mut packet = frame.get(at..)?.to_vec();
    let room = outer.end.checked_sub(at)?;
    let class = if version == 4 {
        let ip = packet.first_chunk::<20>()?;
        let (header, len) = (usize::from(ip[0] & 15) * 4, usize::from(u16::from_be_bytes([ip[2], ip[3]])));
        if ip[0] >> 4 != 4 || header < 20 || len < header || len > room {
            return None;
        }
        ip[1]
    } else {
        let ip = packet.first_chunk::<40>()?;
        if ip[0] >> 4 != 6 || 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])) > room {
            return None;
        }
        ip[0] << 4 | ip[1] >> 4
    };
    let marked = match (class & 3, outer.class & 3) {
        (0, 3) => return None,
        (_, 3) => class | 3,
        (2, 1) => class & !3 | 1,
        _ => class,
    };
    if version == 6 {
        packet[0] = packet[0] & 0xf0 | marked >> 4;
        packet[1] = packet[1] & 0x0f | marked << 4;
    } else if marked != class {
        // The checksum stays as right or wrong as it was.
        packet[1] = marked;
        let old = !u16::from_be_bytes([packet[10], packet[11]]);
        let change = [old.to_be_bytes(), [0xff, !class], [0, marked]].concat();
        packet[10..12].copy_from_slice(&plain_checksum(&change).to_be_bytes());
    }
    let ether_type = if version == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    Some([&frame[..outer.link_len - 2], &ether_type, &packet].concat())
}
