//! Properties: no text makes `parse` panic; what it accepts comes back from `effective_toml` as it was; what it refuses
//! it refuses with places that are in the text.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::{Index, select};

use weir_config::{Config, effective_toml, parse};

/// What must hold of any text.
fn check(text: &str) -> Result<(), TestCaseError> {
    match parse("f", text) {
        Ok(config) => comes_back(&config),
        Err(errors) => {
            let errors = errors.as_slice();
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.is_sorted_by_key(|error| error.position));
            // A line break at the end begins a line, too.
            let lines: Vec<&str> = text.split('\n').collect();
            for error in errors {
                prop_assert!(!error.message.is_empty() && !error.help.is_empty());
                prop_assert!(!error.message.contains('\n') && !error.help.contains('\n'), "{error:?}");
                if let Some(position) = error.position {
                    let line = lines.get(position.line as usize - 1);
                    prop_assert!(
                        line.is_some_and(|line| position.column as usize <= line.chars().count() + 1)
                    );
                }
            }
            Ok(())
        }
    }
}

fn comes_back(config: &Config) -> Result<(), TestCaseError> {
    let text = effective_toml(config);
    let again =
        parse("effective", &text).map_err(|errors| TestCaseError::fail(format!("{errors}\n{text}")))?;
    prop_assert_eq!(&again, config);
    prop_assert_eq!(effective_toml(&again), text);
    Ok(())
}

fn maybe<S: Strategy<Value = String> + 'static>(key: &'static str, value: S) -> BoxedStrategy<String> {
    prop_oneof![Just(String::new()), value.prop_map(move |value| format!("{key} = {value}\n"))].boxed()
}

fn duration(from: u32, hours: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        (from..=hours * 3600).prop_map(|seconds| seconds.to_string()),
        (from..=hours * 3600).prop_map(|seconds| format!("\"{seconds}s\"")),
        (1_u32..=hours * 60).prop_map(|minutes| format!("\"{minutes}m\"")),
        (1..=hours).prop_map(|hours| format!("\"{hours}h\"")),
    ]
}

fn slots() -> impl Strategy<Value = String> {
    prop_oneof![Just(0), (10_u32..=20).prop_map(|log| 1 << log)].prop_map(|slots: u32| slots.to_string())
}

fn boolean() -> impl Strategy<Value = String> {
    any::<bool>().prop_map(|yes| yes.to_string())
}

fn word(words: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    select(words.to_vec()).prop_map(|word| format!("{word:?}"))
}

fn integer(range: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = String> {
    range.prop_map(|number| number.to_string())
}

/// An address or a prefix, no bit set below it, that begins with `head`.
fn prefix(head: IpAddr, from: u8) -> impl Strategy<Value = String> {
    let bits = if head.is_ipv4() { 32 } else { 128 };
    (any::<u128>(), from..=bits, any::<bool>()).prop_map(move |(low, len, alone)| {
        let network: IpAddr = match head {
            IpAddr::V4(head) => {
                let low = low as u32 & (u32::MAX >> from);
                Ipv4Addr::from_bits(
                    (head.to_bits() | low) & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0),
                )
                .into()
            }
            IpAddr::V6(head) => {
                let low = low & (u128::MAX >> from);
                Ipv6Addr::from_bits(
                    (head.to_bits() | low) & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0),
                )
                .into()
            }
        };
        if len == bits && alone { format!("\"{network}\"") } else { format!("\"{network}/{len}\"") }
    })
}

fn program_array() -> impl Strategy<Value = String> {
    (0_u32..=62, prop::option::of(1_u32..=63)).prop_map(|(position, next)| {
        let next = next.map_or(String::new(), |next| format!("next_position = {}\n", next.max(position + 1)));
        format!("program_array = \"/sys/fs/bpf/a\"\nprogram_position = {position}\n{next}")
    })
}

fn director() -> impl Strategy<Value = String> {
    let interfaces = prop::collection::btree_set("[a-z][a-z0-9.@_-]{0,14}", 1..=16)
        .prop_map(|names| format!("interfaces = {:?}\n", Vec::from_iter(names)));
    let old = (
        interfaces,
        prop_oneof![3 => maybe("xdp_mode", word(&["auto", "native", "generic"])), 1 => program_array()],
        maybe("flow_table_entries", integer(8192..=1 << 28)),
        maybe("ring_slots", slots()),
        // Anything but NUL, written as TOML's literal strings write it.
        maybe("hash_key_file", "/[^\\p{Cc}']{0,20}".prop_map(|path| format!("'{path}'"))),
        maybe("source_ipv4", prefix([10, 0, 0, 0].into(), 8)),
        maybe("source_ipv6", prefix("100::".parse().unwrap(), 16)),
    );
    let new = (
        maybe("gue_port", integer(1..=65535)),
        maybe("gue_ipv6_checksum", word(&["computed", "zero"])),
        maybe("answer_ping", boolean()),
        maybe("send_too_big", boolean()),
        maybe("icmp_rate", integer(0..=1_000_000)),
        maybe(
            "decapsulate",
            prop::collection::btree_set(any::<u8>(), 0..=64).prop_map(|hosts| {
                format!("{:?}", hosts.iter().map(|host| format!("10.7.0.{host}")).collect::<Vec<_>>())
            }),
        ),
        maybe("fragment_table_entries", integer(8..=1 << 24)),
    );
    (old, new).prop_map(|((a, b, c, d, e, f, g), (h, i, j, k, l, m, n))| {
        format!("[director]\n{a}{b}{c}{d}{e}{f}{g}{h}{i}{j}{k}{l}{m}{n}")
    })
}

