//! What weir made of a packet against what the peer made of it.
//!
//! Owns: the rule of each [`Class`]. May not touch: whether a mismatch is meant to be (that is [`crate::differences`]'s).
//! Invariant: nothing is overlooked but what the fixture itself says is the peer's own choice.

use std::net::IpAddr;

use weir_config::{Config, Encapsulation, Prefix};

use crate::{
    outer::Outer,
    packet::Ip,
    schema::{Class, Fixture},
    service,
    verdict::{Side, Verdict},
};

/// What weir made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) rc: u32,
    pub(crate) packet: Vec<u8>,
    /// The reason it was counted under.
    pub(crate) reason: &'static str,
}

/// Why they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// Another return code.
    Code { expected: String, made: String },
    /// The right one, but other bytes, at these places of the output (those behind the shorter one's end included).
    Bytes(Vec<usize>),
    /// A packet to a backend that is not as it must be.
    Sent(String),
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code { expected, made } => write!(f, "expected {expected}, got {made}"),
            Self::Bytes(places) => {
                write!(f, "{} bytes differ, the first at {}", places.len(), places.first().unwrap_or(&0))
            }
            Self::Sent(why) => f.write_str(why),
        }
    }
}

/// Compares as the fixture's class says; `side` is where the program is attached.
pub(crate) fn compare(fixture: &Fixture, side: Side, made: &Made, config: &Config) -> Result<(), Mismatch> {
    let expected = side.expected(fixture).map_err(Mismatch::Sent)?;
    if made.rc != expected {
        return Err(Mismatch::Code { expected: side.name(expected), made: side.name(made.rc) });
    }
    match (side.verdict(expected), fixture.class) {
        (Verdict::Drop, _) => Ok(()),
        (Verdict::Send, Class::RealSelection) => {
            sent_as(&fixture.output.0, &made.packet, config).map_err(Mismatch::Sent)
        }
        (verdict, class) => {
            let free = |at: usize| {
                class == Class::OuterHeaderOnly && fixture.specific_ranges.iter().any(|r| r.contains(at))
            };
            let differing: Vec<usize> =
                differing(&fixture.output.0, &made.packet).into_iter().filter(|at| !free(*at)).collect();
            // What is wrong with the header says more than where it differs.
            if verdict == Verdict::Send && class == Class::OuterHeaderOnly {
                Outer::read(&made.packet, config.director.gue_port).map_err(Mismatch::Sent)?;
            }
            if differing.is_empty() { Ok(()) } else { Err(Mismatch::Bytes(differing)) }
        }
    }
}

/// Where two packets differ.
fn differing(a: &[u8], b: &[u8]) -> Vec<usize> {
    (0..a.len().max(b.len())).filter(|at| a.get(*at) != b.get(*at)).collect()
}

/// Checks that `made` is what the peer's output is, but for the backend and the outer header.
fn sent_as(output: &[u8], made: &[u8], config: &Config) -> Result<(), String> {
    let inner = Outer::inner_of(output).ok_or("the expected output is no wrapped packet")?;
    if made.get(..12) != output.get(..12) {
        return Err("the MAC addresses differ".to_owned());
    }
    sent(inner, made, config).map(|_| ())
}

/// Checks that `made` is the IP packet `inner` on its way to a backend of its service; the outer header.
pub(crate) fn sent<'m>(inner: &[u8], made: &'m [u8], config: &Config) -> Result<Outer<'m>, String> {
    let outer = Outer::read(made, config.director.gue_port)?;
    if outer.inner != inner {
        let at = differing(inner, outer.inner).first().copied().unwrap_or(0);
        return Err(format!("the packet inside is not intact, its byte {at} differs"));
    }
    let service = Ip::new(inner).and_then(|packet| service::of(config, &packet));
    let service = service.ok_or("it was sent, and is for no service")?;
    if !service::may_send(service, outer.destination) {
        return Err(format!("{} is no backend of {} that takes flows", outer.destination, service.key));
    }
    if !is_source(config, outer.source) {
        return Err(format!("{} is no source of outer headers here", outer.source));
    }
    if outer.gue != (service.encapsulation == Encapsulation::Gue) {
        return Err("it travels in another encapsulation".to_owned());
    }
    Ok(outer)
}

