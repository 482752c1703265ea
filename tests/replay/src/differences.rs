//! Where weir means to do something else than the peer.
//!
//! Owns: the list, each with the packets it is about, what weir must then have done, and why. May not touch: results that
//! agree. Invariant: a difference is never counted as passed, and one that is not in the list is a failure: each entry asks
//! for weir's own reason and for a result that is right in its own way, not merely for another one.

use weir_abi::{Reason, agent};
use weir_config::Config;

use crate::{
    compare::{Made, Mismatch, sent},
    outer::Outer,
    packet::{Carried, Fragment, Ip, Transport},
    schema::Fixture,
    service,
    verdict::{Side, TC_ACT_OK, TC_ACT_UNSPEC, Verdict, XDP_DROP, XDP_PASS, XDP_TX},
};

/// Which of weir's programs a packet went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Director,
    AgentXdp,
    AgentTc,
}

/// A packet of which the two made something else.
pub(crate) struct Case<'c> {
    pub(crate) program: Program,
    pub(crate) fixture: &'c Fixture,
    pub(crate) expected: u32,
    pub(crate) made: &'c Made,
    pub(crate) mismatch: &'c Mismatch,
    pub(crate) config: &'c Config,
}

/// A difference that is meant.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    is_it: fn(&Case<'_>) -> bool,
}

static OPTIONS: Difference = Difference {
    name: "IPv4 options",
    why: "a packet with options is a client's like any other; the peer drops it, weir balances it",
    is_it: |case| {
        case.director(XDP_DROP, XDP_TX)
            && case.input().is_some_and(|ip| ip.is_v4() && ip.is_extended())
            && case.balanced()
    },
};

static FIRST_FRAGMENT: Difference = Difference {
    name: "first fragments",
    why: "the peer drops fragments; weir sends the first one where its ports say and remembers the packet",
    is_it: |case| {
        case.director(XDP_DROP, XDP_TX)
            && matches!(case.fragment(), Some(Fragment { offset: 0, .. }))
            && case.balanced()
    },
};

static LATER_FRAGMENT: Difference = Difference {
    name: "later fragments",
    why: "the peer drops fragments; weir sends the later ones after the first (without it, it drops them, too)",
    is_it: |case| {
        case.director(XDP_DROP, XDP_TX)
            && case.reason(Reason::FragmentFollowed)
            && matches!(case.fragment(), Some(Fragment { offset: 1.., .. }))
            && case.outer().is_some_and(|outer| Some(outer.inner) == case.input().map(|ip| ip.bytes()))
    },
};

static OTHER_FRAGMENT: Difference = Difference {
    name: "fragments for others",
    why: "the peer drops every fragment; weir those to VIPs only, the rest is its machine's traffic",
    is_it: |case| {
        case.director(XDP_DROP, XDP_PASS) && case.fragment().is_some() && case.untouched() && !case.to_vip()
    },
};

static EXTENSION_HEADERS: Difference = Difference {
    name: "IPv6 extension headers",
    why: "the peer does not look behind them; weir does, and balances what it finds there",
    is_it: |case| {
        (case.director(XDP_PASS, XDP_TX) || case.director(XDP_DROP, XDP_TX))
            && case.input().is_some_and(|ip| !ip.is_v4() && ip.is_extended() && ip.fragment().is_none())
            && case.balanced()
    },
};

static VLAN_TAGS: Difference = Difference {
    name: "VLAN tags",
    why: "the peer passes frames with tags; weir looks behind two of them and balances the packet",
    is_it: |case| {
        case.director(XDP_PASS, XDP_TX)
            && Carried::of(&case.fixture.input.0).is_some_and(|carried| carried.tags > 0)
            && case.balanced()
    },
};

static ECHO: Difference = Difference {
    name: "echo requests for others",
    why: "the peer answers every echo request it sees; weir those to its VIPs, the rest is its machine's traffic",
    is_it: |case| {
        let echo = case.input().is_some_and(|ip| {
            matches!(ip.transport(), Transport::Icmp { kind: 8, .. } | Transport::Icmpv6 { kind: 128, .. })
        });
        case.director(XDP_TX, XDP_PASS) && echo && case.untouched() && !case.to_vip()
    },
};

static MALFORMED: Difference = Difference {
    name: "malformed packets for others",
    why: "the peer drops what is shorter than its headers claim; weir only if it is to a VIP, and leaves the rest to the kernel",
    is_it: |case| case.director(XDP_DROP, XDP_PASS) && case.reason(Reason::Malformed) && case.untouched(),
};

