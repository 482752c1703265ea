//! What a forwarded packet must look like, worked out independently of the datapath: plain byte positions and a
//! straightforward checksum.
use crate::image::{
    DIRECTOR_MAC, NEXT_HOP_MAC, SPREAD_NETWORK_V4, SPREAD_NETWORK_V6, ServiceSpec, Travel, director_address,
};
use std::net::IpAddr;

/// How a packet was to travel.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// In what.
    pub travel: Travel,
    /// VLAN id of the egress tag; 0 = none.
    pub vlan: u16,
    /// UDP port of GUE.
    pub gue_port: u16,
    /// Whether the UDP checksum of GUE over IPv6 is computed.
    pub gue_checksum: bool,
}

impl Default for How {
    fn default() -> Self {
        Self { travel: Travel::Ipip, vlan: 0, gue_port: 6080, gue_checksum: true }
    }
}

impl How {
    /// As a service's packets do.
    pub fn of(spec: &ServiceSpec, director: &crate::image::DirectorSpec) -> Self {
        Self {
            travel: spec.encapsulation,
            vlan: spec.vlan,
            gue_port: director.gue_port,
            gue_checksum: director.flags & weir_abi::Features::GUE_CHECKSUM != 0,
        }
    }
}

/// What a frame carries behind its VLAN tags: EtherType, and the rest.
pub fn untagged(frame: &[u8]) -> (u16, &[u8]) {
    let mut at = 12;
    while matches!(frame[at..at + 2], [0x81, 0x00] | [0x88, 0xa8]) {
        at += 4;
    }
    (u16::from_be_bytes([frame[at], frame[at + 1]]), &frame[at + 2..])
}

/// Checks that `output` is `input` (a frame) wrapped once for `backend`, every byte of it. `Err` says what is wrong.
pub fn check_wrapped(input: &[u8], output: &[u8], backend: IpAddr, how: How) -> Result<(), String> {
    check_sent(untagged(input).1, output, backend, how)
}

