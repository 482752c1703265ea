//! Addresses and prefixes: what may be written, and what it means.
//!
//! Owns: the reading of one address or prefix at a time. May not touch: other keys, other tables.
//! Invariant: as of `value`: whoever gets one from here need not check it again by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use toml::de::DeValue;

use crate::model::Source;
use crate::prefix::{Prefix, PrefixError, bits};
use crate::section::Wrong;
use crate::value::text;

/// The shortest prefixes that VIPs and outer sources may be, by family.
const SHORTEST: (u8, u8) = (8, 16);

/// An address of either family that one machine can have.
pub(crate) fn address(value: &DeValue<'_>) -> Result<IpAddr, Wrong> {
    not_link_local(next_hop(value)?)
}

/// The same, and it may belong to one link only.
pub(crate) fn next_hop(value: &DeValue<'_>) -> Result<IpAddr, Wrong> {
    let written = text(value)?;
    of_one_machine(written.parse().map_err(|_| not_an_address(written))?)
}

/// The addresses of a service: one, or a prefix of them.
pub(crate) fn vip(value: &DeValue<'_>) -> Result<Prefix, Wrong> {
    let written = text(value)?;
    if !written.contains('/') {
        return address(value).map(Prefix::single);
    }
    match Prefix::parse(written) {
        Ok(prefix) => of_machines(prefix),
        // What is too short is not to be written in another way.
        Err(PrefixError::HostBits(meant)) => {
            long_enough(meant).and_then(|prefix| Err(not_a_prefix(written, PrefixError::HostBits(prefix))))
        }
        Err(error) => Err(not_a_prefix(written, error)),
    }
}

/// The source of outer IPv4 headers: one address, or a prefix to spread over.
pub(crate) fn source_ipv4(value: &DeValue<'_>) -> Result<Source<Ipv4Addr>, Wrong> {
    let prefix = vip(value)?;
    match prefix.network {
        IpAddr::V4(v4) if prefix.is_single() => Ok(Source::Fixed(v4)),
        IpAddr::V4(network) => Ok(Source::Spread { network, prefix_len: prefix.len }),
        IpAddr::V6(_) => Err(Wrong::new(format!("must be an IPv4 address or prefix, not {prefix}"))),
    }
}

/// The source of outer IPv6 headers: one address, or a prefix to spread over.
pub(crate) fn source_ipv6(value: &DeValue<'_>) -> Result<Source<Ipv6Addr>, Wrong> {
    let prefix = vip(value)?;
    match prefix.network {
        IpAddr::V6(v6) if prefix.is_single() => Ok(Source::Fixed(v6)),
        IpAddr::V6(network) => Ok(Source::Spread { network, prefix_len: prefix.len }),
        IpAddr::V4(_) => Err(Wrong::new(format!("must be an IPv6 address or prefix, not {prefix}"))),
    }
}

/// Clients of a VIP of that family: any prefix there is, or one address.
pub(crate) fn clients(value: &DeValue<'_>, vip: Option<IpAddr>) -> Result<Prefix, Wrong> {
    let written = text(value)?;
    let prefix = Prefix::parse(written).map_err(|error| not_a_prefix(written, error))?;
    match vip {
        Some(vip) if vip.is_ipv4() != prefix.network.is_ipv4() => Err(not_of_family(prefix, vip)),
        _ => Ok(prefix),
    }
}

/// Clients of the other family never come to that VIP.
pub(crate) fn not_of_family(prefix: Prefix, vip: IpAddr) -> Wrong {
    let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
    Wrong::new(format!("must be {family} as the service's VIP is, not {prefix}")).help(format!(
        "clients come to an {family} VIP from {family} addresses; write those, or leave it out"
    ))
}

fn not_link_local(address: IpAddr) -> Result<IpAddr, Wrong> {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Err(Wrong::new(format!("cannot be the link-local address {v6}"))
                .help("give an address that means the same on every link"))
        }
        _ => Ok(address),
    }
}

fn of_one_machine(address: IpAddr) -> Result<IpAddr, Wrong> {
    match refused(address) {
        None => Ok(address),
        Some("mapped") => {
            let plain = address.to_canonical();
            Err(Wrong::new(format!("cannot be the IPv4-mapped address {address}"))
                .help(format!("write \"{plain}\"")))
        }
        Some(what) => Err(Wrong::new(format!("cannot be {address}, which is {what} address"))
            .help("give the address of one machine")),
    }
}