/// A backend but for its address, which the service gives it; and whether it is another machine.
fn backend() -> impl Strategy<Value = (String, bool)> {
    let mac = any::<[u8; 5]>()
        .prop_map(|m| format!("\"02:{:02x}:{:02X}-{:02x}:{:02x}:{:02x}\"", m[0], m[1], m[2], m[3], m[4]));
    let remote =
        (maybe("mac", mac), maybe("encapsulation", word(&["ipip", "gue"])), maybe("vlan", integer(1..=4094)))
            .prop_map(|(a, b, c)| (format!("{a}{b}{c}local = false\n"), true));
    let place = prop_oneof![4 => remote, 1 => Just(("local = true\n".to_owned(), false))];
    (maybe("weight", integer(0..=65535)), maybe("state", word(&["up", "down"])), place)
        .prop_map(|(a, b, (c, remote))| (format!("{a}{b}{c}"), remote))
}

/// How backends are chosen and what is remembered, of keys that go together.
fn balancing() -> impl Strategy<Value = String> {
    let by_source = (word(&["source", "source-and-port"]), maybe("source_prefix", integer(1..=32)))
        .prop_map(|(hash, prefix)| format!("hash = {hash}\n{prefix}"));
    let hash = prop_oneof![maybe("hash", word(&["flow", "port", "ports"])), by_source];
    let ring = (hash, maybe("tracking", word(&["always", "never"])), maybe("scheduler", word(&["maglev"])))
        .prop_map(|(a, b, c)| format!("{a}{b}{c}"));
    let turns = word(&["rr", "wrr"]).prop_map(|scheduler| format!("scheduler = {scheduler}\n"));
    let persistent = (word(&["maglev", "rr", "wrr"]), maybe("source_prefix", integer(1..=32))).prop_map(
        |(scheduler, prefix)| {
            format!("scheduler = {scheduler}\nhash = \"source\"\npersistence = true\n{prefix}")
        },
    );
    let budget = maybe("new_flow_budget", prop_oneof![integer(0..=0), integer(64..=100_000_000)]);
    (prop_oneof![ring, turns, persistent], budget).prop_map(|(a, b)| format!("{a}{b}"))
}

/// The protocol, and where packets carry ids, if they do.
fn protocol() -> impl Strategy<Value = (String, bool)> {
    let quic_lb = (maybe("quic_lb_rotation", integer(0..=6)), maybe("quic_lb_id_length", integer(1..=4)))
        .prop_map(|(a, b)| (format!("protocol = \"udp\"\nserver_ids = \"quic-lb\"\n{a}{b}"), true));
    let others = select(vec![("tcp", "tcp-option"), ("udp", "quic"), ("udp", "udp-stable")])
        .prop_map(|(protocol, ids)| (format!("protocol = {protocol:?}\nserver_ids = {ids:?}\n"), true));
    let none = word(&["tcp", "udp"]).prop_map(|protocol| (format!("protocol = {protocol}\n"), false));
    prop_oneof![2 => none, 1 => quic_lb, 1 => others]
}

/// A service but for what its place among others gives it.
#[derive(Clone, Debug)]
struct Draft {
    text: String,
    ids: bool,
    backends: Vec<(String, bool)>,
}

fn service() -> impl Strategy<Value = Draft> {
    (
        protocol(),
        balancing(),
        (
            maybe("encapsulation", word(&["ipip", "gue"])),
            maybe("ring_slots", slots()),
            maybe("no_backend", word(&["drop", "pass", "unreachable"])),
            maybe("idle_timeout", duration(10, 4)),
            maybe("drain", duration(0, 24)),
            maybe("sources_file", "/[^\\p{Cc}']{0,20}".prop_map(|path| format!("'{path}'"))),
        ),
        prop::collection::vec(backend(), 0..5),
    )
        .prop_map(|((protocol, ids), balancing, (a, b, c, d, e, f), backends)| Draft {
            text: format!("{protocol}{balancing}{a}{b}{c}{d}{e}{f}"),
            ids,
            backends,
        })
}

