//! The Linux sample's options.
//!
//! Owns: which options there are, what their values may be, and the sentences about those that may not. Touches neither
//! the kernel nor the terminal. Invariant: [`Options`] that parsed ask for something the program can do.
//!
//! Where the sample has a sentence for a mistake, this has the same one. It is stricter than the sample with numbers
//! (`atoi` reads `8o` as 8) and refuses what the sample accepts and then never forwards.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use lexopt::Arg;
use weir_abi::iptunnel::{Tunnel, VIP2TNL_ENTRIES, Vip, ported};

/// TCP's protocol number: what `-P` is when it is left out.
const TCP: u8 = 6;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// Name or index of the interface, as given.
    pub(super) interface: String,
    /// The address packets must be sent to.
    pub(super) vip: IpAddr,
    /// The destination ports; at most 256.
    pub(super) ports: RangeInclusive<u16>,
    /// The protocol packets must be of.
    pub(super) protocol: u8,
    /// Outer source address.
    pub(super) source: IpAddr,
    /// Outer destination address, of the same family.
    pub(super) destination: IpAddr,
    /// The next hop's MAC address, where given.
    pub(super) mac: Option<[u8; 6]>,
    /// Seconds to run; 0 for ever.
    pub(super) seconds: u32,
    /// Where in the kernel the program runs.
    pub(super) mode: Mode,
    /// Whether a program already on the interface is to be replaced.
    pub(super) force: bool,
}

/// Where in the kernel the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// In the driver where it can, else generic.
    Any,
    /// In the driver.
    Native,
    /// After the driver, on socket buffers.
    Generic,
}

/// Why there are no options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// `-h`: usage, and exit code 1 as the sample has it.
    Help,
    /// `--help`, which the sample does not have: usage, and exit code 0.
    LongHelp,
    /// A sentence about an option that `getopt` would not take, for standard error after the program's name; then usage.
    Option(String),
    /// A sentence about an option that is not there, for standard error; then usage.
    Missing(String),
    /// A sentence for standard error.
    Refused(String),
}

/// Options as they come in, any of them missing.
#[derive(Default)]
struct Partial {
    interface: Option<String>,
    vip: Option<IpAddr>,
    ports: Option<RangeInclusive<u16>>,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    mac: Option<[u8; 6]>,
    seconds: u32,
    protocol: Option<u8>,
    native: bool,
    generic: bool,
    force: bool,
}

impl Options {
    /// Parses the arguments after the program's name.
    pub(super) fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, Stop> {
        let mut parser = lexopt::Parser::from_args(args);
        let mut partial = Partial::default();
        while let Some(argument) = parser.next().map_err(|error| Stop::Option(error.to_string()))? {
            match argument {
                Arg::Short('h') => return Err(Stop::Help),
                Arg::Long("help") => return Err(Stop::LongHelp),
                Arg::Short('S') => partial.generic = true,
                Arg::Short('N') => partial.native = true,
                Arg::Short('F') => partial.force = true,
                Arg::Short(option @ ('i' | 'a' | 'p' | 's' | 'd' | 'm' | 'T' | 'P')) => {
                    let value = parser
                        .value()
                        .map_err(|_| Stop::Option(format!("option requires an argument -- '{option}'")))?;
                    partial.set(option, &value.to_string_lossy())?;
                }
                Arg::Short(option) => return Err(Stop::Option(format!("invalid option -- '{option}'"))),
                Arg::Long(option) => return Err(Stop::Option(format!("unrecognized option '--{option}'"))),
                Arg::Value(value) => {
                    let value = value.to_string_lossy();
                    return Err(Stop::Option(format!("'{value}' belongs to no option")));
                }
            }
        }
        partial.finish()
    }

    /// The ports that the keys of `vip2tnl` have: just 0 for a protocol without ports.
    pub(super) fn key_ports(&self) -> RangeInclusive<u16> {
        if ported(self.protocol).is_some() { self.ports.clone() } else { 0..=0 }
    }

    /// The keys of `vip2tnl`.
    pub(super) fn keys(&self) -> impl Iterator<Item = Vip> {
        self.key_ports().map(|port| Vip::new(self.vip, port, self.protocol))
    }

    /// The value of `vip2tnl` for all of them, with this next hop.
    pub(super) fn tunnel(&self, dmac: [u8; 6]) -> Tunnel {
        Tunnel::new(self.source, self.destination, dmac)
    }

    /// Bytes the outer header adds.
    pub(super) fn outer_len(&self) -> u32 {
        if self.destination.is_ipv4() { 20 } else { 40 }
    }
}