fn long_enough(prefix: Prefix) -> Result<Prefix, Wrong> {
    let shortest = if prefix.network.is_ipv4() { SHORTEST.0 } else { SHORTEST.1 };
    if prefix.len >= shortest {
        return Ok(prefix);
    }
    let longest = bits(prefix.network);
    Err(Wrong::new(format!("must have a length of {shortest} to {longest}, not {}", prefix.len))
        .help("give the longest prefix that covers what is meant"))
}

/// A prefix of addresses that machines can have, and not too many of them.
fn of_machines(prefix: Prefix) -> Result<Prefix, Wrong> {
    let prefix = long_enough(prefix)?;
    if prefix.is_single() {
        return of_one_machine(prefix.network).and_then(not_link_local).map(Prefix::single);
    }
    let wrong = |what: String| Err(Wrong::new(what).help("give a prefix of addresses that machines have"));
    match (refused(prefix.network), refused(prefix.last())) {
        (Some("mapped"), _) => Err(Wrong::new(format!("cannot be the IPv4-mapped prefix {prefix}"))
            .help("write the IPv4 prefix itself")),
        (Some(what), _) => wrong(format!("cannot be {prefix}, which begins with {what} address")),
        (_, Some(what)) => wrong(format!("cannot be {prefix}, which ends with {what} address")),
        _ if not_link_local(prefix.network).is_err() => {
            wrong(format!("cannot be {prefix}, which is of link-local addresses"))
        }
        _ => Ok(prefix),
    }
}

fn refused(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => refused_v4(v4),
        IpAddr::V6(v6) => refused_v6(v6),
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.octets()[0] == 0 {
        Some("an unspecified")
    } else if address.is_loopback() {
        Some("a loopback")
    } else if address.is_multicast() {
        Some("a multicast")
    } else {
        address.is_broadcast().then_some("the broadcast")
    }
}

fn refused_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("an unspecified")
    } else if address.is_loopback() {
        Some("a loopback")
    } else if address.is_multicast() {
        Some("a multicast")
    } else {
        address.to_ipv4_mapped().map(|_| "mapped")
    }
}

fn not_an_address(written: &str) -> Wrong {
    let wrong = Wrong::new(format!("is not an IP address: \"{}\"", written.escape_debug()));
    if written.contains('%') {
        return wrong.help("give an address without a zone, one that means the same on every link");
    }
    let bare = written.split('/').next().unwrap_or_default().trim_matches(['[', ']', ' ']);
    if bare.parse::<IpAddr>().is_ok() {
        return wrong.help(format!("write \"{bare}\": no brackets, prefix length or spaces"));
    }
    let hostname = written.contains(|c: char| c.is_ascii_alphabetic()) && !written.contains(':');
    if hostname {
        wrong.help("write the address itself; names are not looked up")
    } else {
        wrong.help("write an IPv4 address such as \"192.0.2.10\" or an IPv6 address such as \"2001:db8::10\"")
    }
}

/// Why `written` is not a prefix, and what is.
pub(crate) fn not_a_prefix(written: &str, error: PrefixError) -> Wrong {
    let shown = written.escape_debug();
    match error {
        PrefixError::HostBits(meant) => {
            Wrong::new(format!("has bits set beyond the first {}: \"{shown}\"", meant.len))
                .help(format!("write \"{}/{}\"", meant.network, meant.len))
        }
        PrefixError::Length(most) => Wrong::new(format!("has no length of 0 to {most}: \"{shown}\""))
            .help("write an address and how many of its leading bits count, such as \"198.51.100.0/24\""),
        PrefixError::Address => {
            let wrong = Wrong::new(format!("is not an IP address or prefix: \"{shown}\""));
            let bare: String = written.chars().filter(|c| !matches!(c, '[' | ']' | ' ')).collect();
            if Prefix::parse(&bare).is_ok() {
                wrong.help(format!("write \"{bare}\": no brackets or spaces"))
            } else {
                wrong.help("write it like \"198.51.100.0/24\" or \"2001:db8::/32\"; names are not looked up")
            }
        }
    }
}
