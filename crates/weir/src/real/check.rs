//! Whether what `up` achieved is still so.
//!
//! Owns: one sentence for each deviation. May not touch: anything; it only reads.

use weir_abi::agent::Reason;
use weir_kernel::net::Sysctl;

use super::attach::{holds, xdp_mode};
use super::host::Host;
use super::journal::{Journal, Setup};
use super::step::{Hook, Step};
use super::tables::Tables;

/// What deviates, one sentence each.
pub(super) fn deviations(
    host: &Host,
    journal: &Journal,
    setup: &Setup,
    tables: Option<&Tables>,
) -> anyhow::Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for step in journal.steps() {
        found.extend(deviation(step, host, setup)?);
    }
    for vip in &setup.vips {
        let held = host.addresses.iter().any(|address| address.ip == *vip);
        let ours = journal
            .steps()
            .iter()
            .any(|step| matches!(step, Step::Address { address, .. } if address == vip));
        if !held && !ours {
            found.push(format!("The VIP {vip} is on no interface any more."));
        }
    }
    let arrivals = setup.unwrapping.iter().map(|unwrapping| unwrapping.interface.as_str());
    let links: Vec<_> =
        arrivals.filter_map(|name| host.links.iter().find(|link| link.name == name)).collect();
    for link in links.iter().filter(|link| !link.up) {
        found.push(format!("{} is down.", link.name));
    }
    let mtu = links.iter().map(|link| link.mtu).min().filter(|_| !setup.clamping.is_empty());
    if let Some(mtu) = mtu.filter(|mtu| *mtu != setup.mtu) {
        found.push(format!(
            "The MTU is {mtu} now and was {}: run `weir real up` again, so that announced segment sizes fit.",
            setup.mtu
        ));
    }
    let own = host.own_addresses(&setup.vips, journal);
    for gone in setup.own.iter().filter(|ip| !own.contains(ip)) {
        found.push(format!("{gone} is no address of this machine any more: run `weir real up` again."));
    }
    // New addresses come and go (IPv6 privacy extensions); they matter once a director sends to one.
    let unknown = |tables: &Tables| -> anyhow::Result<bool> {
        let counts = tables.arriving()?;
        Ok(counts.iter().any(|(reason, count)| *reason == Reason::NotOwnAddress && count.packets != 0))
    };
    if let Some(new) = own.iter().find(|ip| !setup.own.contains(ip))
        && tables.map_or(Ok(false), unknown)?
    {
        found.push(format!(
            "Directors send to addresses that were none of this machine's, and {new} is new: run `weir real up` again."
        ));
    }
    if let Some(tables) = tables
        && tables.segment_sizes()? != (setup.mss_v4, setup.mss_v6)
    {
        found.push("The programs announce other segment sizes than they were told to.".to_owned());
    }
    if let Some(tables) = tables
        && tables.gue_port()? != setup.gue_port
    {
        found.push("The programs unwrap GUE on another port than they were told to.".to_owned());
    }
    Ok(found)
}

fn deviation(step: &Step, host: &Host, setup: &Setup) -> anyhow::Result<Option<String>> {
    Ok(match step {
        Step::Sysctl { key, value, .. } => match Sysctl::parse(key)?.read() {
            Ok(current) if current == *value => None,
            Ok(current) => Some(format!("{key} is {current} and should be {value}.")),
            Err(error) => Some(format!("{key} cannot be read: {error}.")),
        },
        Step::Device { name } => host
            .links
            .iter()
            .all(|link| link.name != *name)
            .then(|| format!("The interface {name} has gone.")),
        Step::Up { device } => {
            let up = host.links.iter().any(|link| link.name == *device && link.up);
            (!up).then(|| format!("{device} is not up."))
        }
        Step::Address { device, address } => {
            let held =
                host.addresses.iter().any(|found| found.ip == *address && host.device_of(found) == device);
            (!held).then(|| format!("The VIP {address} is not on {device} any more."))
        }
        Step::Program { interface, ifindex, hook, .. } => {
            let what = match hook {
                Hook::Xdp | Hook::Ingress => format!("{interface}: packets are not unwrapped any more"),
                Hook::Egress => format!("{interface}: announced segment sizes are not lowered any more"),
            };
            if setup.tc_filters && *hook != Hook::Xdp {
                // There is no link to ask.
                return Ok(None);
            }
            if !holds(step) {
                return Ok(Some(format!(
                    "{what}: the program has been detached, or the interface has gone."
                )));
            }
            let mode = setup.unwrapping.iter().find(|unwrapping| unwrapping.interface == *interface);
            match (hook, xdp_mode(*ifindex), mode) {
                (Hook::Xdp, Some(now), Some(then)) if now.to_string() != then.mode => {
                    Some(format!("{interface}: XDP is {now} now and was {}.", then.mode))
                }
                (Hook::Xdp, None, _) => Some(format!("{what}: no XDP program is attached.")),
                _ => None,
            }
        }
    })
}
