//! A suite from its files to an outcome for each packet.
//!
//! Owns: which of weir's programs a suite is for, the order of things. May not touch: how packets are compared. Invariant:
//! every fixture of a suite gets one outcome, and what could not be tried has not passed.

use std::path::Path;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use weir_abi::{
    Reason,
    agent::{UNWRAP_TC, UNWRAP_XDP},
};
use weir_config::Config;

use crate::{
    agent::Unwrapper,
    compare::{Made, Mismatch, compare},
    differences::{self, Case, Difference, Program},
    director::{Balancer, Ways},
    packet::Ip,
    peer::Peer,
    provision::{self, Configuration},
    schema::{Fixture, ProgramType, Provision, Suite},
    service,
    verdict::{Side, XDP_PASS},
};

/// Keys of the hash that are tried before a flow is said to stay where it is.
const KEYS: u64 = 256;

/// What became of a fixture.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Passed,
    /// Something else was made of it, as is meant.
    Differs(&'static Difference, Mismatch),
    /// Weir has no program for it.
    Unsupported,
    Failed(String),
}

/// A fixture's line of the report.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) index: u32,
    pub(crate) description: String,
    /// Weir's reason; none if the packet could not be tried.
    pub(crate) reason: &'static str,
    pub(crate) outcome: Outcome,
}

/// A suite that was tried.
#[derive(Clone, Debug)]
pub(crate) struct Replayed {
    pub(crate) name: String,
    /// Which program it is for.
    pub(crate) program: &'static str,
    /// What weir was told.
    pub(crate) configuration: Configuration,
    pub(crate) lines: Vec<Line>,
}

