//! Whether a sample shows what it claims: every packet counted came back, and came back as it should be.
//!
//! Owns: what is wrong with counters or a packet, as words. May not touch: maps, the wire.
use crate::case::Case;
use crate::rig::bytes_of;
use anyhow::{Context as _, ensure};

/// One packet in this many may differ: buckets of the flow table overflow now and then.
const TOLERANCE: u64 = 500;

/// Packets, as the program under test and the sink count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// By the program, as the case wants them.
    pub expected: u64,
    /// By the program, in all.
    pub handled: u64,
    /// By the sink, of the right length.
    pub returned: u64,
    /// By the sink, of another length.
    pub strange: u64,
}

impl Counts {
    /// What was added since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            expected: self.expected - before.expected,
            handled: self.handled - before.handled,
            returned: self.returned - before.returned,
            strange: self.strange - before.strange,
        }
    }

    pub(crate) fn check(&self, case: &Case) -> anyhow::Result<()> {
        ensure!(self.strange == 0, "{} packets came back with another length", self.strange);
        ensure!(self.expected > 0, "no packet came through");
        ensure!(
            self.handled == self.returned,
            "the program handled {} packets, {} came back",
            self.handled,
            self.returned
        );
        ensure!(
            self.expected + self.handled / TOLERANCE >= self.handled,
            "only {} of {} packets were {}",
            self.expected,
            self.handled,
            case.reason.map_or("as expected", weir_abi::Reason::label)
        );
        Ok(())
    }
}

/// The first packet that came back, as the sink's map has it.
#[derive(Clone, Debug)]
pub(crate) struct Returned {
    /// Length of the packet.
    len: usize,
    /// Its beginning.
    head: Vec<u8>,
}

/// Bytes that the sink keeps of a packet; of a shorter one, as many whole words as it has.
const HEAD: usize = 72;
/// First byte of the IP header.
const IP: usize = 14;
/// Bytes that differ from flow to flow: source address and port.
const OF_FLOW: [std::ops::Range<usize>; 2] = [26..30, 34..36];

fn kept(len: usize) -> usize {
    HEAD.min(len / 8 * 8)
}

impl Returned {
    /// The map's value before anything has come back.
    pub(crate) fn awaiting(len: usize) -> Vec<u8> {
        let mut value = bytes_of(&[len as u64, 0]);
        value.resize(16 + HEAD, 0);
        value
    }

    /// From the map's value.
    pub(crate) fn read(value: &[u8]) -> anyhow::Result<Self> {
        let len = value.get(8..16).context("the sink's record is cut short")?;
        let len = u64::from_ne_bytes(len.try_into()?) as usize;
        let known = kept(len);
        let head = value.get(16..16 + known).context("the sink's record is cut short")?;
        Ok(Self { len, head: head.to_vec() })
    }