static SENDERS: Difference = Difference {
    name: "senders that cannot be",
    why: "weir drops packets from addresses that no machine has, and with no hops left",
    is_it: |case| {
        case.made.rc == XDP_DROP && (case.reason(Reason::BadSource) || case.reason(Reason::NoHopsLeft))
    },
};

static TRUNCATED: Difference = Difference {
    name: "packets cut short",
    why: "weir drops packets to VIPs that are shorter than any of their headers claims; the peer does not compare them all",
    is_it: |case| case.made.rc == XDP_DROP && case.reason(Reason::VipTruncated),
};

static DONT_FRAGMENT: Difference = Difference {
    name: "DF of the outer header",
    why: "weir sets it: a real server's XDP program never puts fragments together, and the sender learns the path's MTU",
    is_it: |case| case.only_bits(&[(20, 0x40)]) && case.made.packet[12..14] == [0x08, 0x00],
};

static FLOW_LABEL: Difference = Difference {
    name: "flow label of the outer header",
    why: "weir's is the flow's (RFC 6438) where nothing else tells flows apart, so that routers spread them over equal paths",
    is_it: |case| {
        case.only_bits(&[(15, 0x0f), (16, 0xff), (17, 0xff)]) && case.made.packet[12..14] == [0x86, 0xdd]
    },
};

static CONGESTION: Difference = Difference {
    name: "congestion marks",
    why: "a mark on the outer header goes on to the packet inside (RFC 6040), and a packet that cannot bear it is dropped",
    is_it: |case| {
        let at = if case.made.packet.get(12) == Some(&0x08) { 15 } else { 14 };
        let marked = matches!(Ip::of_frame(&case.fixture.input.0), Some(ip) if ip.class() & 3 != 0);
        let refused = [agent::Reason::EcnViolation.label(), Reason::UnwrapRefused.label()];
        let bits = if at == 15 { &[(15, 0x03), (24, 0xff), (25, 0xff)][..] } else { &[(15, 0x30)][..] };
        marked && (refused.contains(&case.made.reason) || case.only_bits(bits))
    },
};

static AGENT_FRAGMENTS: Difference = Difference {
    name: "fragments at a real server",
    why: "the peer's unwrapping program drops every fragment; weir's agent leaves them to the kernel, which puts them together",
    is_it: |case| {
        case.agent()
            && case.dropped()
            && case.fragment().is_some()
            && case.untouched()
            && [agent::Reason::NotTunnel.label(), agent::Reason::OuterFragment.label()]
                .contains(&case.made.reason)
    },
};

static AGENT_MALFORMED: Difference = Difference {
    name: "malformed packets at a real server",
    why: "the peer's unwrapping program drops them; weir's agent leaves what it does not understand to the kernel, which counts it",
    is_it: |case| {
        case.agent()
            && case.dropped()
            && case.untouched()
            && case.made.reason == agent::Reason::OuterMalformed.label()
    },
};

static TC_UNSPEC: Difference = Difference {
    name: "what tc does next",
    why: "weir's agent returns TC_ACT_UNSPEC for what it passes, so that filters behind it run",
    is_it: |case| {
        case.program == Program::AgentTc
            && case.expected == TC_ACT_OK
            && case.made.rc == TC_ACT_UNSPEC
            && case.made.packet == case.fixture.output.0
    },
};

static ALL: [&Difference; 16] = [
    &OPTIONS,
    &FIRST_FRAGMENT,
    &LATER_FRAGMENT,
    &OTHER_FRAGMENT,
    &EXTENSION_HEADERS,
    &VLAN_TAGS,
    &ECHO,
    &MALFORMED,
    &SENDERS,
    &TRUNCATED,
    &DONT_FRAGMENT,
    &FLOW_LABEL,
    &CONGESTION,
    &AGENT_FRAGMENTS,
    &AGENT_MALFORMED,
    &TC_UNSPEC,
];

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Difference> {
    ALL.into_iter()
}