/// Checks that `output` is the IP packet `inner` (with whatever stood behind it in its frame) on its way to `backend`.
pub fn check_sent(inner: &[u8], output: &[u8], backend: IpAddr, how: How) -> Result<(), String> {
    let is_v4 = inner[0] >> 4 == 4;
    let inner_len = if is_v4 {
        usize::from(u16::from_be_bytes([inner[2], inner[3]]))
    } else {
        40 + usize::from(u16::from_be_bytes([inner[4], inner[5]]))
    };
    let mut expected = Vec::new();
    expected.extend_from_slice(&NEXT_HOP_MAC);
    expected.extend_from_slice(&DIRECTOR_MAC);
    if how.vlan != 0 {
        expected.extend_from_slice(&[0x81, 0x00]);
        expected.extend_from_slice(&how.vlan.to_be_bytes());
    }
    let outer_is_v4 = if how.travel == Travel::Layer2 { is_v4 } else { backend.is_ipv4() };
    expected.extend_from_slice(if outer_is_v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
    let at = expected.len();
    if how.travel != Travel::Layer2 {
        let udp = if how.travel == Travel::Gue { 8 } else { 0 };
        let len = inner_len + udp;
        let protocol = match (udp, is_v4) {
            (0, true) => 4,
            (0, false) => 41,
            _ => 17,
        };
        let free =
            output.get(at..at + if outer_is_v4 { 20 } else { 40 }).ok_or("no room for an outer header")?;
        outer_ip(&mut expected, (inner, free), (len, protocol), backend, how)?;
        if udp != 0 {
            let header = output.get(expected.len()..expected.len() + 8).ok_or("no room for a UDP header")?;
            udp_header(
                &mut expected,
                header,
                (inner, inner_len),
                how,
                outer_is_v4.then_some(()),
                output,
                at,
            )?;
        }
    }
    expected.extend_from_slice(inner);
    if expected == output {
        return Ok(());
    }
    let at =
        expected.iter().zip(output).position(|(a, b)| a != b).unwrap_or(expected.len().min(output.len()));
    Err(format!("differs at byte {at}:\n  expected {expected:02x?}\n  got      {output:02x?}"))
}

/// Writes the outer IP header; what is free in it (identification, flow label, the bits of a spread source) is taken from
/// the output.
fn outer_ip(
    expected: &mut Vec<u8>,
    (inner, free): (&[u8], &[u8]),
    (len, protocol): (usize, u8),
    backend: IpAddr,
    how: How,
) -> Result<(), String> {
    let class = if inner[0] >> 4 == 4 { inner[1] } else { inner[0] << 4 | inner[1] >> 4 };
    let spread = how.travel == Travel::IpipSpread;
    match (director_address(backend), backend) {
        (IpAddr::V4(fixed), IpAddr::V4(destination)) => {
            let source = if spread {
                let [a, b, ..] = SPREAD_NETWORK_V4.octets();
                [a, b, free[14], free[15]]
            } else {
                fixed.octets()
            };
            let mut header = vec![0x45, class];
            header.extend_from_slice(&((20 + len) as u16).to_be_bytes());
            // The identification is free (RFC 6864), the checksum must follow it.
            header.extend_from_slice(&free[4..6]);
            header.extend_from_slice(&[0x40, 0, 64, protocol, 0, 0]);
            header.extend_from_slice(&source);
            header.extend_from_slice(&destination.octets());
            let checksum = plain_checksum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            expected.extend_from_slice(&header);
        }
        (IpAddr::V6(fixed), IpAddr::V6(destination)) => {
            let mut source = fixed.octets();
            if spread {
                source = SPREAD_NETWORK_V6.octets();
                source[8..].copy_from_slice(&free[16..24]);
            }
            // The flow label is free (RFC 6437), or none where something else tells flows apart.
            let label = if how.travel == Travel::Ipip { [free[1] & 0x0f, free[2], free[3]] } else { [0; 3] };
            expected.extend_from_slice(&[0x60 | class >> 4, class << 4 | label[0], label[1], label[2]]);
            expected.extend_from_slice(&(len as u16).to_be_bytes());
            expected.extend_from_slice(&[protocol, 64]);
            expected.extend_from_slice(&source);
            expected.extend_from_slice(&destination.octets());
        }
        _ => return Err("the director's address is of another family".into()),
    }
    Ok(())
}

/// Writes GUE's UDP header; its source port is free among the dynamic ones.
fn udp_header(
    expected: &mut Vec<u8>,
    header: &[u8],
    (inner, inner_len): (&[u8], usize),
    how: How,
    over_v4: Option<()>,
    output: &[u8],
    ip_at: usize,
) -> Result<(), String> {
    if header[0] < 0xc0 {
        return Err(format!(
            "source port {} is not a dynamic one",
            u16::from_be_bytes([header[0], header[1]])
        ));
    }
    let len = ((8 + inner_len) as u16).to_be_bytes();
    let mut udp = vec![header[0], header[1]];
    udp.extend_from_slice(&how.gue_port.to_be_bytes());
    udp.extend_from_slice(&len);
    udp.extend_from_slice(&[0, 0]);
    if over_v4.is_none() && how.gue_checksum {
        match sums(&inner[..inner_len]) {
            Sums::Right => {
                let mut summed = output[ip_at + 8..ip_at + 40].to_vec();
                summed.extend_from_slice(&[len[0], len[1], 0, 17]);
                summed.extend_from_slice(&udp);
                summed.extend_from_slice(&inner[..inner_len]);
                let checksum = match plain_checksum(&summed) {
                    0 => 0xffff,
                    checksum => checksum,
                };
                udp[6..8].copy_from_slice(&checksum.to_be_bytes());
            }
            // The outer one is as wrong.
            Sums::Wrong => udp[6..8].copy_from_slice(&header[6..8]),
            Sums::Unknown => {}
        }
    }
    expected.extend_from_slice(&udp);
    Ok(())
}

/// What a packet's own checksums say.
enum Sums {
    Right,
    Wrong,
    /// There is none over all of it, or it is not where the first header says.
    Unknown,
}

fn sums(packet: &[u8]) -> Sums {
    let v4 = packet[0] >> 4 == 4;
    let header_len = if v4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    let protocol = if v4 { packet[9] } else { packet[6] };
    if v4 && (packet[6] & 0x3f | packet[7]) != 0 {
        return Sums::Unknown;
    }
    let (addresses, body) = (if v4 { &packet[12..20] } else { &packet[8..40] }, &packet[header_len..]);
    let mut summed = Vec::new();
    match protocol {
        1 if v4 => {}
        // None, or not of all that follows.
        17 if body[6..8] == [0, 0] || usize::from(u16::from_be_bytes([body[4], body[5]])) != body.len() => {
            return Sums::Unknown;
        }
        6 | 17 => summed.extend_from_slice(addresses),
        58 if !v4 => summed.extend_from_slice(addresses),
        _ => return Sums::Unknown,
    }
    if !summed.is_empty() {
        summed.extend_from_slice(&(body.len() as u16).to_be_bytes());
        summed.extend_from_slice(&[0, protocol]);
    }
    summed.extend_from_slice(body);
    let header_right = !v4 || plain_checksum(&packet[..header_len]) == 0;
    if header_right && plain_checksum(&summed) == 0 { Sums::Right } else { Sums::Wrong }
}

/// RFC 1071, one word after the other with the carry added at once; an odd last byte counts as if followed by zero.
pub fn plain_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u16;
    for word in bytes.chunks(2) {
        let (next, carry) =
            sum.overflowing_add(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        sum = next + u16::from(carry);
    }
    !sum
}
