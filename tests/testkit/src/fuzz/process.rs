//! Any packets through the director's datapath, and what it forwards through the agent's.

use std::sync::OnceLock;

use weir_abi::{Address, Family, Reason, Verdict, agent};
use weir_datapath::{Action, decap};

use super::{IFINDEX, bytes};
use crate::image::director_address;
use crate::{How, Image, MemoryFrame, MemoryTables, Random, Travel, fixtures, outer, random_image};

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

/// Tables and packets to go through them: a packet is counted once; what is passed stays as it is; what is forwarded is
/// sent once, to a backend of a service of its VIP, and if it was wrapped in IP that backend unwraps it to what it was.
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
        one(&image, &tables, packet);
    }
}

fn one(image: &Image, tables: &MemoryTables, packet: &[u8]) {
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
    if outcome.reason.verdict() == Verdict::Pass {
        assert_eq!(frame.bytes(), packet, "{outcome:?}: passed, but changed");
    }
    let counted = |counts: &std::collections::BTreeMap<u32, weir_abi::Count>| {
        counts.values().fold((0, 0), |sum, count| (sum.0 + count.packets, sum.1 + count.bytes))
    };
    let (before, after) = (counted(&backends), counted(&tables.backend_counts()));
    if !matches!(outcome.reason.verdict(), Verdict::Forward) && outcome.reason != Reason::Local {
        assert_eq!(after, before, "{outcome:?}: counted under a backend");
        return;
    }
    assert_eq!(after, (before.0 + 1, before.1 + packet.len() as u64), "{outcome:?}: counters by backend");
    if outcome.reason == Reason::Local {
        return;
    }

    let (ether_type, inner) = outer::untagged(packet);
    let destination = bytes::ip(if ether_type == 0x0800 { 4 } else { 6 }, inner).destination;
    let mut problems = Vec::new();
    let service = image.specs.iter().filter(|spec| spec.has_vip(destination)).find(|spec| {
        let how = How::of(spec, &image.director);
        spec.backends.iter().any(|backend| {
            let checked = outer::check_wrapped(packet, frame.bytes(), *backend, how);
            checked.map_err(|problem| problems.push(problem)).is_ok()
        })
    });
    let Some(service) = service else {
        panic!("{outcome:?}: not sent to a backend of its VIP: {problems:?}")
    };
    let len = bytes::ip_len(outer::untagged(frame.bytes()).1);
    assert!(len <= usize::from(service.mtu), "{len} bytes do not fit an MTU of {}", service.mtu);

    if service.encapsulation != Travel::Ipip || service.vlan != 0 {
        return;
    }
    let reason = decap::unwrap(&mut frame, &RealServers(image));
    assert_eq!(reason.verdict(), agent::Verdict::Unwrap, "a backend does not unwrap it: {}", reason.label());
    assert_eq!(frame.bytes()[12..14], ether_type.to_be_bytes(), "a backend does not get what was sent");
    assert_eq!(&frame.bytes()[14..], inner, "a backend does not get what was sent");
}

/// All real servers of an image as one machine.
struct RealServers<'a>(&'a Image);

impl decap::AgentTables for RealServers<'_> {
    fn is_director(&self, family: Family, address: Address) -> bool {
        let address = address.to_ip(family);
        director_address(address) == address
    }
    fn is_own(&self, family: Family, address: Address) -> bool {
        self.0.specs.iter().any(|spec| spec.backends.contains(&address.to_ip(family)))
    }
    fn is_vip(&self, family: Family, address: Address) -> bool {
        self.0.specs.iter().any(|spec| spec.has_vip(address.to_ip(family)))
    }
    fn gue_port(&self) -> agent::GuePort {
        agent::GuePort::new(6080)
    }
    fn count(&self, _: agent::Reason, _: u64) {}
}
