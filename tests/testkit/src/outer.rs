//! What a wrapped packet must look like, worked out independently of the datapath: plain byte positions and a
//! straightforward checksum.
use crate::image::{DIRECTOR_MAC, NEXT_HOP_MAC, director_address};
use std::net::IpAddr;

/// Checks that `output` is `input` (a frame) wrapped once for `backend`, every byte of it. `Err` says what is wrong.
pub fn check_wrapped(input: &[u8], output: &[u8], backend: IpAddr) -> Result<(), String> {
    let inner = &input[14..];
    let is_v4 = input[12..14] == [0x08, 0x00];
    let mut expected = Vec::new();
    expected.extend_from_slice(&NEXT_HOP_MAC);
    expected.extend_from_slice(&DIRECTOR_MAC);
    let inner_len = if is_v4 {
        usize::from(u16::from_be_bytes([inner[2], inner[3]]))
    } else {
        40 + usize::from(u16::from_be_bytes([inner[4], inner[5]]))
    };
    let class = if is_v4 { inner[1] } else { inner[0] << 4 | inner[1] >> 4 };
    let protocol = if is_v4 { 4 } else { 41 };
    match (director_address(backend), backend) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            expected.extend_from_slice(&[0x08, 0x00]);
            let mut header = vec![0x45, class];
            header.extend_from_slice(&((20 + inner_len) as u16).to_be_bytes());
            // The identification is free (RFC 6864): taken from the output, the checksum must follow it.
            header
                .extend_from_slice(output.get(18..20).ok_or("the output is too short for an outer header")?);
            header.extend_from_slice(&[0x40, 0, 64, protocol, 0, 0]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            let checksum = plain_checksum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            expected.extend_from_slice(&header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            expected.extend_from_slice(&[0x86, 0xdd]);
            // The flow label is free (RFC 6437): taken from the output.
            let label = output.get(15..18).ok_or("the output is too short for an outer header")?;
            expected.extend_from_slice(&[
                0x60 | class >> 4,
                class << 4 | label[0] & 0x0f,
                label[1],
                label[2],
            ]);
            expected.extend_from_slice(&(inner_len as u16).to_be_bytes());
            expected.extend_from_slice(&[protocol, 64]);
            expected.extend_from_slice(&source.octets());
            expected.extend_from_slice(&destination.octets());
        }
        _ => return Err("the director's address is of another family".into()),
    }
    expected.extend_from_slice(inner);
    if expected == output {
        return Ok(());
    }
    let at =
        expected.iter().zip(output).position(|(a, b)| a != b).unwrap_or(expected.len().min(output.len()));
    Err(format!("differs at byte {at}:\n  expected {expected:02x?}\n  got      {output:02x?}"))
}

/// RFC 1071, one word after the other with the carry added at once.
fn plain_checksum(header: &[u8]) -> u16 {
    let mut sum = 0u16;
    for word in header.chunks(2) {
        let (next, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word[1]]));
        sum = next + u16::from(carry);
    }
    !sum
}
