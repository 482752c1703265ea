//! Which changes a real server needs.
//!
//! Owns: the choice of sysctls, the interface and the addresses of VIPs, the segment sizes. May not touch: the machine;
//! it only reads. Invariant: what is right already is not changed, unless it is right because weir changed it.

use std::net::IpAddr;

use nix::errno::Errno;
use weir_kernel::net::{Link, Prefix, Sysctl};

use super::host::Host;
use super::journal::Journal;
use super::step::Step;

/// Length of an IPv4 header without options, bytes.
const IPV4: u32 = 20;
/// Length of an IPv6 header, bytes.
const IPV6: u32 = 40;
/// Length of a TCP header without options, bytes.
const TCP: u32 = 20;
/// Length of a UDP header, bytes.
const UDP: u32 = 8;

/// What is wanted of a machine.
pub(super) struct Wanted<'a> {
    /// The VIPs, each once.
    pub(super) vips: &'a [IpAddr],
    /// The interface of IPv4 and that of IPv6 VIPs.
    pub(super) vip_devices: (&'a str, &'a str),
    /// The interfaces on which what was unwrapped arrives.
    pub(super) arrivals: &'a [&'a Link],
    /// The kernel's tunnel devices that are to be up.
    pub(super) tunnels: &'a [&'a Link],
}

impl Wanted<'_> {
    fn has_v4(&self) -> bool {
        self.vips.iter().any(IpAddr::is_ipv4)
    }

    /// The interface that holds a VIP.
    pub(super) fn device_of(&self, vip: IpAddr) -> &str {
        if vip.is_ipv4() { self.vip_devices.0 } else { self.vip_devices.1 }
    }
}

/// The changes that make the machine a real server, in the order they are to be made: nobody answers ARP for a VIP at
/// any moment. Changes that were made before and are still wanted are among them.
pub(super) fn steps(wanted: &Wanted<'_>, host: &Host, journal: &Journal) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    if wanted.has_v4() {
        hide_from_arp(host, journal, &mut steps)?;
        for link in wanted.arrivals {
            steps.extend(loosen_path_filter(link, host, journal)?);
        }
    }
    for tunnel in wanted.tunnels {
        bring_up(&tunnel.name, host, journal, &mut steps);
    }
    for &vip in wanted.vips {
        hold(vip, wanted.device_of(vip), host, journal, &mut steps);
    }
    Ok(steps)
}

/// `arp_ignore`: answer only for addresses of the interface the question came in on. `arp_announce`: never name a VIP as
/// the sender. The kernel takes the greater of `all` and the interface's own value, so `all` is enough and covers
/// interfaces that come later, but for `arp_ignore` 3, which is greater and does not do. IPv6 needs nothing: the kernel
/// answers neighbour solicitations only for addresses of the interface itself.
fn hide_from_arp(host: &Host, journal: &Journal, steps: &mut Vec<Step>) -> anyhow::Result<()> {
    steps.extend(raise(
        "all",
        "arp_ignore",
        journal,
        |value| matches!(value, 1 | 2 | 8).then_some(value),
        1,
    )?);
    for link in host.links.iter().filter(|link| !link.loopback) {
        steps.extend(raise(&link.name, "arp_ignore", journal, |value| (value != 3).then_some(value), 1)?);
    }
    steps.extend(raise("all", "arp_announce", journal, |value| (value >= 2).then_some(value), 2)?);
    Ok(())
}

/// A strict reverse path filter drops an unwrapped packet whose client is not reached by the interface it came in on.
/// Loose is enough (an answer needs some route), and the interface's own 2 beats a 1 of `all`.
fn loosen_path_filter(link: &Link, host: &Host, journal: &Journal) -> anyhow::Result<Option<Step>> {
    let all = value_before("all", "rp_filter", journal)?.map_or(0, |(_, value)| value);
    if !host.answers_elsewhere(link) {
        return Ok(None);
    }
    raise(&link.name, "rp_filter", journal, |value| (value.max(all) != 1).then_some(value), 2)
}