    /// Whether it is the case's packet, wrapped once for a backend, or with its MAC addresses swapped.
    pub(crate) fn check(&self, case: &Case) -> anyhow::Result<()> {
        let (head, packet) = (&self.head, &case.packet);
        ensure!(self.len == case.out_len(), "it has {} bytes, not {}", self.len, case.out_len());
        if case.outer == 0 {
            let swapped = head[..6] == packet[6..12] && head[6..12] == packet[..6];
            ensure!(swapped, "its MAC addresses are not swapped: {:02x?}", &head[..12]);
            ensure!(head[12..14] == packet[12..14], "its type changed to {:02x?}", &head[12..14]);
        } else {
            let protocol = if case.outer == 20 { 4 } else { 17 };
            let outer = &head[IP..IP + 20];
            ensure!(head[12..14] == [8, 0] && outer[0] == 0x45, "its outer header is no IPv4: {head:02x?}");
            ensure!(outer[9] == protocol, "its outer protocol is {}, not {protocol}", outer[9]);
            let len = usize::from(u16::from_be_bytes([outer[2], outer[3]]));
            ensure!(IP + len == self.len, "its outer header says {len} bytes, it has {}", self.len - IP);
            ensure!(outer[16..19] == [10, 1, 0], "it goes to no backend: {:?}", &outer[16..20]);
        }
        let (inner, original) = (&head[IP + case.outer..], &packet[IP..]);
        for (at, (inner, original)) in (IP..).zip(inner.iter().zip(original)) {
            let other_flow = case.flows > 1 && OF_FLOW.iter().any(|range| range.contains(&at));
            ensure!(
                other_flow || inner == original,
                "byte {at} of the packet inside it is {inner:#04x}, not {original:#04x}"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case;

    fn case(name: &str) -> Case {
        case::live(None).into_iter().find(|case| case.name == name).expect("a case")
    }

    /// What should come back of a case's packet.
    fn frame(case: &Case) -> Vec<u8> {
        let packet = &case.packet;
        if case.outer == 0 {
            return [&packet[6..12], &packet[..6], &packet[12..]].concat();
        }
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(((case.out_len() - IP) as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, if case.outer == 20 { 4 } else { 17 }, 0, 0]);
        frame.extend([10, 0, 0, 2, 10, 1, 0, 42]);
        frame.resize(IP + case.outer, 0);
        frame.extend(&packet[IP..]);
        frame
    }

    fn check(case: &Case, frame: &[u8]) -> Result<(), String> {
        let mut value = Returned::awaiting(case.out_len());
        value[8..16].copy_from_slice(&(frame.len() as u64).to_ne_bytes());
        let kept = kept(frame.len());
        value[16..16 + kept].copy_from_slice(&frame[..kept]);
        let returned = Returned::read(&value).map_err(|error| error.to_string())?;
        returned.check(case).map_err(|error| error.to_string())
    }

    #[test]
    fn the_right_packet_is_taken_and_each_wrong_one_refused() {
        for case in case::live(None) {
            let right = frame(&case);
            assert_eq!(check(&case, &right), Ok(()), "{}", case.name);
            let mut longer = right.clone();
            longer.extend([0; 20]);
            assert!(check(&case, &longer).is_err(), "{}: wrapped twice", case.name);
            // Of the inner packet the address of the service; of the outer one version, length, protocol, destination.
            let wrong: &[usize] = if case.outer == 0 { &[0, 6, 12, 30] } else { &[12, 14, 16, 23, 30] };
            for at in wrong.iter().copied().chain([IP + case.outer + 9]) {
                let mut changed = right.clone();
                changed[at] ^= 1;
                assert!(check(&case, &changed).is_err(), "{}: byte {at}", case.name);
            }
        }
    }

    #[test]
    fn flows_may_differ_where_there_are_several() {
        for (name, may) in [("tcp4_hit_1", false), ("tcp4_hit_10k", true)] {
            let case = case(name);
            let mut other = frame(&case);
            other[IP + case.outer + 15] ^= 1;
            assert_eq!(check(&case, &other).is_ok(), may, "{name}");
        }
    }

    #[test]
    fn a_record_that_nothing_reached_is_no_packet() {
        let case = case("iptunnel");
        let returned = Returned::read(&Returned::awaiting(case.out_len())).expect("complete");
        assert!(returned.check(&case).is_err());
        let mut value = Returned::awaiting(case.out_len());
        value[8] = 78;
        assert!(Returned::read(&value).is_ok());
        assert!(Returned::read(&value[..80]).is_err(), "cut short");
    }

    #[test]
    fn counts_must_agree() {
        let case = case("tcp4_hit_1");
        let before = Counts { expected: 5, handled: 7, returned: 7, strange: 1 };
        let counts = |expected: u64, handled: u64, returned: u64, strange: u64| {
            let after = Counts {
                expected: 5 + expected,
                handled: 7 + handled,
                returned: 7 + returned,
                strange: 1 + strange,
            };
            after.since(&before).check(&case).map_err(|error| error.to_string())
        };
        assert_eq!(counts(1000, 1000, 1000, 0), Ok(()));
        assert_eq!(counts(998, 1000, 1000, 0), Ok(()), "one in 500");
        assert!(counts(997, 1000, 1000, 0).is_err_and(|error| error.contains("flow_hit")));
        assert!(counts(1000, 1000, 999, 0).is_err_and(|error| error.contains("999 came back")));
        assert!(counts(1000, 1000, 1000, 1).is_err_and(|error| error.contains("another length")));
        assert!(counts(0, 0, 0, 0).is_err_and(|error| error.contains("no packet")));
    }
}