/// Whether the director's outer headers may come from this address.
fn is_source(config: &Config, address: IpAddr) -> bool {
    let source = match address {
        IpAddr::V4(_) => config.director.source_ipv4.map(Prefix::from),
        IpAddr::V6(_) => config.director.source_ipv6.map(Prefix::from),
    };
    source.is_some_and(|source| source.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Bytes, Range};
    use serde::de::IgnoredAny;
    use weir_testkit::packet::Builder;

    const TEXT: &str = r#"
        [director]
        interfaces = ["lo"]
        source_ipv4 = "172.16.0.0/16"
        [[service]]
        vip = "192.0.2.10"
        port = 80
        protocol = "tcp"
        [[service.backend]]
        address = "10.0.0.11"
        [[service.backend]]
        address = "10.0.0.12"
    "#;

    fn config() -> Config {
        weir_config::parse("inline", TEXT).expect("right")
    }

    fn client() -> Vec<u8> {
        Builder::new("198.51.100.7", "192.0.2.10").tcp(40000, 80, 2)
    }

    /// The client's packet on its way, its outer header by hand.
    fn wrapped(source: [u8; 4], destination: [u8; 4], flags: u16, id: u16) -> Vec<u8> {
        let (frame, mut header) = (client(), vec![0x45, 0]);
        header.extend_from_slice(&((20 + frame.len() - 14) as u16).to_be_bytes());
        header.extend_from_slice(&id.to_be_bytes());
        header.extend_from_slice(&flags.to_be_bytes());
        header.extend_from_slice(&[64, 4, 0, 0]);
        header.extend_from_slice(&source);
        header.extend_from_slice(&destination);
        let sum = crate::packet::checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&frame[..14], &header, &frame[14..]].concat()
    }

    fn fixture(class: Class, verdict: &str, output: Vec<u8>) -> Fixture {
        let ranges = [(18, 2), (24, 2), (26, 4)].map(|(at, len)| Range::from((at, len, IgnoredAny)));
        Fixture {
            index: 1,
            description: String::new(),
            verdict: verdict.to_owned(),
            expected_rc: None,
            class,
            encap: None,
            specific_ranges: ranges.to_vec(),
            input: Bytes(client()),
            output: Bytes(output),
        }
    }

    fn compared(fixture: &Fixture, rc: u32, packet: Vec<u8>) -> Result<(), Mismatch> {
        compare(fixture, Side::Xdp, &Made { rc, packet, reason: "any" }, &config())
    }

    const THEIRS: [u8; 4] = [172, 16, 1, 2];
    const OURS: [u8; 4] = [172, 16, 3, 4];
    const STRANGE: [u8; 4] = [10, 1, 2, 3];
    const ONE: [u8; 4] = [10, 0, 0, 11];
    const OTHER: [u8; 4] = [10, 0, 0, 12];
    const NOBODY: [u8; 4] = [10, 0, 0, 13];

    #[test]
    fn agnostic_packets_are_equal_or_dropped() {
        let passed = fixture(Class::Agnostic, "XDP_PASS", client());
        assert_eq!(compared(&passed, 2, client()), Ok(()));
        let mut changed = client();
        changed[20] ^= 1;
        changed.push(0);
        let last = changed.len() - 1;
        assert_eq!(compared(&passed, 2, changed), Err(Mismatch::Bytes(vec![20, last])));
        let code = compared(&passed, 1, client()).expect_err("dropped");
        assert_eq!(code.to_string(), "expected XDP_PASS, got XDP_DROP");
        let dropped = fixture(Class::Agnostic, "XDP_DROP", client());
        assert_eq!(compared(&dropped, 1, Vec::new()), Ok(()));
        // The ranges are for outer headers only.
        let answered = fixture(Class::Agnostic, "XDP_TX", wrapped(THEIRS, ONE, 0, 0));
        assert!(compared(&answered, 3, wrapped(OURS, ONE, 0, 0)).is_err());
    }

    #[test]
    fn an_outer_header_may_differ_in_the_peers_choices_only_and_must_be_right() {
        let sent = fixture(Class::OuterHeaderOnly, "XDP_TX", wrapped(THEIRS, ONE, 0, 0));
        assert_eq!(compared(&sent, 3, wrapped(OURS, ONE, 0, 7)), Ok(()));
        assert_eq!(compared(&sent, 3, wrapped(OURS, OTHER, 0, 7)), Err(Mismatch::Bytes(vec![33])));
        assert_eq!(compared(&sent, 3, wrapped(OURS, ONE, 0x4000, 7)), Err(Mismatch::Bytes(vec![20])));
        let mut wrong = wrapped(OURS, ONE, 0, 7);
        wrong[25] ^= 1;
        let why = compared(&sent, 3, wrong).expect_err("a wrong checksum").to_string();
        assert!(why.contains("checksum"), "{why}");
    }

    #[test]
    fn another_backend_of_the_service_will_do_and_no_other() {
        let sent = fixture(Class::RealSelection, "XDP_TX", wrapped(THEIRS, ONE, 0, 0));
        assert_eq!(compared(&sent, 3, wrapped(OURS, OTHER, 0x4000, 7)), Ok(()));
        let why = |packet| compared(&sent, 3, packet).expect_err("not right").to_string();
        assert!(why(wrapped(OURS, NOBODY, 0, 7)).contains("10.0.0.13 is no backend"));
        assert!(why(wrapped(STRANGE, OTHER, 0, 7)).contains("10.1.2.3 is no source"));
        let mut broken = wrapped(OURS, OTHER, 0, 7);
        *broken.last_mut().expect("bytes") ^= 1;
        assert!(why(broken).contains("not intact"));
        let mut elsewhere = wrapped(OURS, OTHER, 0, 7);
        elsewhere[0] ^= 1;
        assert!(why(elsewhere).contains("MAC"));
        assert!(why(client()).contains("no IP packet behind"));
    }
}
