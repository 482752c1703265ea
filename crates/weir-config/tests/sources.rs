//! Sources files: what they mean, what is wrong with them, and that millions of lines are no trouble.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use proptest::prelude::*;
use proptest::sample::select;

use weir_config::{Config, Errors, SourceAction, load};

/// A directory of its own with a configuration and sources files in it.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-config-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), contents).unwrap();
    }

    /// Reads `contents` as the configuration, with DIR for the directory.
    fn load(&self, contents: &str) -> Result<Config, Errors> {
        let path = self.0.join("weir.toml");
        fs::write(&path, contents.replace("DIR", self.0.to_str().unwrap())).unwrap();
        load(&path)
    }

    /// What is wrong, with DIR for the directory.
    fn errors(&self, contents: &str) -> String {
        self.load(contents).unwrap_err().to_string().replace(self.0.to_str().unwrap(), "DIR")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const HEAD: &str = "director = { interfaces = [\"eth0\"] }\n";
const WEB: &str = r#"[[service]]
name = "web"
vip = "192.0.2.10"
port = 80
protocol = "tcp"
allow = ["198.51.100.0/24"]
sources_file = "DIR/web"
backend = [{ address = "10.0.0.11", name = "rs1" }, { address = "10.0.0.12", sources = ["203.0.113.0/24"] }]
"#;
const SIX: &str = r#"[[service]]
name = "six"
vip = "2001:db8::10"
port = 80
protocol = "tcp"
sources_file = "DIR/six"
backend = [{ address = "10.0.0.11", name = "rs2" }]
"#;

#[test]
fn a_file_and_the_configuration_are_one_list() {
    let files = Files::new("list");
    files.write(
        "web",
        "# Clients.\n\n  198.51.100.64/26\trs1   # ours\r\n203.0.113.7 deny\n10.0.0.0/8 10.0.0.12 #\n \
         198.51.100.0/24 allow\n203.0.113.7/32 deny",
    );
    files.write("six", "2001:db8:7::/48 allow\n");
    let config = files.load(&format!("{HEAD}{WEB}{SIX}")).unwrap();
    assert_eq!(config.warnings, []);
    let rules = |service: usize| {
        let rules = config.services[service].sources.iter();
        rules.map(|rule| (rule.prefix.to_string(), rule.action)).collect::<Vec<_>>()
    };
    assert_eq!(
        rules(0),
        [
            ("10.0.0.0/8".to_owned(), SourceAction::Backend(1)),
            ("198.51.100.0/24".to_owned(), SourceAction::Allow),
            ("198.51.100.64/26".to_owned(), SourceAction::Backend(0)),
            ("203.0.113.0/24".to_owned(), SourceAction::Backend(1)),
            ("203.0.113.7".to_owned(), SourceAction::Deny),
        ]
    );
    assert_eq!(rules(1), [("2001:db8:7::/48".to_owned(), SourceAction::Allow)]);
    assert_eq!(config.services[1].sources.others(), SourceAction::Deny, "an `allow` of the file counts");
    // What is in the files is part of what is asked for.
    files.write("six", "2001:db8:7::/48 deny\n");
    assert_ne!(files.load(&format!("{HEAD}{WEB}{SIX}")).unwrap(), config);
}

#[test]
fn equal_lists_have_one_fingerprint() {
    let service = |rest: &str| {
        let text = format!("{HEAD}[[service]]\nvip = \"192.0.2.10\"\nport = 80\nprotocol = \"tcp\"\n{rest}");
        let config = weir_config::parse("weir.toml", &text).unwrap();
        config.services[0].sources.clone()
    };
    let one = service(
        "allow = [\"10.0.0.0/8\"]\nbackend = [{ address = \"10.0.0.11\", sources = [\"198.51.100.0/24\"] }]",
    );
    assert_eq!(one.targets(), [0]);
    // The same with another backend in front, and with the prefixes elsewhere.
    let same = service(
        "allow = [\"10.0.0.0/8\", \"10.0.0.0/8\"]\nbackend = [{ address = \"10.0.0.12\" },
         { address = \"10.0.0.11\", sources = [\"198.51.100.0/24\"] }]",
    );
    assert_eq!((same.fingerprint(), same.targets()), (one.fingerprint(), &[1][..]));
    let others = [
        "",
        "allow = [\"10.0.0.0/8\"]\nbackend = [{ address = \"10.0.0.12\", sources = [\"198.51.100.0/24\"] }]",
        "allow = [\"10.0.0.0/9\"]\nbackend = [{ address = \"10.0.0.11\", sources = [\"198.51.100.0/24\"] }]",
        "deny = [\"10.0.0.0/8\"]\nbackend = [{ address = \"10.0.0.11\", sources = [\"198.51.100.0/24\"] }]",
        "allow = [\"10.0.0.0/8\", \"198.51.100.0/24\"]\nbackend = [{ address = \"10.0.0.11\" }]",
    ];
    for other in others {
        assert_ne!(service(other).fingerprint(), one.fingerprint(), "{other}");
    }
}

#[test]
fn what_can_be_wrong() {
    let files = Files::new("wrong");
    files.write(
        "web",
        b"198.51.100.0/24 deny\n10.0.0.0/8\n\n10.0.0.1/8 deny\n  2001:db8::/32 deny\nexample.org deny\n\
          10.0.0.0/33 deny\n10.0.0.0/8 \xc3\xa9 \n10.0.0.0/8 rs2\n10.0.0.0/8 deny rs1\n\xc3\xa9\xff\n\
          203.0.113.0/24 rs1\n1.0.0.0/8 deny\n1.0.0.0/8 allow\n",
    );
    files.write("six", "::/0");
    assert_eq!(
        files.errors(&format!("{HEAD}{WEB}{SIX}")),
        "\
DIR/six:1:1: nothing is said of ::/0
  help: write `allow`, `deny` or the name of a backend of the service behind the prefix
DIR/web:1:1: 198.51.100.0/24 is denied here and allowed on line 7 of DIR/weir.toml
  help: say it once; where only some of its addresses are meant, a longer prefix decides for them
DIR/web:2:1: nothing is said of 10.0.0.0/8
  help: write `allow`, `deny` or the name of a backend of the service behind the prefix
DIR/web:4:1: this has bits set beyond the first 8: \"10.0.0.1/8\"
  help: write \"10.0.0.0/8\"
DIR/web:5:3: this must be IPv4 as the service's VIP is, not 2001:db8::/32
  help: clients come to an IPv4 VIP from IPv4 addresses; write those, or leave it out
DIR/web:6:1: this is not an IP address or prefix: \"example.org\"
  help: write it like \"198.51.100.0/24\" or \"2001:db8::/32\"; names are not looked up
DIR/web:7:1: this has no length of 0 to 32: \"10.0.0.0/33\"
  help: write an address and how many of its leading bits count, such as \"198.51.100.0/24\"
DIR/web:8:12: \"é\" is no backend of service web
  help: write `allow`, `deny` or the name of a backend of the service behind the prefix
DIR/web:9:12: \"rs2\" is no backend of service web
  help: write `allow`, `deny` or the name of a backend of the service behind the prefix
DIR/web:10:17: \"rs1\" is too much
  help: write a prefix and one word on a line; a comment begins with #
DIR/web:11:2: this is not UTF-8
  help: save the file as UTF-8 text
DIR/web:12:1: 203.0.113.0/24 is sent to one backend here and to another on line 9 of DIR/weir.toml
  help: say it once; where only some of its addresses are meant, a longer prefix decides for them
DIR/web:14:1: 1.0.0.0/8 is allowed here and denied on line 13
  help: say it once; where only some of its addresses are meant, a longer prefix decides for them"
    );
}

#[test]
fn files_that_cannot_be_read_are_named_where_they_are_asked_for() {
    let files = Files::new("missing");
    fs::create_dir(files.0.join("six")).unwrap();
    assert_eq!(
        files.errors(&format!("{HEAD}{WEB}{SIX}")),
        "\
DIR/weir.toml:8:16: cannot read the sources of service web from DIR/web: No such file or directory (os error 2)
  help: create the file, make it readable to the user weir runs as, or correct `sources_file`
DIR/weir.toml:15:16: cannot read the sources of service six from DIR/six: it is not a regular file
  help: create the file, make it readable to the user weir runs as, or correct `sources_file`"
    );
    // A configuration that is wrong by itself is not looked at any further.
    assert!(!files.errors(&format!("{HEAD}{WEB}port = 81\n")).contains("cannot read"));
}

#[test]
fn a_file_that_says_nothing_is_warned_of() {
    let files = Files::new("empty");
    files.write("six", "# later\n");
    let config = files.load(&format!("{HEAD}{SIX}")).unwrap();
    let warnings: Vec<_> = config.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(warnings, [format!("{}/six says nothing of any client; all are allowed", files.0.display())]);
}

#[test]
fn a_hundred_errors_are_enough_and_another_kind_of_file_is_left_at_once() {
    let files = Files::new("many");
    files.write("web", "x\n".repeat(150));
    files.write("six", vec![0; 1 << 20]);
    let errors = files.load(&format!("{HEAD}{WEB}{SIX}")).unwrap_err();
    assert_eq!(errors.as_slice().len(), 101);
    assert_eq!(errors.as_slice()[0].message, "the line has more than 4096 bytes");
    assert_eq!(errors.as_slice()[100].message, "and 51 more");
}

#[test]
fn more_lines_than_a_file_may_have() {
    let files = Files::new("lines");
    files.write("six", "\n".repeat((1 << 22) + 1));
    assert_eq!(
        files.errors(&format!("{HEAD}{SIX}")),
        "DIR/six:4194305:1: the file has more than 4194304 lines\n  \
         help: give a file of lines such as `198.51.100.0/24 deny`"
    );
}

/// Half a million lines for each of nine services are more than there may be in all.
#[test]
fn more_prefixes_than_there_may_be() {
    let files = Files::new("prefixes");
    let mut lines = String::with_capacity(10 << 20);
    for i in 0..500_000_u32 {
        let [a, b, c, d] = (0x0b00_0000 + i).to_be_bytes();
        writeln!(lines, "{a}.{b}.{c}.{d} deny").unwrap();
    }
    files.write("web", lines);
    let services = |count: u32| {
        let services = (1..=count).map(|i| {
            format!("[[service]]\nvip = \"192.0.2.1\"\nport = {i}\nprotocol = \"tcp\"\nsources_file = \"DIR/web\"\n")
        });
        services.collect::<String>()
    };
    let begin = Instant::now();
    let config = files.load(&format!("{HEAD}{}", services(8))).unwrap();
    assert!(config.services.iter().all(|service| service.sources.len() == 500_000));
    // In a build without optimisation, on a busy machine: far more than the few seconds it may take.
    assert!(begin.elapsed().as_secs() < 120, "{:?}", begin.elapsed());
    assert_eq!(
        files.errors(&format!("{HEAD}{}", services(9))),
        "DIR/weir.toml:46:16: with DIR/web there are more than 4194304 prefixes of clients\n  \
         help: give shorter prefixes, or split the services between directors"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Whatever the lines and their order: what comes back is what a map of prefixes would hold, or where it contradicts
    /// itself.
    #[test]
    fn a_list_is_a_map(lines in prop::collection::vec(
        (0_u8..4, 8_u8..=32, select(vec!["allow", "deny", "rs1", "10.0.0.12"])), 0..12,
    )) {
        let files = Files::new("map");
        let mut text = String::new();
        for (net, len, word) in &lines {
            let address = u32::from_be_bytes([9, net << 6, 0, 0]) & (u32::MAX << (32 - len));
            writeln!(text, "{}/{len} {word}", std::net::Ipv4Addr::from_bits(address)).unwrap();
        }
        files.write("web", &text);
        let mut map = std::collections::BTreeMap::new();
        let mut contradictions = 0;
        let inside = [("198.51.100.0/24", "allow"), ("203.0.113.0/24", "10.0.0.12")];
        for (prefix, word) in inside.into_iter().chain(text.lines().map(|line| line.split_once(' ').unwrap())) {
            // (An address alone and one of full length are the same.)
            let prefix = prefix.trim_end_matches("/32").to_owned();
            contradictions += usize::from(*map.entry(prefix).or_insert(word) != word);
        }
        match files.load(&format!("{HEAD}{WEB}")) {
            Ok(config) => {
                let word = |action| match action {
                    SourceAction::Allow => "allow",
                    SourceAction::Deny => "deny",
                    SourceAction::Backend(0) => "rs1",
                    SourceAction::Backend(_) => "10.0.0.12",
                };
                let rules: std::collections::BTreeMap<_, _> = config.services[0]
                    .sources.iter().map(|rule| (rule.prefix.to_string(), word(rule.action))).collect();
                prop_assert_eq!(contradictions, 0);
                prop_assert_eq!(rules, map);
            }
            Err(errors) => prop_assert_eq!(errors.as_slice().len(), contradictions),
        }
    }
}
