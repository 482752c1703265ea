//! The outer header of a packet on its way to a backend, by itself.
//!
//! Owns: what makes one right: lengths, protocol, hop limit, checksums, DSCP and ECN. May not touch: which backend it is for.
//! Invariant: an [`Outer`] is one that a real server's kernel unwraps without complaint.

use std::net::IpAddr;

use crate::packet::{Carried, Ip, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_UDP, UDP, checksum, word};

/// Hops an outer header is sent with.
const HOPS: u8 = 64;

/// A right outer header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer<'f> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Whether it is GUE, else IP in IP.
    pub(crate) gue: bool,
    /// The packet inside, and what follows it in the frame.
    pub(crate) inner: &'f [u8],
}

impl<'f> Outer<'f> {
    /// Reads the outer header of a frame; `gue_port`: where GUE goes. `Err` says what is wrong with it.
    pub(crate) fn read(frame: &'f [u8], gue_port: u16) -> Result<Self, String> {
        let ip = Ip::of_frame(frame).ok_or("it is no IP packet")?;
        if Carried::of(frame).is_some_and(|carried| carried.tags != 0) {
            return Err("it has a VLAN tag".to_owned());
        }
        let ip_len = ip.header_len();
        let gue = ip.next_header() == PROTOCOL_UDP;
        let len = if gue { ip_len + UDP } else { ip_len };
        let inner_bytes = ip.bytes().get(len..).unwrap_or_default();
        let inner = Ip::new(inner_bytes).ok_or("there is no IP packet behind the outer header")?;
        let carries = if inner.is_v4() { PROTOCOL_IPV4 } else { PROTOCOL_IPV6 };
        if !gue && ip.next_header() != carries {
            return Err(format!("the outer protocol is {}, not {carries}", ip.next_header()));
        }
        if ip.len() != len + inner.len() {
            return Err(format!("the outer length is {}, not {}", ip.len(), len + inner.len()));
        }
        if ip.len() > ip.bytes().len() {
            return Err(format!("of {} bytes there are {}", ip.len(), ip.bytes().len()));
        }
        if ip.fragment().is_some() {
            return Err("the outer packet is a fragment".to_owned());
        }
        if ip.hops() != HOPS {
            return Err(format!("it has {} hops, not {HOPS}", ip.hops()));
        }
        if ip.class() != inner.class() {
            return Err(format!("its DSCP and ECN are {:#04x}, not {:#04x}", ip.class(), inner.class()));
        }
        if ip.is_v4() && checksum(&[&ip.bytes()[..ip_len]]) != 0 {
            return Err("the outer header's checksum is wrong".to_owned());
        }
        if gue {
            udp(&ip, gue_port)?;
        }
        Ok(Self { source: ip.source(), destination: ip.destination(), gue, inner: inner_bytes })
    }

