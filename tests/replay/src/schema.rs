//! The files of a directory of suites: `fixtures/SUITE.json` and `provision/SUITE.json`.
//!
//! Owns: their form, and the turning of text into bytes and addresses. May not touch: what any of it means. Invariant: a
//! key that is not known here is no error, for the files say more than is needed; one that is missing is, unless there is
//! a value it stands for.

use std::{fmt, net::IpAddr};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny},
};

/// `fixtures/SUITE.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Suite {
    pub(crate) prog_type: ProgramType,
    /// What the peer was built with; `None`: the file does not say.
    #[serde(default, alias = "katran_build_flags")]
    pub(crate) build_flags: Option<String>,
    pub(crate) fixtures: Vec<Fixture>,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProgramType {
    Xdp,
    Tc,
}

/// One packet, and what the peer made of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Fixture {
    pub(crate) index: u32,
    #[serde(default)]
    pub(crate) description: String,
    #[serde(rename = "expectedReturnValue")]
    pub(crate) verdict: String,
    #[serde(default)]
    pub(crate) expected_rc: Option<i64>,
    pub(crate) class: Class,
    #[serde(default)]
    pub(crate) encap: Option<String>,
    #[serde(default)]
    pub(crate) specific_ranges: Vec<Range>,
    #[serde(rename = "input_hex")]
    pub(crate) input: Bytes,
    /// Nothing where it does not matter.
    #[serde(default, rename = "output_hex", deserialize_with = "or_nothing")]
    pub(crate) output: Bytes,
}

/// How a result is compared.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Class {
    /// Every balancer does the same.
    Agnostic,
    /// Same backend, another outer header.
    OuterHeaderOnly,
    /// Another backend of the same service.
    #[serde(alias = "katran_real_selection")]
    RealSelection,
}

/// Bytes of the output in which the peer made a choice of its own: offset, length (and what is there, for people).
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(from = "(usize, usize, IgnoredAny)")]
pub(crate) struct Range {
    at: usize,
    len: usize,
}

impl Range {
    pub(crate) fn contains(self, at: usize) -> bool {
        at >= self.at && at - self.at < self.len
    }
}

impl From<(usize, usize, IgnoredAny)> for Range {
    fn from((at, len, _): (usize, usize, IgnoredAny)) -> Self {
        Self { at, len }
    }
}

/// `provision/SUITE.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Provision {
    pub(crate) state: State,
    /// The way to that state. All that is asked of it is what the state may leave out.
    #[serde(default)]
    pub(crate) ops: Vec<Step>,
}

/// What the peer was told before the first packet.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct State {
    #[serde(default)]
    pub(crate) vips: Vec<Vip>,
    #[serde(default)]
    pub(crate) reals: Vec<FlaggedReal>,
    #[serde(default)]
    pub(crate) server_ids: Vec<ServerId>,
    #[serde(default)]
    pub(crate) src_routing: Vec<SourceRoute>,
    #[serde(default)]
    pub(crate) decap_dsts: Vec<DecapDestination>,
    /// The next hop of everything.
    pub(crate) default_mac: Mac,
    #[serde(default)]
    pub(crate) src_v4: Option<IpAddr>,
    #[serde(default)]
    pub(crate) src_v6: Option<IpAddr>,
    #[serde(default)]
    pub(crate) gue_dport: Option<u16>,
    /// The longest frame that is forwarded, before it is wrapped.
    pub(crate) max_packet_size: u16,
}

/// A service.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Vip {
    pub(crate) address: IpAddr,
    /// 0: all.
    pub(crate) port: u16,
    pub(crate) proto: u8,
    /// 0: one address.
    #[serde(default)]
    pub(crate) prefixlen: u8,
    #[serde(default)]
    pub(crate) flags: u32,
    #[serde(default)]
    pub(crate) reals: Vec<Real>,
    #[serde(default)]
    pub(crate) down_real_indexes: Vec<u32>,
}

/// A backend of a service.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Real {
    pub(crate) address: IpAddr,
    pub(crate) weight: u32,
    #[serde(default, rename = "real_index")]
    pub(crate) index: Option<u32>,
    #[serde(default)]
    pub(crate) flags: u32,
}

/// A backend, whatever service it is of.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct FlaggedReal {
    pub(crate) address: IpAddr,
    #[serde(default)]
    pub(crate) flags: u32,
}

/// The id of a backend in packets.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServerId {
    pub(crate) id: u32,
    pub(crate) real: IpAddr,
}

/// A prefix of clients with a backend of its own.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SourceRoute {
    pub(crate) src: Network,
    pub(crate) dst: IpAddr,
}

/// An address at which packets are unwrapped.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DecapDestination {
    pub(crate) address: IpAddr,
}

/// A step of the provisioning.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Step {
    pub(crate) op: String,
    #[serde(default)]
    pub(crate) real: Option<IpAddr>,
    #[serde(default)]
    pub(crate) flags: Option<u32>,
}

