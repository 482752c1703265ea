//! Any packets through the director's datapath, and what it forwards through the agent's.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use weir_abi::{Count, Reason, Verdict};
use weir_datapath::{Action, Outcome};

use super::{IFINDEX, bytes};
use crate::{
    How, Image, Inside, MemoryFrame, MemoryTables, Random, RealServers, Travel, fixtures, outer, random_image,
};

/// Packets looked at in one input.
const MOST_PACKETS: usize = 64;

/// One packet of an input.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Jiffies since the one before, as a power of two minus one: 0 to 15.
    pub pause: u8,
    /// At most 4095 bytes.
    pub frame: &'a [u8],
}

/// The input that [`process`] reads as these tables and packets.
///
/// `tables`: bits 0-47 choose the tables (a fixture's by its number, larger ones are a seed for random ones), bits 60-61
/// the size of the flow table, bit 63 whether the clock runs.
pub fn process_input<'a>(tables: u64, arrivals: impl IntoIterator<Item = Arrival<'a>>) -> Vec<u8> {
    let mut input = tables.to_le_bytes().to_vec();
    for Arrival { pause, frame } in arrivals {
        assert!(pause < 16 && frame.len() < 1 << 12);
        input.extend((frame.len() as u16 | u16::from(pause) << 12).to_le_bytes());
        input.extend(frame);
    }
    input
}

fn image(tables: u64) -> Image {
    static FIXTURES: OnceLock<Vec<Image>> = OnceLock::new();
    let fixtures =
        FIXTURES.get_or_init(|| fixtures(IFINDEX).into_iter().map(|fixture| fixture.image).collect());
    let chosen = tables & 0xffff_ffff_ffff;
    let mut image = usize::try_from(chosen)
        .ok()
        .and_then(|number| fixtures.get(number).cloned())
        .unwrap_or_else(|| random_image(&mut Random(chosen), IFINDEX));
    image.set_flow_geometry(1 << (tables >> 60 & 3), if tables >> 63 == 1 { 0 } else { 63 });
    image
}

/// Tables and packets to go through them: see [`once`].
pub fn process(data: &[u8]) {
    let Some((tables, mut rest)) = data.split_first_chunk() else { return };
    let image = image(u64::from_le_bytes(*tables));
    let tables = MemoryTables::new(&image);
    let mut jiffies = 0;
    for _ in 0..MOST_PACKETS {
        let Some((head, behind)) = rest.split_first_chunk() else { return };
        let head = u16::from_le_bytes(*head);
        let (packet, behind) = behind.split_at(behind.len().min(usize::from(head & 0xfff)));
        rest = behind;
        jiffies += (1 << (head >> 12)) - 1;
        tables.set_jiffies(jiffies);
        once(&image, &tables, packet);
    }
}

/// One packet through the director: it is counted once; it is passed as it came, or as it was inside if it came wrapped to
/// where it may; what is forwarded is sent once, to a living backend of a service of its VIP, and if it was wrapped that
/// backend unwraps it to what it was; an answer is an ICMP message that goes back to its sender, and no longer than it.
pub fn once(image: &Image, tables: &MemoryTables, packet: &[u8]) -> Outcome {
    let (mut reasons, backends) = (tables.reasons(), tables.backend_counts());
    let mut frame = MemoryFrame::new(packet);
    let outcome = weir_datapath::process(&mut frame, &tables);

    let count = reasons.entry(outcome.reason).or_default();
    count.packets += 1;
    count.bytes += packet.len() as u64;
    assert_eq!(tables.reasons(), reasons, "{outcome:?}: counted other than once under its reason");
    let action = match outcome.reason.verdict() {
        Verdict::Pass => Action::Pass,
        Verdict::Drop => Action::Drop,
        Verdict::Forward => Action::Send { ifindex: IFINDEX },
        Verdict::Reply => Action::Reply,
    };
    assert_eq!(outcome.action, action, "{outcome:?}");
    let counted = |counts: &BTreeMap<u32, Count>| {
        counts.values().fold((0, 0), |sum, count| (sum.0 + count.packets, sum.1 + count.bytes))
    };
    let (before, after) = (counted(&backends), counted(&tables.backend_counts()));
    let by_backend = action == Action::Send { ifindex: IFINDEX } || outcome.reason == Reason::Local;
    let more = if by_backend { (1, packet.len() as u64) } else { (0, 0) };
    assert_eq!(after, (before.0 + more.0, before.1 + more.1), "{outcome:?}: counters by backend");

    let inside = Inside::of(packet, image);
    assert_eq!(
        inside == Inside::Refused,
        outcome.reason == Reason::UnwrapRefused,
        "{outcome:?}: {inside:02x?}"
    );
    match outcome.reason.verdict() {
        Verdict::Pass => {
            let unwrapped = matches!(inside, Inside::Frame(_));
            let says_so = matches!(outcome.reason, Reason::Unwrapped | Reason::Local);
            assert!(!unwrapped || says_so, "{outcome:?}: unwrapped");
            assert!(unwrapped || outcome.reason != Reason::Unwrapped, "{outcome:?}: there is nothing inside");
            assert_eq!(frame.bytes(), inside.or(packet), "{outcome:?}: passed, but changed");
        }
        Verdict::Drop => {}
        Verdict::Forward => forwarded(image, packet, inside.or(packet), frame.bytes(), outcome),
        Verdict::Reply => answered(inside.or(packet), frame.bytes(), outcome),
    }
    outcome
}