impl Partial {
    fn set(&mut self, option: char, value: &str) -> Result<(), Stop> {
        match option {
            'i' => self.interface = Some(value.to_owned()),
            'a' => self.vip = Some(ip(value)?),
            'p' => self.ports = Some(ports(value)?),
            's' | 'd' => {
                let address = ip(value)?;
                if self.source.or(self.destination).is_some_and(|other| other.is_ipv4() != address.is_ipv4())
                {
                    return refuse(
                        "The IP version of the src and dst addresses used in the IP encapsulation does not match",
                    );
                }
                *(if option == 's' { &mut self.source } else { &mut self.destination }) = Some(address);
            }
            'm' => self.mac = Some(mac(value)?),
            'T' => match value.trim().parse() {
                Ok(seconds) => self.seconds = seconds,
                Err(_) => return refuse(format!("Invalid number of seconds:{value}")),
            },
            _ => match value.trim().parse() {
                Ok(protocol) => self.protocol = Some(protocol),
                Err(_) => return refuse(format!("Invalid IP protocol:{value}")),
            },
        }
        Ok(())
    }

    fn finish(self) -> Result<Options, Stop> {
        let missing = |option| Stop::Missing(format!("Missing argument -{option}"));
        let interface = self.interface.ok_or_else(|| missing('i'))?;
        let vip = self.vip.ok_or_else(|| missing('a'))?;
        let ports = self.ports.ok_or_else(|| missing('p'))?;
        let source = self.source.ok_or_else(|| missing('s'))?;
        let destination = self.destination.ok_or_else(|| missing('d'))?;
        if vip.is_ipv6() && destination.is_ipv4() {
            return refuse(format!(
                "The VIP {vip} is IPv6 and the tunnel {source} -> {destination} is IPv4: packets could not be wrapped. Give IPv6 addresses to -s and -d"
            ));
        }
        let mode = match (self.native, self.generic) {
            (false, false) => Mode::Any,
            (true, false) => Mode::Native,
            (false, true) => Mode::Generic,
            (true, true) => return refuse("-S (skb mode) and -N (native mode) exclude each other"),
        };
        Ok(Options {
            interface,
            vip,
            ports,
            protocol: self.protocol.unwrap_or(TCP),
            source,
            destination,
            mac: self.mac,
            seconds: self.seconds,
            mode,
            force: self.force,
        })
    }
}

fn refuse<T>(sentence: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Refused(sentence.into()))
}

/// IPv6 first, then IPv4, as the sample tries them.
fn ip(text: &str) -> Result<IpAddr, Stop> {
    let v6 = text.parse::<Ipv6Addr>().map(IpAddr::V6);
    v6.or_else(|_| text.parse::<Ipv4Addr>().map(IpAddr::V4))
        .or_else(|_| refuse(format!("{text} is an invalid IP")))
}

/// `N` or `N-M`.
fn ports(text: &str) -> Result<RangeInclusive<u16>, Stop> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (low.trim().parse::<u16>(), high.trim().parse::<u16>()) {
        (Ok(low), Ok(high)) if 1 <= low && low <= high => {
            if u32::from(high - low) < VIP2TNL_ENTRIES {
                Ok(low..=high)
            } else {
                refuse(format!("Port range ({text}) is larger than {VIP2TNL_ENTRIES}"))
            }
        }
        _ => refuse(format!("Invalid port(s):{text}")),
    }
}