/// The difference that a case shows.
pub(crate) fn find(case: &Case<'_>) -> Option<&'static Difference> {
    all().find(|difference| (difference.is_it)(case))
}

impl Program {
    /// Where it is attached.
    pub(crate) fn side(self) -> Side {
        match self {
            Self::Director | Self::AgentXdp => Side::Xdp,
            Self::AgentTc => Side::Tc,
        }
    }
}

impl Case<'_> {
    fn director(&self, expected: u32, made: u32) -> bool {
        self.program == Program::Director && self.expected == expected && self.made.rc == made
    }

    fn agent(&self) -> bool {
        self.program != Program::Director
    }

    /// Whether the peer dropped it and weir passed it.
    fn dropped(&self) -> bool {
        let side = self.program.side();
        (side.verdict(self.expected), side.verdict(self.made.rc)) == (Verdict::Drop, Verdict::Pass)
    }

    fn reason(&self, reason: Reason) -> bool {
        self.program == Program::Director && self.made.reason == reason.label()
    }

    fn input(&self) -> Option<Ip<'_>> {
        Ip::of_frame(&self.fixture.input.0)
    }

    fn fragment(&self) -> Option<Fragment> {
        self.input()?.fragment()
    }

    fn to_vip(&self) -> bool {
        self.input().is_some_and(|ip| service::is_vip(self.config, ip.destination()))
    }

    fn untouched(&self) -> bool {
        self.made.packet == self.fixture.input.0
    }

    fn outer(&self) -> Option<Outer<'_>> {
        Outer::read(&self.made.packet, self.config.director.gue_port).ok()
    }

    /// Whether the packet as it came is on its way to a backend of its service.
    fn balanced(&self) -> bool {
        self.input().is_some_and(|ip| sent(ip.bytes(), &self.made.packet, self.config).is_ok())
    }

    /// Whether the packets differ, and only in these bits (place, mask), but for what the fixture leaves free.
    fn only_bits(&self, bits: &[(usize, u8)]) -> bool {
        let Mismatch::Bytes(places) = self.mismatch else { return false };
        let byte = |packet: &[u8], at: usize| packet.get(at).copied();
        places.iter().all(|&at| {
            let pair = byte(&self.fixture.output.0, at).zip(byte(&self.made.packet, at));
            let free = bits.iter().filter(|(place, _)| *place == at).fold(0, |all, (_, mask)| all | mask);
            pair.is_some_and(|(theirs, ours)| (theirs ^ ours) & !free == 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compare::compare,
        schema::{Bytes, Class},
    };
    use weir_testkit::packet::{Builder, fragments, tagged, wrapped};

    const TEXT: &str = r#"
        [director]
        interfaces = ["lo"]
        source_ipv4 = "10.0.0.2"
        [[service]]
        vip = "192.0.2.10"
        port = 80
        protocol = "tcp"
        backend = [{ address = "10.0.0.11" }]
    "#;

    /// The name of the difference between what the peer did (return code, packet) and what weir did.
    fn between(
        program: Program,
        input: &[u8],
        theirs: (&str, &[u8]),
        ours: (u32, &[u8]),
        reason: &'static str,
    ) -> Option<&'static str> {
        let config = weir_config::parse("inline", TEXT).expect("right");
        let fixture = Fixture {
            index: 1,
            description: String::new(),
            verdict: theirs.0.to_owned(),
            expected_rc: None,
            class: Class::Agnostic,
            encap: None,
            specific_ranges: Vec::new(),
            input: Bytes(input.to_vec()),
            output: Bytes(theirs.1.to_vec()),
        };
        let made = Made { rc: ours.0, packet: ours.1.to_vec(), reason };
        let mismatch = compare(&fixture, program.side(), &made, &config).expect_err("they differ");
        let expected = program.side().expected(&fixture).expect("a code");
        let (fixture, made, mismatch, config) = (&fixture, &made, &mismatch, &config);
        find(&Case { program, fixture, expected, made, mismatch, config }).map(|difference| difference.name)
    }

    fn client() -> Builder {
        Builder::new("198.51.100.7", "192.0.2.10")
    }

    /// On its way to a backend, as weir sends it.
    fn sent(frame: &[u8], to: &str) -> Vec<u8> {
        let mut sent = wrapped(frame, "10.0.0.2", to, 0, None);
        sent[22] = 64;
        sent[24..26].fill(0);
        let sum = crate::packet::checksum(&[&sent[14..34]]);
        sent[24..26].copy_from_slice(&sum.to_be_bytes());
        sent
    }

    #[test]
    fn options_count_only_if_the_packet_is_rightly_on_its_way() {
        let options = client().options(&[1, 1, 1, 0]).tcp(1, 80, 2);
        let name = |input: &[u8], ours: (u32, &[u8])| {
            between(Program::Director, input, ("XDP_DROP", &[]), ours, "ring_new")
        };
        assert_eq!(name(&options, (XDP_TX, &sent(&options, "10.0.0.11"))), Some("IPv4 options"));
        assert_eq!(name(&options, (XDP_TX, &sent(&options, "10.0.0.12"))), None, "to a stranger");
        assert_eq!(name(&options, (XDP_TX, &options)), None, "not wrapped");
        assert_eq!(name(&options, (XDP_PASS, &options)), None, "not sent");
        let plain = client().tcp(1, 80, 2);
        assert_eq!(name(&plain, (XDP_TX, &sent(&plain, "10.0.0.11"))), None, "no options");
    }

    #[test]
    fn a_fragment_goes_where_its_packet_does() {
        let [first, later] = pieces();
        let name = |input: &[u8], ours: (u32, &[u8]), reason| {
            between(Program::Director, input, ("XDP_DROP", &[]), ours, reason)
        };
        assert_eq!(name(&first, (XDP_TX, &sent(&first, "10.0.0.11")), "ring_new"), Some("first fragments"));
        let followed = (XDP_TX, &sent(&later, "10.0.0.11")[..]);
        assert_eq!(name(&later, followed, "fragment_followed"), Some("later fragments"));
        assert_eq!(name(&later, followed, "ring_new"), None, "it has no ports to hash");
        assert_eq!(name(&later, (XDP_PASS, &later), "not_service"), None, "to a VIP");
    }

    fn pieces() -> [Vec<u8>; 2] {
        fragments(&client().payload(64).tcp(1, 80, 2), 24, 1)
    }

    #[test]
    fn what_is_for_others_is_left_alone() {
        let to = |vip: &str| Builder::new("198.51.100.7", vip);
        let ping = |vip: &str| to(vip).icmp(8, 0, [0; 4]);
        let name = |input: &[u8]| {
            between(Program::Director, input, ("XDP_TX", &[]), (XDP_PASS, input), "not_service")
        };
        assert_eq!(name(&ping("192.0.2.99")), Some("echo requests for others"));
        assert_eq!(name(&ping("192.0.2.10")), None, "to a VIP");
        assert_eq!(name(&to("192.0.2.99").icmp(13, 0, [0; 4])), None, "no echo request");
        let tags = tagged(&client().tcp(1, 80, 2), &[(0x8100, 5)]);
        let ours = sent(&client().tcp(1, 80, 2), "10.0.0.11");
        let found = between(Program::Director, &tags, ("XDP_PASS", &tags), (XDP_TX, &ours), "ring_new");
        assert_eq!(found, Some("VLAN tags"));
    }

    #[test]
    fn a_bit_of_the_outer_header_is_no_excuse_for_another() {
        let input = client().tcp(1, 80, 2);
        let ours = wrapped(&input, "2001:db8::2", "2001:db8::11", 0, None);
        let with = |at: usize, flip: u8| {
            let mut theirs = ours.clone();
            theirs[at] ^= flip;
            between(Program::Director, &input, ("XDP_TX", &theirs), (XDP_TX, &ours), "server_id")
        };
        let label = Some("flow label of the outer header");
        assert_eq!((with(15, 0x0f), with(16, 0xff), with(17, 0x01)), (label, label, label));
        assert_eq!((with(15, 0x10), with(18, 1), with(14, 1)), (None, None, None));
        let ours = sent(&input, "10.0.0.11");
        let with = |at: usize, flip: u8| {
            let mut theirs = ours.clone();
            theirs[at] ^= flip;
            between(Program::Director, &input, ("XDP_TX", &theirs), (XDP_TX, &ours), "server_id")
        };
        assert_eq!(
            (with(20, 0x40), with(20, 0x20), with(21, 1)),
            (Some("DF of the outer header"), None, None)
        );
    }

    #[test]
    fn an_agent_passes_what_is_not_its_own() {
        let [first, _] = pieces();
        let name =
            |ours: (u32, &[u8]), reason| between(Program::AgentXdp, &first, ("XDP_DROP", &[]), ours, reason);
        assert_eq!(name((XDP_PASS, &first), "not_tunnel"), Some("fragments at a real server"));
        assert_eq!(name((XDP_PASS, &first), "unwrapped_4in4"), None);
        assert_eq!(name((XDP_PASS, &first[1..]), "not_tunnel"), None, "changed");
        assert_eq!(name((XDP_PASS, &first), "outer_malformed"), Some("malformed packets at a real server"));
    }

    #[test]
    fn names_and_reasons_are_not_given_twice() {
        let names: std::collections::BTreeSet<&str> = all().map(|difference| difference.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(all().all(|difference| !difference.why.is_empty()));
    }
}