/// A file that is right.
fn file() -> impl Strategy<Value = String> {
    (director(), prop::collection::vec((service(), any::<[bool; 6]>()), 0..5)).prop_map(
        |(mut text, services)| {
            for (i, (draft, [v6, v6_backend, named, any_port, whole, clients])) in (1..).zip(services) {
                let vip = match (v6, whole) {
                    (true, false) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, i).to_string(),
                    (false, false) => Ipv4Addr::new(192, 0, 2, i as u8).to_string(),
                    (true, true) => format!("2001:db8:{i}::/{}", 48 + i),
                    (false, true) => format!("192.1.{i}.0/{}", 24 + i),
                };
                writeln!(text, "[[service]]\nvip = \"{vip}\"").unwrap();
                if named {
                    writeln!(text, "name = \"s{i}\"").unwrap();
                }
                text.push_str(if any_port { "port = \"*\"\n" } else { "port = 443\n" });
                text.push_str(&draft.text);
                let net = |host: usize| {
                    if v6 { format!("2001:db8:{host:x}::/48") } else { format!("10.{host}.0.0/16") }
                };
                if clients {
                    writeln!(text, "allow = [{:?}, {:?}]\ndeny = [{:?}]", net(1), net(2), net(3)).unwrap();
                }
                if !draft.backends.is_empty() {
                    text.push_str("[[service.backend]]\naddress = \"2001:db8:ff::ffff\"\n");
                }
                for (j, (backend, remote)) in (1..).zip(draft.backends) {
                    let (address, via): (IpAddr, &str) = if v6 || v6_backend {
                        (Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, j).into(), "fe80::1")
                    } else {
                        (Ipv4Addr::new(10, 0, 0, j as u8).into(), "10.0.0.254")
                    };
                    writeln!(text, "[[service.backend]]\naddress = \"{address}\"\n{backend}").unwrap();
                    if named {
                        writeln!(text, "name = \"rs{j}\"").unwrap();
                    }
                    if named && remote {
                        writeln!(text, "via = \"{via}\"").unwrap();
                    }
                    if draft.ids && named {
                        writeln!(text, "server_id = {j}").unwrap();
                    } else if draft.ids {
                        writeln!(text, "server_ids = [{j}, {}]", j + 100).unwrap();
                    }
                    if clients {
                        writeln!(text, "sources = [{:?}]", net(3 + usize::from(j))).unwrap();
                    }
                }
            }
            text
        },
    )
}

/// Pieces of the file's own language, to be put together at random.
const PIECES: &[&str] = &[
    "[director]\n",
    "[[service]]\n",
    "[[service.backend]]\n",
    "[service]\n",
    "director",
    "service",
    "interfaces",
    "vip",
    "port",
    "protocol",
    "backend",
    "address",
    "weight",
    "mac",
    "via",
    "drain",
    "ring_slots",
    "source_ipv6",
    "decapsulate",
    "hash",
    "persistence",
    "server_ids",
    "server_id",
    "allow",
    "sources",
    "local",
    " = ",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "\n",
    "\"",
    "\"\"\"",
    "'",
    "#",
    "\\",
    "é",
    "\0",
    "\r\n",
    "\"eth0\"",
    "\"192.0.2.10\"",
    "\"2001:db8::1\"",
    "\"192.0.2.0/24\"",
    "\"::/0\"",
    "/",
    "\"source\"",
    "\"quic\"",
    "\"rr\"",
    "\"*\"",
    "\"tcp\"",
    "80",
    "0",
    "-1",
    "99999999999999999999",
    "0xff",
    "1e9",
    "nan",
    "true",
    "1979-05-27",
    "\"15m\"",
    "\"0h\"",
    "\"02:00:00:00:00:01\"",
    "\u{feff}",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_right_is_accepted_and_comes_back(text in file()) {
        match parse("f", &text) {
            Ok(config) => comes_back(&config)?,
            Err(errors) => prop_assert!(false, "{errors}\n{text}"),
        }
    }

    #[test]
    fn any_text(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn any_words(pieces in prop::collection::vec(select(PIECES), 0..60)) {
        check(&pieces.concat())?;
    }

    #[test]
    fn a_file_with_changes(
        text in file(),
        changes in prop::collection::vec((any::<Index>(), 0_usize..12, select(PIECES)), 1..4),
    ) {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, gone, piece) in changes {
            let at = at.index(chars.len() + 1);
            let end = (at + gone).min(chars.len());
            chars.splice(at..end, piece.chars());
        }
        check(&chars.into_iter().collect::<String>())?;
    }

    #[test]
    fn a_file_with_its_lines_shuffled(lines in file().prop_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).prop_shuffle()) {
        check(&lines.join("\n"))?;
    }

    #[test]
    fn a_file_cut_off(text in file(), at in any::<Index>()) {
        let at = at.index(text.len() + 1);
        check(&text.chars().take(at).collect::<String>())?;
    }
}

/// Deep nesting is refused, not followed until the stack is gone.
#[test]
fn brackets_without_end() {
    for piece in ["[", "{a=", "a.", "[["] {
        let text = format!("a = {}", piece.repeat(100_000));
        assert!(parse("f", &text).is_err());
        assert!(parse("f", &piece.repeat(100_000)).is_err());
    }
}