/// Bytes written as hex digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
        match digits {
            Some(digits) if digits.len() % 2 == 0 => {
                Ok(Self(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()))
            }
            _ => Err(D::Error::custom(format!("not an even number of hex digits: \"{text}\""))),
        }
    }
}

fn or_nothing<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    Option::<Bytes>::deserialize(from).map(Option::unwrap_or_default)
}

/// A MAC address, six pairs of hex digits between colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let octets: Option<Vec<u8>> = text.split(':').map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
        octets
            .and_then(|octets| octets.try_into().ok())
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("not a MAC address: \"{text}\"")))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.map(|octet| format!("{octet:02x}"));
        f.write_str(&pairs.join(":"))
    }
}

/// A prefix; no bit beyond its length is set, whatever was written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Network {
    pub(crate) address: IpAddr,
    pub(crate) len: u8,
}

impl Network {
    /// `None`: no address of this family has so many bits.
    pub(crate) fn new(address: IpAddr, len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
            _ => return None,
        };
        Some(Self { address, len })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let (address, len) = text.split_once('/').unwrap_or((&text, ""));
        let address: Option<IpAddr> = address.parse().ok();
        let len = match (address, len) {
            (Some(IpAddr::V4(_)), "") => Some(32),
            (Some(IpAddr::V6(_)), "") => Some(128),
            _ => len.parse().ok(),
        };
        address
            .zip(len)
            .and_then(|(address, len)| Self::new(address, len))
            .ok_or_else(|| D::Error::custom(format!("not an address or prefix: \"{text}\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixture_says_what_went_in_and_what_came_out() {
        let text = r#"{"suite": "s", "prog_type": "xdp", "katran_build_flags": "-DGUE_ENCAP", "fixtures": [
            {"index": 7, "description": "d", "expectedReturnValue": "XDP_TX", "expected_rc": 3,
             "class": "katran_real_selection", "class_reason": "r", "encap": "ipip4",
             "real_determined_by": "hash", "specific_ranges": [[26, 4, "outer_src"], [18, 2, "id"]],
             "input_hex": "00fF", "output_hex": "0a"},
            {"index": 8, "expectedReturnValue": "XDP_DROP", "class": "agnostic", "input_hex": "", "output_hex": null}]}"#;
        let suite: Suite = serde_json::from_str(text).expect("right");
        assert_eq!((suite.prog_type, suite.build_flags.as_deref()), (ProgramType::Xdp, Some("-DGUE_ENCAP")));
        let [first, second] = &suite.fixtures[..] else { panic!("two") };
        assert_eq!((first.index, first.class, first.expected_rc), (7, Class::RealSelection, Some(3)));
        assert_eq!((&first.input.0[..], &first.output.0[..]), (&[0, 0xff][..], &[10][..]));
        let covered: Vec<usize> =
            (0..40).filter(|at| first.specific_ranges.iter().any(|range| range.contains(*at))).collect();
        assert_eq!(covered, [18, 19, 26, 27, 28, 29]);
        assert_eq!((second.class, second.output.0.len(), &second.encap), (Class::Agnostic, 0, &None));
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        for text in [r#""0""#, r#""0g""#, "7"] {
            assert!(serde_json::from_str::<Bytes>(text).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Class>(r#""anything""#).is_err());
    }

    #[test]
    fn a_provision_may_leave_out_what_there_is_none_of() {
        let text = r#"{"suite": "s", "state": {"default_mac": "00:00:de:ad:be:af", "max_packet_size": 1514,
            "vips": [{"vip_num": 0, "address": "192.0.2.1", "port": 0, "proto": 6, "prefixlen": 0, "flags": 8,
                      "reals": [{"address": "10.0.0.1", "weight": 2, "real_index": 1}], "down_real_indexes": [1]}],
            "src_routing": [{"src": "198.51.100.7/24", "dst": "10.0.0.2"}]},
            "ops": [{"op": "set_real_flag", "real": "10.0.0.1", "flags": 2}, {"op": "add_vip", "vip": {}}]}"#;
        let Provision { state, ops } = serde_json::from_str(text).expect("right");
        assert_eq!(state.default_mac.to_string(), "00:00:de:ad:be:af");
        assert_eq!(state.src_routing[0].src.to_string(), "198.51.100.0/24");
        assert_eq!((state.vips[0].reals[0].index, ops[0].flags), (Some(1), Some(2)));
        assert!(state.server_ids.is_empty() && state.gue_dport.is_none());
    }

    #[test]
    fn networks_of_either_family_and_any_length() {
        let network = |text: &str| {
            serde_json::from_str::<Network>(&format!("\"{text}\"")).ok().map(|network| network.to_string())
        };
        for (text, same) in [
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.255/25", "192.0.2.128/25"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("2001:db8::1/0", "::/0"),
            ("2001:db8::1/127", "2001:db8::/127"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(network(text).as_deref(), Some(same));
        }
        assert_eq!((network("192.0.2.0/33"), network("x/8"), network("::/129")), (None, None, None));
    }
}