fn forwarded(image: &Image, packet: &[u8], inside: &[u8], output: &[u8], outcome: Outcome) {
    let (ether_type, inner) = outer::untagged(inside);
    let destination = bytes::ip(if ether_type == 0x0800 { 4 } else { 6 }, inner).destination;
    let mut problems = Vec::new();
    let len = bytes::ip_len(outer::untagged(output).1);
    let service = (0..image.specs.len()).filter(|at| image.specs[*at].has_vip(destination)).find(|at| {
        if len > usize::from(image.specs[*at].mtu) {
            problems.push(format!("{len} bytes do not fit an MTU of {}", image.specs[*at].mtu));
            return false;
        }
        let how = How::of(&image.specs[*at], &image.director);
        image.alive(*at).iter().any(|backend| {
            let checked = outer::check_sent(inner, output, *backend, how);
            checked.map_err(|problem| problems.push(problem)).is_ok()
        })
    });
    let Some(service) = service else {
        panic!("{outcome:?}: not sent to a living backend of its VIP: {problems:?}")
    };
    if image.specs[service].encapsulation != Travel::Layer2 {
        let back = RealServers(image).get_back(packet, output);
        assert_eq!(back, Ok(()), "{outcome:?}");
    }
}

fn answered(inside: &[u8], output: &[u8], outcome: Outcome) {
    let link = bytes::link_len(inside);
    assert_eq!(output[..12], [&inside[6..12], &inside[..6]].concat(), "{outcome:?}: the way back");
    assert_eq!(output[12..link], inside[12..link], "{outcome:?}: tags and EtherType");
    let version = bytes::version(inside);
    let (asked, answer) = (&inside[link..], &output[link..]);
    let (to, from) = (bytes::ip(version, asked), bytes::ip(version, answer));
    assert_eq!((from.source, from.destination), (to.destination, to.source), "{outcome:?}");
    if outcome.reason == Reason::EchoReply {
        assert_eq!(output.len(), inside.len(), "{outcome:?}: length");
        return;
    }
    assert_eq!(from.protocol, if version == 4 { 1 } else { 58 }, "{outcome:?}");
    let quoted = &answer[from.header_len + 8..];
    assert_eq!(bytes::ip_len(answer), answer.len(), "{outcome:?}: length");
    assert_eq!(quoted, &asked[..quoted.len()], "{outcome:?}: what is quoted");
    // In a sum, its checksum is what makes it minus zero.
    if version == 4 {
        assert_eq!(outer::plain_checksum(&answer[..20]), 0, "{outcome:?}: the header's checksum");
        assert_eq!(outer::plain_checksum(&answer[20..]), 0, "{outcome:?}: the checksum");
    } else {
        let len = (answer.len() - 40) as u16;
        let summed = [&answer[8..40], &len.to_be_bytes(), &[0, 58], &answer[40..]].concat();
        assert_eq!(outer::plain_checksum(&summed), 0, "{outcome:?}: the checksum");
    }
}