/// Six groups of one or two hexadecimal digits, as `ether_aton` reads them. All zero is no address.
fn mac(text: &str) -> Result<[u8; 6], Stop> {
    let octet = |group: &str| {
        let digits = (1..=2).contains(&group.len()) && group.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(group, 16).ok()).flatten()
    };
    let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
    match octets.map(<[u8; 6]>::try_from) {
        Some(Ok(mac)) if mac != [0; 6] => Ok(mac),
        _ => refuse(format!("Invalid mac address:{text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the sample's own documentation, nearly.
    const WHOLE: &str = "-i veth0 -a 10.99.0.1 -p 80 -s 10.1.1.1 -d 10.1.1.2 -m 02:00:00:00:00:09 -T 20 -N";

    fn parse(line: &str) -> Result<Options, Stop> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    fn whole() -> Options {
        Options {
            interface: "veth0".into(),
            vip: [10, 99, 0, 1].into(),
            ports: 80..=80,
            protocol: 6,
            source: [10, 1, 1, 1].into(),
            destination: [10, 1, 1, 2].into(),
            mac: Some([2, 0, 0, 0, 0, 9]),
            seconds: 20,
            mode: Mode::Native,
            force: false,
        }
    }

    #[test]
    fn the_samples_command_lines_are_understood() {
        assert_eq!(parse(WHOLE), Ok(whole()));
        let glued = "-NT20 -m2:0:0:0:0:9 -d10.1.1.2 -s10.1.1.1 -p80 -a10.99.0.1 -iveth0";
        assert_eq!(parse(glued), Ok(whole()));
        let v6 = "-a 2001:db8::1 -s 2001:db8:1::1 -d 2001:db8:1::2";
        let options = parse(&format!("-i 7 {v6} -p 443-444 -P 17 -S -F")).expect("valid options");
        assert_eq!(options.interface, "7");
        assert_eq!((options.ports, options.protocol), (443..=444, 17));
        assert_eq!(
            (options.mode, options.force, options.mac, options.seconds),
            (Mode::Generic, true, None, 0)
        );
    }

    #[test]
    fn later_options_replace_earlier_ones() {
        let replaced = parse(&format!("-i eth9 -a 2001:db8::9 -p 1-9 {WHOLE}"));
        assert_eq!(replaced, Ok(whole()));
    }

    #[test]
    fn the_first_missing_option_in_the_samples_order_is_named() {
        let options = ["-i veth0", "-a 10.99.0.1", "-p 80", "-s 10.1.1.1", "-d 10.1.1.2"];
        for (index, option) in options.iter().enumerate() {
            let line = [&options[..index], &options[index + 1..]].concat().join(" ");
            let letter = &option[..2];
            assert_eq!(parse(&line), Err(Stop::Missing(format!("Missing argument {letter}"))));
        }
        assert_eq!(parse(""), Err(Stop::Missing("Missing argument -i".into())));
        assert!(parse(&options.join(" ")).is_ok(), "-m can be left out");
    }

    #[test]
    fn mistakes_have_the_samples_sentences() {
        for (extra, sentence) in [
            ("-a 10.99.0", "10.99.0 is an invalid IP"),
            ("-a www", "www is an invalid IP"),
            ("-s 10.1.1.256", "10.1.1.256 is an invalid IP"),
            ("-p 0", "Invalid port(s):0"),
            ("-p 65536", "Invalid port(s):65536"),
            ("-p 90-80", "Invalid port(s):90-80"),
            ("-p 80-", "Invalid port(s):80-"),
            ("-p http", "Invalid port(s):http"),
            ("-p 8o", "Invalid port(s):8o"),
            ("-p 1-257", "Port range (1-257) is larger than 256"),
            ("-m 02:00:00:00:00", "Invalid mac address:02:00:00:00:00"),
            ("-m 02:00:00:00:00:0g", "Invalid mac address:02:00:00:00:00:0g"),
            ("-m 02:00:00:00:00:+1", "Invalid mac address:02:00:00:00:00:+1"),
            ("-m 0:0:0:0:0:0", "Invalid mac address:0:0:0:0:0:0"),
            ("-m 02:00:00:00:00:09:01", "Invalid mac address:02:00:00:00:00:09:01"),
            ("-T soon", "Invalid number of seconds:soon"),
            ("-T -1", "Invalid number of seconds:-1"),
            ("-P tcp", "Invalid IP protocol:tcp"),
            ("-P 256", "Invalid IP protocol:256"),
            ("-S", "-S (skb mode) and -N (native mode) exclude each other"),
            (
                "-s 2001:db8::1",
                "The IP version of the src and dst addresses used in the IP encapsulation does not match",
            ),
        ] {
            assert_eq!(parse(&format!("{WHOLE} {extra}")), Err(Stop::Refused(sentence.into())), "{extra}");
        }
        assert_eq!(parse(&format!("{WHOLE} -p 1-256")).map(|options| options.ports), Ok(1..=256));
    }

    #[test]
    fn a_v6_vip_in_a_v4_tunnel_is_refused_and_the_reverse_is_not() {
        let refused = parse(&format!("{WHOLE} -a 2001:db8::1"));
        let Err(Stop::Refused(sentence)) = refused else { panic!("{refused:?}") };
        assert!(sentence.starts_with("The VIP 2001:db8::1 is IPv6 and the tunnel"), "{sentence}");
        let four_in_six = "-i veth0 -a 10.99.0.1 -p 80 -s 2001:db8::1 -d 2001:db8::2";
        assert_eq!(parse(four_in_six).map(|options| options.outer_len()), Ok(40));
    }

    #[test]
    fn usage_is_asked_for_or_deserved() {
        assert_eq!(parse("-h"), Err(Stop::Help));
        assert_eq!(parse(&format!("{WHOLE} -h")), Err(Stop::Help));
        assert_eq!(parse("--help"), Err(Stop::LongHelp));
        for (line, sentence) in [
            ("-x", "invalid option -- 'x'"),
            ("-i", "option requires an argument -- 'i'"),
            ("--vip 1", "unrecognized option '--vip'"),
            ("eth0", "'eth0' belongs to no option"),
        ] {
            assert_eq!(parse(line), Err(Stop::Option(sentence.into())), "{line}");
        }
    }

    #[test]
    fn keys_have_the_ports_only_of_protocols_with_ports() {
        let options = parse(&format!("{WHOLE} -p 80-82")).expect("valid options");
        let vip = options.vip;
        let keys: Vec<Vip> = options.keys().collect();
        assert_eq!(keys, [80, 81, 82].map(|port| Vip::new(vip, port, 6)));
        let options = parse(&format!("{WHOLE} -p 80-82 -P 1")).expect("valid options");
        assert_eq!(options.keys().collect::<Vec<_>>(), [Vip::new(vip, 0, 1)]);
    }
}