/// The change of an IPv4 sysctl to `value`, unless `fine` says that it is fine as it was, or there is nothing to change.
fn raise(
    interface: &str,
    name: &str,
    journal: &Journal,
    fine: impl Fn(i64) -> Option<i64>,
    value: i64,
) -> anyhow::Result<Option<Step>> {
    let Some((key, before)) = value_before(interface, name, journal)? else {
        return Ok(None);
    };
    Ok(match fine(before) {
        Some(_) => None,
        None => Some(Step::Sysctl { key, previous: before.to_string(), value: value.to_string() }),
    })
}

/// A sysctl's key, and its value without weir's change; `None` for an interface that has no IPv4 (CAN, for example) or is
/// gone by now.
fn value_before(interface: &str, name: &str, journal: &Journal) -> anyhow::Result<Option<(String, i64)>> {
    let sysctl = Sysctl::ipv4_conf(interface, name)?;
    let current = match sysctl.read() {
        Ok(current) => current,
        Err(error) if interface != "all" && error.errno() == Some(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let key = sysctl.to_string();
    let before = journal.previous(&key, &current).unwrap_or(&current);
    Ok(Some((key, before.parse().unwrap_or(0))))
}

/// The interface, up, with the address.
fn hold(vip: IpAddr, device: &str, host: &Host, journal: &Journal, steps: &mut Vec<Step>) {
    let link = host.links.iter().find(|link| link.name == device);
    want(Step::Device { name: device.to_owned() }, link.is_some(), journal, steps);
    bring_up(device, host, journal, steps);
    let index = link.map_or(0, |link| link.index);
    let held = host.addresses.iter().any(|address| address.ip == vip && address.ifindex == index);
    want(Step::Address { device: device.to_owned(), address: vip }, held, journal, steps);
}

fn bring_up(device: &str, host: &Host, journal: &Journal, steps: &mut Vec<Step>) {
    let up = host.links.iter().any(|link| link.name == device && link.up);
    want(Step::Up { device: device.to_owned() }, up, journal, steps);
}

/// Adds a step, once, unless it is so already and not by weir's doing.
fn want(step: Step, already: bool, journal: &Journal, steps: &mut Vec<Step>) {
    if (!already || journal.has(&step)) && !steps.contains(&step) {
        steps.push(step);
    }
}

/// The largest TCP segments that still fit when a director has wrapped them, bytes: for IPv4 and IPv6 VIPs.
///
/// `mtu` is the path's; the outer header is an IPv6 one as soon as any director sends from an IPv6 address. A UDP header
/// follows it with `gue` (variant 1, which has no header of its own).
pub(super) fn segment_sizes(mtu: u32, from: &[Prefix], gue: bool) -> (u16, u16) {
    let ip = if from.iter().all(|network| network.addr().is_ipv4()) { IPV4 } else { IPV6 };
    let outer = ip + if gue { UDP } else { 0 };
    let fits = |inner: u32| u16::try_from(mtu.saturating_sub(outer + inner + TCP)).unwrap_or(u16::MAX).max(1);
    (fits(IPV4), fits(IPV6))
}

#[cfg(test)]
mod tests {
    use super::super::journal::Journal;
    use super::{segment_sizes, value_before};

    #[test]
    fn there_is_nothing_to_change_on_an_interface_without_ipv4() {
        let dir = std::env::temp_dir().join(format!("weir-plan-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let journal = Journal::open(&dir).unwrap();
        let value = |interface, name| value_before(interface, name, &journal);
        let found =
            [value("nowhere", "arp_ignore"), value("lo", "arp_ignore"), value("all", "no_such_sysctl")];
        std::fs::remove_dir_all(&dir).unwrap();
        let [absent, present, wrong] = found;
        assert_eq!(absent.unwrap(), None);
        assert!(present.unwrap().is_some());
        assert!(wrong.is_err(), "without IPv4 at all there is something amiss");
    }

    #[test]
    fn segments_leave_room_for_the_outer_header() {
        let v4 = ["10.0.0.1".parse().unwrap()];
        let both = ["10.0.0.1".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
        assert_eq!(segment_sizes(1500, &v4, false), (1440, 1420));
        assert_eq!(segment_sizes(1500, &both, false), (1420, 1400));
        assert_eq!(segment_sizes(1500, &v4, true), (1432, 1412));
        assert_eq!(segment_sizes(1500, &both, true), (1412, 1392));
        assert_eq!(segment_sizes(65536, &v4, false), (65476, 65456));
        assert_eq!(segment_sizes(60, &both, false), (1, 1));
    }
}