    /// What is inside, however right the header.
    pub(crate) fn inner_of(frame: &'f [u8]) -> Option<&'f [u8]> {
        let ip = Ip::of_frame(frame)?;
        let len = if ip.next_header() == PROTOCOL_UDP { ip.header_len() + UDP } else { ip.header_len() };
        let inner = ip.bytes().get(len..)?;
        Ip::new(inner).map(|_| inner)
    }
}

/// A checksum of zero is none: right over IPv4 (RFC 768) and, in tunnels, over IPv6 (RFC 6935).
fn udp(ip: &Ip<'_>, gue_port: u16) -> Result<(), String> {
    let datagram = &ip.bytes()[ip.header_len()..ip.len()];
    let field = |at| word(datagram, at).unwrap_or(0);
    if field(2) != gue_port {
        return Err(format!("GUE goes to port {}, not {gue_port}", field(2)));
    }
    if field(0) == 0 {
        return Err("GUE comes from port 0".to_owned());
    }
    if usize::from(field(4)) != datagram.len() {
        return Err(format!("the UDP length is {}, not {}", field(4), datagram.len()));
    }
    let addresses = if ip.is_v4() { &ip.bytes()[12..20] } else { &ip.bytes()[8..40] };
    let pseudo = [addresses, &(datagram.len() as u16).to_be_bytes(), &[0, PROTOCOL_UDP]].concat();
    if field(6) != 0 && checksum(&[&pseudo, datagram]) != 0 {
        return Err("the UDP checksum is wrong".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_testkit::packet::{Builder, wrapped};

    /// A packet in an outer header, with 64 hops.
    fn sent(inner: &Builder, outer: [&str; 2], gue: Option<u16>) -> Vec<u8> {
        let mut frame = wrapped(&inner.tcp(40000, 80, 2), outer[0], outer[1], inner.tos, gue);
        if frame[12] == 8 {
            frame[14 + 8] = HOPS;
            frame[24..26].fill(0);
            let sum = checksum(&[&frame[14..34]]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            frame[14 + 7] = HOPS;
        }
        frame
    }

    fn v4() -> Builder {
        Builder::new("198.51.100.7", "192.0.2.10").tos(0xb9)
    }

    fn all() -> Vec<Vec<u8>> {
        let v6 = Builder::new("2001:db8:7::7", "2001:db8:1::10");
        let (over_v4, over_v6) = (["10.0.0.2", "10.0.0.11"], ["2001:db8::2", "2001:db8::11"]);
        let mut frames = Vec::new();
        for inner in [v4(), v6] {
            for outer in [over_v4, over_v6] {
                frames.extend([None, Some(6080)].map(|gue| sent(&inner, outer, gue)));
            }
        }
        frames
    }

    #[test]
    fn right_ones_of_every_kind() {
        for frame in all() {
            let outer = Outer::read(&frame, 6080).expect("right");
            assert_eq!(frame[frame.len() - outer.inner.len()..], *outer.inner);
            assert!(["10.0.0.11", "2001:db8::11"].contains(&outer.destination.to_string().as_str()));
            assert!(["10.0.0.2", "2001:db8::2"].contains(&outer.source.to_string().as_str()));
            assert_eq!(
                outer.gue,
                outer.inner.len() + 14 + if frame[12] == 8 { 20 } else { 40 } != frame.len()
            );
        }
    }

    #[test]
    fn a_byte_that_is_wrong_is_found_anywhere_in_an_ipv4_header_and_in_gue() {
        let ipip = sent(&v4(), ["10.0.0.2", "10.0.0.11"], None);
        for at in 14..34 {
            let mut wrong = ipip.clone();
            wrong[at] ^= 0x10;
            assert!(Outer::read(&wrong, 6080).is_err(), "byte {at}");
        }
        let gue = sent(&v4(), ["2001:db8::2", "2001:db8::11"], Some(6080));
        // Whatever the checksum covers, and the fields of the IPv6 header but for the flow label.
        for at in (14..15).chain(18..gue.len()) {
            let mut wrong = gue.clone();
            wrong[at] ^= 0x10;
            assert!(Outer::read(&wrong, 6080).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let says = |frame: &[u8], what: &str| {
            let why = Outer::read(frame, 6080).expect_err(what);
            assert!(why.contains(what), "{why}");
        };
        let ipip = sent(&v4(), ["2001:db8::2", "2001:db8::11"], None);
        let with = |at: usize, byte: u8| {
            let mut frame = ipip.clone();
            frame[at] = byte;
            frame
        };
        says(&with(14 + 6, PROTOCOL_IPV6), "protocol is 41, not 4");
        says(&with(14 + 7, 63), "63 hops");
        says(&with(14, 0x60), "DSCP and ECN are 0x09");
        says(&with(14 + 5, 1), "outer length");
        says(&ipip[..ipip.len() - 1], "bytes there are");
        says(&v4().tcp(1, 2, 0), "no IP packet behind");
        says(&sent(&v4(), ["10.0.0.2", "10.0.0.11"], Some(6081)), "port 6081, not 6080");
        let mut unsummed = sent(&v4(), ["2001:db8::2", "2001:db8::11"], Some(6080));
        unsummed[14 + 40 + 6..14 + 40 + 8].fill(0);
        assert!(Outer::read(&unsummed, 6080).is_ok());
    }
}
