//! What the peer was built to do.
//!
//! Owns: the names of its build flags. May not touch: services, packets but to see what came out where a suite does not say
//! how the peer was built. Invariant: what the peer was not built to do weir is not told to do either, so that what they
//! make of a packet can be compared.

use crate::{
    packet::{Ip, Transport},
    schema::{Fixture, Suite},
};

/// What it does besides balancing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a build flag of its own")]
pub(crate) struct Peer {
    /// It wraps in GUE instead of IP.
    pub(crate) gue: bool,
    /// To this port, if its build says one.
    pub(crate) gue_port: Option<u16>,
    /// It unwraps what comes to it wrapped.
    pub(crate) decapsulates: bool,
    /// It tells senders of what is too big.
    pub(crate) sends_too_big: bool,
    /// It knows clients with a backend of their own.
    pub(crate) routes_sources: bool,
    /// It looks for server ids in TCP options.
    pub(crate) tcp_server_ids: bool,
    /// It looks for server ids at the beginning of UDP payloads.
    pub(crate) udp_server_ids: bool,
}

impl Peer {
    /// As the suite says, else as its packets show: then it does all that it was provisioned for.
    pub(crate) fn of(suite: &Suite) -> Self {
        match &suite.build_flags {
            Some(flags) => Self::from_flags(flags),
            None => Self {
                gue: suite.fixtures.iter().any(wraps_in_gue),
                gue_port: None,
                decapsulates: true,
                sends_too_big: suite.fixtures.iter().any(answers_too_big),
                routes_sources: true,
                tcp_server_ids: true,
                udp_server_ids: true,
            },
        }
    }

    fn from_flags(flags: &str) -> Self {
        let mut peer = Self::default();
        for flag in flags.split_whitespace().filter_map(|flag| flag.strip_prefix("-D")) {
            let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
            match name {
                "GUE_ENCAP" => peer.gue = true,
                "GUE_DPORT" => peer.gue_port = value.parse().ok(),
                "ICMP_TOOBIG_GENERATION" => peer.sends_too_big = true,
                "LPM_SRC_LOOKUP" => peer.routes_sources = true,
                "TCP_SERVER_ID_ROUTING" => peer.tcp_server_ids = true,
                "UDP_STABLE_ROUTING" => peer.udp_server_ids = true,
                _ if name.starts_with("INLINE_DECAP") => peer.decapsulates = true,
                // The others say how, not what.
                _ => {}
            }
        }
        peer
    }
}

fn wraps_in_gue(fixture: &Fixture) -> bool {
    fixture.encap.as_deref().is_some_and(|encap| encap.starts_with("gue"))
}

/// Whether what came out is an ICMP error about what went in.
fn answers_too_big(fixture: &Fixture) -> bool {
    let transport = Ip::of_frame(&fixture.output.0).map(|ip| ip.transport());
    let is_error = matches!(transport, Some(Transport::Icmp { kind: 3, code: 4, .. }))
        || matches!(transport, Some(Transport::Icmpv6 { kind: 2, .. }));
    is_error && fixture.encap.is_none() && fixture.output != fixture.input
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Bytes, Class, ProgramType};

    fn suite(build_flags: Option<&str>, fixtures: Vec<Fixture>) -> Suite {
        Suite { prog_type: ProgramType::Xdp, build_flags: build_flags.map(str::to_owned), fixtures }
    }

    #[test]
    fn build_flags_say_what_it_does() {
        let of = |flags| Peer::of(&suite(Some(flags), Vec::new()));
        assert_eq!(of("(none)"), Peer::default());
        assert_eq!(of("decap.c -DOTHER"), Peer::default());
        let flags =
            "-DGUE_ENCAP -DINLINE_DECAP_GUE -DICMP_TOOBIG_GENERATION -DLPM_SRC_LOOKUP -DGUE_DPORT=9886";
        let expected = Peer {
            gue: true,
            gue_port: Some(9886),
            decapsulates: true,
            sends_too_big: true,
            routes_sources: true,
            ..Peer::default()
        };
        assert_eq!(of(flags), expected);
        let ids = of("-DTCP_SERVER_ID_ROUTING -DUDP_STABLE_ROUTING");
        assert!(ids.tcp_server_ids && ids.udp_server_ids && !ids.gue);
    }

    #[test]
    fn without_flags_the_packets_show_it() {
        use weir_testkit::packet::Builder;
        let fixture = |encap: Option<&str>, output: Vec<u8>| Fixture {
            index: 1,
            description: String::new(),
            verdict: "XDP_TX".to_owned(),
            expected_rc: None,
            class: Class::Agnostic,
            encap: encap.map(str::to_owned),
            specific_ranges: Vec::new(),
            input: Bytes(Builder::new("198.51.100.1", "192.0.2.1").tcp(1, 80, 0)),
            output: Bytes(output),
        };
        let plain = Peer::of(&suite(None, vec![fixture(Some("ipip4"), Vec::new())]));
        assert!(!plain.gue && !plain.sends_too_big && plain.routes_sources && plain.decapsulates);
        assert!(Peer::of(&suite(None, vec![fixture(Some("gue6"), Vec::new())])).gue);

        let mut error = vec![0; 14 + 20 + 8];
        error[12..15].copy_from_slice(&[8, 0, 0x45]);
        error[14 + 2..14 + 4].copy_from_slice(&[0, 28]);
        error[14 + 9] = 1;
        error[34..36].copy_from_slice(&[3, 4]);
        assert!(Peer::of(&suite(None, vec![fixture(None, error)])).sends_too_big);
    }
}
