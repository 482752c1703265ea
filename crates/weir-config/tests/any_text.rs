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

fn director() -> impl Strategy<Value = String> {
    let interfaces = prop::collection::btree_set("[a-z][a-z0-9.@_-]{0,14}", 1..=16)
        .prop_map(|names| format!("interfaces = {:?}\n", Vec::from_iter(names)));
    (
        interfaces,
        maybe("xdp_mode", select(vec!["auto", "native", "generic"]).prop_map(|mode| format!("{mode:?}"))),
        maybe("flow_table_entries", (8192_u32..=1 << 28).prop_map(|entries| entries.to_string())),
        maybe("ring_slots", slots()),
        // Anything but NUL, written as TOML's literal strings write it.
        maybe("hash_key_file", "/[^\\p{Cc}']{0,20}".prop_map(|path| format!("'{path}'"))),
        maybe("source_ipv4", Just("\"10.0.0.2\"".to_owned())),
        maybe("source_ipv6", Just("\"2001:db8::2\"".to_owned())),
    )
        .prop_map(|(a, b, c, d, e, f, g)| format!("[director]\n{a}{b}{c}{d}{e}{f}{g}"))
}

/// A backend but for its address, which the service gives it.
fn backend() -> impl Strategy<Value = String> {
    (
        maybe("weight", (0_u16..=65535).prop_map(|weight| weight.to_string())),
        maybe(
            "mac",
            any::<[u8; 5]>().prop_map(|m| {
                format!("\"02:{:02x}:{:02X}-{:02x}:{:02x}:{:02x}\"", m[0], m[1], m[2], m[3], m[4])
            }),
        ),
    )
        .prop_map(|(weight, mac)| format!("{weight}{mac}"))
}

fn service() -> impl Strategy<Value = (String, Vec<String>)> {
    (
        (
            select(vec!["tcp", "udp"]),
            maybe("encapsulation", Just("\"ipip\"".to_owned())),
            maybe("scheduler", Just("\"maglev\"".to_owned())),
            maybe("ring_slots", slots()),
            maybe("no_backend", select(vec!["drop", "pass"]).prop_map(|word| format!("{word:?}"))),
            maybe("idle_timeout", duration(10, 4)),
            maybe("drain", duration(0, 24)),
        ),
        prop::collection::vec(backend(), 0..5),
    )
        .prop_map(|((protocol, b, c, d, e, f, g), backends)| {
            (format!("protocol = {protocol:?}\n{b}{c}{d}{e}{f}{g}"), backends)
        })
}

/// A file that is right.
fn file() -> impl Strategy<Value = String> {
    (director(), prop::collection::vec((service(), any::<[bool; 4]>()), 0..5)).prop_map(
        |(mut text, services)| {
            for (i, ((service, backends), [v6, v6_backend, named, any_port])) in (1..).zip(services) {
                let vip: IpAddr = if v6 {
                    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, i).into()
                } else {
                    Ipv4Addr::new(192, 0, 2, i as u8).into()
                };
                writeln!(text, "[[service]]\nvip = \"{vip}\"").unwrap();
                if named {
                    writeln!(text, "name = \"s{i}\"").unwrap();
                }
                text.push_str(if any_port { "port = \"*\"\n" } else { "port = 443\n" });
                text.push_str(&service);
                if !backends.is_empty() {
                    text.push_str("[[service.backend]]\naddress = \"2001:db8:1::ffff\"\n");
                }
                for (j, backend) in (1..).zip(backends) {
                    let (address, via): (IpAddr, &str) = if v6 || v6_backend {
                        (Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, j).into(), "fe80::1")
                    } else {
                        (Ipv4Addr::new(10, 0, 0, j as u8).into(), "10.0.0.254")
                    };
                    writeln!(text, "[[service.backend]]\naddress = \"{address}\"\n{backend}").unwrap();
                    if named {
                        writeln!(text, "name = \"rs{j}\"\nvia = \"{via}\"").unwrap();
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
