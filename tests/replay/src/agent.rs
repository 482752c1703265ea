//! Weir's agent on a real server that every packet of a suite is for.
//!
//! Owns: what the agent is told, which the peer's unwrapping program is not: it unwraps whatever is wrapped. So every sender is
//! a director here, every outer destination the machine's own, every inner one a VIP. May not touch: what packets should
//! become.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Context as _;
use weir_abi::{
    Address, Count, Family,
    agent::{self, AddressKey, DirectorKey, GuePort, Reason, SegmentLimits, role},
};
use weir_kernel::bpf::{LoadOptions, Loaded, Program, RawMap, load, test_run};

use crate::{
    compare::Made,
    director::risen,
    packet::{Ip, Transport},
};

/// The port GUE comes to where neither the suite nor its provision says.
const GUE_PORT: u16 = 6080;

/// The agent, with the addresses of a suite.
pub(crate) struct Unwrapper {
    program: Program,
    reasons: RawMap,
    _object: Loaded,
}

impl Unwrapper {
    /// Loads the program `name`.
    pub(crate) fn new<'p>(
        name: &str,
        packets: impl Iterator<Item = &'p [u8]>,
        gue_port: Option<u16>,
    ) -> anyhow::Result<Self> {
        let mut object = load("agent", &LoadOptions::default()).context("cannot load the agent")?;
        let gue_port = gue_port.unwrap_or(GUE_PORT);
        let (mut own, mut vips) = (BTreeSet::new(), BTreeSet::new());
        for (outer, inner) in packets.filter_map(|packet| wrapped(packet, gue_port)) {
            own.insert(outer);
            vips.extend(inner);
        }
        let addresses = object.map(agent::ADDRESSES)?;
        for address in own.union(&vips) {
            let roles = [(&own, role::OWN), (&vips, role::VIP)];
            let roles =
                roles.iter().filter(|(all, _)| all.contains(address)).fold(0, |all, (_, role)| all | role);
            let key = AddressKey::new(Family::of(*address), (*address).into());
            addresses.set(&bytes(&key.0), &roles.to_ne_bytes(), 0)?;
        }
        let directors = object.map(agent::DIRECTORS)?;
        for family in [Family::V4, Family::V6] {
            let everybody = DirectorKey::network(family, Address([0, 0]), 0);
            directors.set(&bytes(&everybody.0), &1_u64.to_ne_bytes(), 0)?;
        }
        let config = [agent::IDENTITY, SegmentLimits::default().0, GuePort::new(gue_port).0];
        object.map(agent::CONFIG)?.set(&0_u32.to_ne_bytes(), &bytes(&config), 0)?;
        Ok(Self { program: object.program(name)?, reasons: object.map(agent::REASONS)?, _object: object })
    }

    /// Sends a packet through the program.
    pub(crate) fn run(&self, packet: &[u8]) -> anyhow::Result<Made> {
        let before = self.counts()?;
        let run = test_run(&self.program, packet, None, 1)?;
        let reason = risen(&before, &self.counts()?)?;
        let reason = Reason::from_index(reason).context("a counter without a reason rose")?;
        Ok(Made { rc: run.retval, packet: run.packet, reason: reason.label() })
    }

    /// Packets and bytes by reason, over all CPUs.
    fn counts(&self) -> anyhow::Result<Vec<Count>> {
        Ok(self.reasons.counts(Reason::COUNT)?)
    }
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// To whom the outer header of a wrapped packet is, and the inner one if there is one.
fn wrapped(packet: &[u8], gue_port: u16) -> Option<(IpAddr, Option<IpAddr>)> {
    let outer = Ip::of_frame(packet)?;
    let inside = match outer.transport() {
        Transport::Ip(inside) => inside,
        Transport::Udp { destination, payload, .. } if destination == gue_port => payload,
        _ => return None,
    };
    // GUE may have a header of its own.
    let inner = Ip::new(inside).or_else(|| Ip::new(inside.get(4..)?));
    Some((outer.destination(), inner.map(|inner| inner.destination())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_testkit::packet::{Builder, wrapped as wrap};

    fn unwraps(name: &str, passed: u32) {
        let inner = Builder::new("198.51.100.7", "192.0.2.10").tcp(40000, 80, 2);
        let packets = [
            wrap(&inner, "10.0.0.2", "10.0.0.11", 0, None),
            wrap(&inner, "2001:db8::2", "2001:db8::11", 0, Some(7000)),
        ];
        let unwrapper =
            Unwrapper::new(name, packets.iter().map(Vec::as_slice), Some(7000)).expect("this needs root");
        for (packet, reason) in packets.iter().zip(["unwrapped_4in4", "unwrapped_gue_4in6"]) {
            let made = unwrapper.run(packet).expect("a run");
            assert_eq!((made.rc, made.reason), (passed, reason));
            assert_eq!(made.packet, inner);
        }
        let made = unwrapper.run(&inner).expect("a run");
        assert_eq!((made.rc, made.reason), (passed, "not_tunnel"));
    }

    #[test]
    fn both_programs_unwrap_what_a_suite_holds() {
        unwraps(agent::UNWRAP_XDP, 2);
        unwraps(agent::UNWRAP_TC, u32::MAX);
    }
}
