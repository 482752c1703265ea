//! What is measured.
use weir_abi::{Reason, Verdict};
use weir_testkit::packet::Builder;

/// The VIPs and the client of all cases.
pub(crate) const VIP4: &str = "192.0.2.10";
pub(crate) const VIP6: &str = "2001:db8:1::10";
/// The VIP whose packets travel in GUE.
pub(crate) const GUE_VIP4: &str = "192.0.2.12";
/// The first of the VIPs of [`SERVICES`] services: 192.168.0.0 and so on.
pub(crate) const FIRST_OF_MANY: [u8; 2] = [192, 168];
/// How many services have packets at once in the cases that say so; a power of two.
pub(crate) const SERVICES: u16 = 1024;
const CLIENT4: &str = "10.0.0.7";
const CLIENT6: &str = "2001:db8:7::7";

/// The program a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// MAC swap.
    Floor,
    /// The Linux sample's logic.
    Iptunnel,
    /// The director.
    Director,
    /// The director with the kernel's LRU hash as its flow table.
    Lru,
}

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Name in the report.
    pub name: String,
    /// Program.
    pub target: Target,
    /// The frame.
    pub packet: Vec<u8>,
    /// Number of flows, a power of two; 1 = the packet as it is.
    pub flows: u32,
    /// Number of services they are of, a power of two.
    pub services: u16,
    /// Bytes the packet grows by.
    pub outer: usize,
    /// Whether each round uses flows never seen before.
    pub fresh: bool,
    /// The reason every packet of a round must be counted under (checked for the director and its LRU variant).
    pub reason: Option<Reason>,
}

impl Case {
    /// Length of the packet that comes out.
    pub(crate) fn out_len(&self) -> usize {
        self.packet.len() + self.outer
    }
}

/// Times of one case, nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    harness: Vec<u32>,
    gross: Vec<u32>,
}

impl Samples {
    pub(crate) fn push(&mut self, harness: u32, gross: u32) {
        self.harness.push(harness);
        self.gross.push(gross);
    }
    /// Best program time less best harness time.
    pub(crate) fn best(&self) -> u32 {
        let least = |of: &[u32]| of.iter().min().copied().unwrap_or(0);
        least(&self.gross).saturating_sub(least(&self.harness))
    }
    /// Median program time less median harness time.
    pub(crate) fn median(&self) -> u32 {
        let middle = |of: &[u32]| {
            let mut sorted = of.to_vec();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).copied().unwrap_or(0)
        };
        middle(&self.gross).saturating_sub(middle(&self.harness))
    }
}

/// The cases that run with live traffic too.
const LIVE: [&str; 5] = ["floor", "iptunnel", "tcp4_hit_1", "tcp4_hit_10k", "gue4_hit_1"];

/// The cases with live traffic; the references first.
pub(crate) fn live(only: Option<&str>) -> Vec<Case> {
    let mut cases = all(only);
    cases.retain(|case| LIVE.contains(&case.name.as_str()));
    cases
}

/// All cases; the references first.
pub(crate) fn all(only: Option<&str>) -> Vec<Case> {
    let (syn, ack) = (0x02, 0x10);
    let tcp4 = |flags| Builder::new(CLIENT4, VIP4).tcp(40000, 80, flags);
    let case = |name: &str, target, packet: Vec<u8>, flows, reason: Option<Reason>| Case {
        name: name.to_owned(),
        target,
        outer: match (target, reason.map(Reason::verdict), packet[12]) {
            (Target::Floor, ..) | (_, Some(Verdict::Pass), _) => 0,
            (_, _, 0x08) => 20,
            _ => 40,
        },
        packet,
        flows,
        services: 1,
        fresh: reason == Some(Reason::RingNew),
        reason,
    };
    let mut cases = vec![
        case("floor", Target::Floor, tcp4(ack), 1, None),
        case("iptunnel", Target::Iptunnel, tcp4(ack), 1, None),
        case(
            "pass",
            Target::Director,
            Builder::new(CLIENT4, "192.0.2.11").tcp(40000, 80, ack),
            1,
            Some(Reason::NotService),
        ),
    ];
    for (prefix, target) in [("", Target::Director), ("lru_", Target::Lru)] {
        let tcp6 = Builder::new(CLIENT6, VIP6).tcp(40000, 80, ack);
        let udp4 = Builder::new(CLIENT4, VIP4).udp(40000, 80);
        for (name, packet, flows, reason) in [
            ("tcp4_hit_1", tcp4(ack), 1, Reason::FlowHit),
            ("tcp6_hit_1", tcp6.clone(), 1, Reason::FlowHit),
            ("udp4_hit_1", udp4, 1, Reason::FlowHit),
            ("tcp4_hit_10k", tcp4(ack), 1 << 13, Reason::FlowHit),
            ("tcp4_hit_1m", tcp4(ack), 1 << 20, Reason::FlowHit),
            ("tcp6_hit_1m", tcp6, 1 << 20, Reason::FlowHit),
            ("tcp4_syn_1m", tcp4(syn), 1 << 20, Reason::RingNew),
        ] {
            cases.push(case(&format!("{prefix}{name}"), target, packet, flows, Some(reason)));
        }
    }
    let gue = Builder::new(CLIENT4, GUE_VIP4).tcp(40000, 80, ack);
    cases.push(Case { outer: 28, ..case("gue4_hit_1", Target::Director, gue, 1, Some(Reason::FlowHit)) });
    for (name, flags, reason) in
        [("tcp4_hit_1m_1k_services", ack, Reason::FlowHit), ("tcp4_syn_1m_1k_services", syn, Reason::RingNew)]
    {
        let packet = Builder::new(CLIENT4, "192.168.0.0").tcp(40000, 80, flags);
        cases
            .push(Case { services: SERVICES, ..case(name, Target::Director, packet, 1 << 20, Some(reason)) });
    }
    cases.retain(|case| {
        only.is_none_or(|part| case.name.contains(part))
            || matches!(case.target, Target::Floor | Target::Iptunnel)
    });
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_cases_are_among_all_and_the_references_always() {
        let names = |only| live(only).into_iter().map(|case| case.name).collect::<Vec<_>>();
        assert_eq!(names(None), LIVE);
        assert_eq!(names(Some("gue")), ["floor", "iptunnel", "gue4_hit_1"]);
        assert_eq!(names(Some("lru_")), ["floor", "iptunnel"]);
    }
}