/// Reads the suite `name` of a directory and sends its packets through weir. Files that cannot be read have failed as a whole,
/// in one line.
pub(crate) fn replay(directory: &Path, name: &str) -> Replayed {
    let file = format!("{name}.json");
    let read = || {
        anyhow::Ok((
            read(&directory.join("fixtures").join(&file))?,
            read(&directory.join("provision").join(&file))?,
        ))
    };
    match read() {
        Ok((suite, provision)) => run(name, &suite, &provision),
        Err(error) => Replayed {
            name: name.to_owned(),
            program: "nothing",
            configuration: Configuration::default(),
            lines: vec![Line {
                index: 0,
                description: "the whole suite".to_owned(),
                reason: "-",
                outcome: Outcome::Failed(format!("{error:#}")),
            }],
        },
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let doing = || format!("cannot read {}", path.display());
    let text = std::fs::read_to_string(path).with_context(doing)?;
    serde_json::from_str(&text).with_context(doing)
}

/// Sends a suite's packets through weir.
pub(crate) fn run(name: &str, suite: &Suite, provision: &Provision) -> Replayed {
    let peer = Peer::of(suite);
    let program = program(name, suite.prog_type);
    let configuration = match program {
        Some(Program::Director) => provision::configuration(provision, &peer),
        _ => Configuration::default(),
    };
    let lines = match program {
        None => all(suite, || Outcome::Unsupported),
        Some(program) => {
            let tried = try_all(program, suite, provision, &peer, &configuration.text);
            tried.unwrap_or_else(|error| all(suite, || Outcome::Failed(format!("{error:#}"))))
        }
    };
    let program = match program {
        Some(Program::Director) => "the director",
        Some(Program::AgentXdp) => "the agent, in XDP",
        Some(Program::AgentTc) => "the agent, in tc",
        None => "a program weir does not have",
    };
    Replayed { name: name.to_owned(), program, configuration, lines }
}

/// Which of weir's programs does what the suite's did; `None`: none does.
fn program(name: &str, prog_type: ProgramType) -> Option<Program> {
    match prog_type {
        ProgramType::Xdp if name.starts_with("xdpdecap") => Some(Program::AgentXdp),
        ProgramType::Xdp => Some(Program::Director),
        ProgramType::Tc if name == "tc_srcmatch" => Some(Program::AgentTc),
        // Health checks on their way out.
        ProgramType::Tc => None,
    }
}

/// The same outcome for every fixture.
fn all(suite: &Suite, outcome: impl Fn() -> Outcome) -> Vec<Line> {
    suite.fixtures.iter().map(|fixture| line(fixture, "-", outcome())).collect()
}

fn line(fixture: &Fixture, reason: &'static str, outcome: Outcome) -> Line {
    Line { index: fixture.index, description: fixture.description.clone(), reason, outcome }
}

fn try_all(
    program: Program,
    suite: &Suite,
    provision: &Provision,
    peer: &Peer,
    text: &str,
) -> anyhow::Result<Vec<Line>> {
    let inputs = || suite.fixtures.iter().map(|fixture| fixture.input.0.as_slice());
    let gue_port = provision::gue_port(&provision.state, peer);
    if program != Program::Director {
        let name = if program == Program::AgentTc { UNWRAP_TC } else { UNWRAP_XDP };
        let unwrapper = Unwrapper::new(name, inputs(), gue_port)?;
        let config = parse(NOTHING)?;
        let judged = suite
            .fixtures
            .iter()
            .map(|fixture| judge(program, fixture, unwrapper.run(&fixture.input.0), &config));
        return Ok(judged.collect());
    }
    let config = parse(text)?;
    let ways = Ways {
        source_mac: inputs().find_map(|frame| frame.first_chunk().copied()).unwrap_or_default(),
        longest: provision.state.max_packet_size,
    };
    let mut lines = Vec::new();
    for key in 0..KEYS {
        let balancer = Balancer::new(&config, ways, key)?;
        lines = suite
            .fixtures
            .iter()
            .map(|fixture| judge(program, fixture, balancer.run(&fixture.input.0), &config))
            .collect();
        // The key is a secret, and any will do. Where a service has this machine among its backends the choice shows in the
        // return code: it takes a key under which such flows fall as they did for the peer.
        if !suite.fixtures.iter().zip(&lines).any(|(fixture, line)| fell_elsewhere(fixture, line, &config)) {
            break;
        }
    }
    Ok(lines)
}

/// A configuration of a director that balances nothing.
const NOTHING: &str = "[director]\ninterfaces = [\"lo\"]\n";

fn parse(text: &str) -> anyhow::Result<Config> {
    weir_config::parse("provision", text).context("weir refuses the configuration")
}

fn judge(program: Program, fixture: &Fixture, run: anyhow::Result<Made>, config: &Config) -> Line {
    let made = match run {
        Ok(made) => made,
        Err(error) => return line(fixture, "-", Outcome::Failed(format!("{error:#}"))),
    };
    let side = program.side();
    let outcome = match compare(fixture, side, &made, config) {
        Ok(()) => Outcome::Passed,
        Err(mismatch) => {
            let case = side.expected(fixture).ok().map(|expected| Case {
                program,
                fixture,
                expected,
                made: &made,
                mismatch: &mismatch,
                config,
            });
            match case.and_then(|case| differences::find(&case)) {
                Some(difference) => Outcome::Differs(difference, mismatch),
                None => Outcome::Failed(mismatch.to_string()),
            }
        }
    };
    line(fixture, made.reason, outcome)
}

/// Whether the hash left a packet to this machine that the peer's sent on, or the other way round.
fn fell_elsewhere(fixture: &Fixture, line: &Line, config: &Config) -> bool {
    let packet = Ip::of_frame(&fixture.input.0);
    let service = packet.and_then(|packet| service::of(config, &packet));
    let theirs_stayed = Side::Xdp.expected(fixture) == Ok(XDP_PASS);
    let ours_stayed = line.reason == Reason::Local.label();
    matches!(line.outcome, Outcome::Failed(_))
        && service.is_some_and(service::may_stay)
        && theirs_stayed != ours_stayed
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weir_testkit::packet::{Builder, CLIENT_MAC, fragments, wrapped};

    use super::*;

    const VIP: &str = "192.0.2.10";
    const NEXT_HOP: [u8; 6] = [0, 0, 0xde, 0xad, 0xbe, 0xaf];

    fn hex(bytes: &[u8]) -> String {
        let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        pairs.concat()
    }

    /// A fixture of a suite.
    fn packet(verdict: &str, class: &str, input: &[u8], output: &[u8]) -> Value {
        json!({"index": 1, "description": "d", "expectedReturnValue": verdict, "class": class, "encap": null,
            "specific_ranges": [], "input_hex": hex(input), "output_hex": hex(output)})
    }

    fn replayed(name: &str, kind: &str, flags: &str, fixtures: &[Value], vips: &Value) -> Replayed {
        let suite =
            json!({"suite": name, "prog_type": kind, "katran_build_flags": flags, "fixtures": fixtures});
        let provision = json!({"state": {"vips": vips, "default_mac": "00:00:de:ad:be:af",
            "server_ids": [{"id": 7, "real": "10.0.0.13"}],
            "src_routing": [{"src": "203.0.113.0/24", "dst": "2001:db8::9"}],
            "decap_dsts": [{"address": "10.9.9.9", "egress": false}],
            "reals": [{"address": "10.0.0.12", "index": 2, "flags": 2}], "max_packet_size": 1514}});
        let suite = serde_json::from_value(suite).expect("a suite");
        let provision = serde_json::from_value(provision).expect("a provision");
        run(name, &suite, &provision)
    }

    fn vip(proto: u8, flags: u32, reals: &[&str]) -> Value {
        let reals: Vec<Value> = reals.iter().map(|real| json!({"address": real, "weight": 1})).collect();
        json!({"address": VIP, "port": 80, "proto": proto, "prefixlen": 0, "flags": flags, "reals": reals})
    }

    /// What was made of each: `ok`, the name of a difference, or why it failed.
    fn outcomes(replayed: &Replayed) -> Vec<String> {
        let word = |line: &Line| match &line.outcome {
            Outcome::Passed => "ok".to_owned(),
            Outcome::Differs(difference, _) => difference.name.to_owned(),
            Outcome::Unsupported => "not supported".to_owned(),
            Outcome::Failed(why) => why.clone(),
        };
        replayed.lines.iter().map(word).collect()
    }

    /// A client's packet in an outer IPv4 header of the peer's.
    fn sent(frame: &[u8], destination: &str) -> Vec<u8> {
        let mut sent = wrapped(frame, "172.16.1.1", destination, 0, None);
        sent[..6].copy_from_slice(&NEXT_HOP);
        sent[6..12].copy_from_slice(&frame[..6]);
        sent
    }

    fn client() -> Builder {
        Builder::new("198.51.100.7", VIP)
    }

    #[test]
    fn a_suite_goes_through_the_director_and_only_what_is_right_passes() {
        let tcp = client().tcp(40000, 80, 2);
        let elsewhere = Builder::new("198.51.100.7", "192.0.2.99").tcp(40000, 80, 2);
        let ping = Builder::new("198.51.100.7", "192.0.2.99").icmp(8, 0, [0; 4]);
        let fixtures = [
            packet("XDP_TX", "katran_real_selection", &tcp, &sent(&tcp, "10.0.0.12")),
            packet("XDP_PASS", "agnostic", &elsewhere, &elsewhere),
            packet("XDP_PASS", "agnostic", &elsewhere, &tcp),
            packet("XDP_DROP", "agnostic", &tcp, &tcp),
            packet("XDP_DROP", "agnostic", &client().options(&[1, 1, 1, 0]).tcp(1, 80, 2), &[]),
            packet("XDP_DROP", "agnostic", &fragments(&client().payload(64).tcp(1, 80, 2), 24, 1)[0], &[]),
            packet("XDP_TX", "agnostic", &ping, &ping),
            packet("XDP_TX", "katran_real_selection", &tcp, &sent(&elsewhere, "10.0.0.12")),
        ];
        let replayed = replayed("s", "xdp", "", &fixtures, &json!([vip(6, 0, &["10.0.0.11", "10.0.0.12"])]));
        let outcomes = outcomes(&replayed);
        assert_eq!(outcomes[..2], ["ok", "ok"]);
        assert!(outcomes[2].contains("bytes differ"), "{outcomes:?}");
        assert_eq!(outcomes[3], "expected XDP_DROP, got XDP_TX");
        assert_eq!(outcomes[4..7], ["IPv4 options", "first fragments", "echo requests for others"]);
        assert!(outcomes[7].contains("not intact"), "{outcomes:?}");
        assert_eq!((replayed.lines[0].reason, replayed.lines[1].reason), ("ring_new", "not_service"));
    }

    #[test]
    fn ids_routes_and_wrapped_packets_are_provisioned() {
        let mut named = client();
        named.payload = vec![0x52, 0x80, 0, 0, 7, 0, 0, 0, 0, 0];
        let named = named.udp(5000, 80);
        let routed = Builder::new("203.0.113.7", VIP).udp(5000, 80);
        let inner = client().udp(5001, 80);
        let came_wrapped = wrapped(&inner, "10.1.1.1", "10.9.9.9", 0, None);
        let flags = "-DUDP_STABLE_ROUTING -DLPM_SRC_LOOKUP -DINLINE_DECAP_GENERIC";
        // Where it goes is no question of the hash, so every byte but the outer source and the id counts.
        let fixed = |input: &[u8]| {
            let mut output = sent(input, "10.0.0.13");
            // As weir has it: hops, DF.
            (output[14 + 8], output[14 + 6]) = (64, 0x40);
            let mut fixture = packet("XDP_TX", "outer_header_only", input, &output);
            fixture["specific_ranges"] = json!([[18, 2, "id"], [24, 2, "checksum"], [26, 4, "source"]]);
            fixture
        };
        let mut undefined =
            packet("XDP_TX", "katran_real_selection", &came_wrapped, &sent(&inner, "10.0.0.11"));
        undefined["index"] = json!(3);
        let to_route = packet("XDP_TX", "katran_real_selection", &routed, &sent(&routed, "10.0.0.11"));
        let vips = json!([vip(17, 256 | 16, &["10.0.0.11"])]);
        let replayed = replayed("s", "xdp", flags, &[fixed(&named), to_route, undefined], &vips);
        let outcomes = outcomes(&replayed);
        assert_eq!(outcomes[0], "ok");
        assert!(
            outcomes[1].contains("2001:db8::9 is no backend"),
            "the route's, not the hash's: {outcomes:?}"
        );
        assert_eq!(outcomes[2], "ok");
        let reasons: Vec<&str> = replayed.lines.iter().map(|line| line.reason).collect();
        assert_eq!(reasons, ["server_id", "source_route", "ring_new"]);
    }

    #[test]
    fn flows_fall_to_this_machine_where_the_peers_did() {
        let packets: Vec<Vec<u8>> = (1..=4).map(|port| client().udp(port, 80)).collect();
        let fixtures: Vec<Value> = packets
            .iter()
            .enumerate()
            .map(|(number, packet_in)| match number % 2 {
                0 => packet("XDP_PASS", "agnostic", packet_in, packet_in),
                _ => packet("XDP_TX", "katran_real_selection", packet_in, &sent(packet_in, "10.0.0.11")),
            })
            .collect();
        let vips = json!([vip(17, 32, &["10.0.0.11", "10.0.0.12"])]);
        let replayed = replayed("s", "xdp", "", &fixtures, &vips);
        assert_eq!(outcomes(&replayed), ["ok"; 4]);
        assert_eq!(replayed.lines[0].reason, "local");
    }

    #[test]
    fn suites_of_the_agents_programs() {
        let inner = client().tcp(40000, 80, 2);
        let outer = wrapped(&inner, "10.0.0.2", "10.0.0.11", 0, None);
        let mut merged = inner.clone();
        merged[..6].copy_from_slice(&outer[..6]);
        assert_eq!(merged[6..12], CLIENT_MAC);
        let [fragment, _] = fragments(&client().payload(64).tcp(1, 80, 2), 24, 1);
        let both = |pass: &str, drop: &str| {
            [packet(pass, "agnostic", &outer, &merged), packet(drop, "agnostic", &fragment, &fragment)]
        };
        let xdp = replayed("xdpdecap_any", "xdp", "", &both("XDP_PASS", "XDP_DROP"), &json!([]));
        assert_eq!(outcomes(&xdp), ["ok", "fragments at a real server"]);
        assert_eq!(xdp.lines[0].reason, "unwrapped_4in4");
        let tc = replayed("tc_srcmatch", "tc", "", &both("TC_ACT_UNSPEC", "TC_ACT_SHOT"), &json!([]));
        assert_eq!(outcomes(&tc), ["ok", "fragments at a real server"]);
        let ok = replayed("tc_srcmatch", "tc", "", &both("TC_ACT_OK", "TC_ACT_SHOT")[..1], &json!([]));
        assert_eq!(outcomes(&ok), ["what tc does next"]);
        let checks = replayed("hc_any", "tc", "", &both("TC_ACT_OK", "TC_ACT_SHOT"), &json!([]));
        assert_eq!(outcomes(&checks), ["not supported"; 2]);
    }

    #[test]
    fn a_suite_that_cannot_be_read_has_failed_and_says_why() {
        let root = std::env::temp_dir().join(format!("weir-replay-unread-{}", std::process::id()));
        std::fs::create_dir_all(root.join("fixtures")).expect("temporary directory");
        let suite = r#"{"prog_type": "xdp", "fixtures": [{"index": 1}]}"#;
        std::fs::write(root.join("fixtures/s.json"), suite).expect("temporary file");
        let (incomplete, missing) = (replay(&root, "s"), replay(&root, "t"));
        std::fs::remove_dir_all(&root).expect("temporary directory");
        let why = outcomes(&incomplete).concat();
        assert!(why.contains("fixtures/s.json") && why.contains("missing field"), "{why}");
        let why = outcomes(&missing).concat();
        assert!(why.contains("cannot read") && why.contains("fixtures/t.json"), "{why}");
    }

    #[test]
    fn what_weir_refuses_to_be_told_has_failed() {
        let tcp = client().tcp(40000, 80, 2);
        let loopback = json!([{"address": "127.0.0.1", "port": 80, "proto": 6}]);
        let replayed = replayed("s", "xdp", "", &[packet("XDP_PASS", "agnostic", &tcp, &tcp)], &loopback);
        let why = &outcomes(&replayed)[0];
        assert!(why.contains("weir refuses the configuration") && why.contains("127.0.0.1"), "{why}");
    }
}
