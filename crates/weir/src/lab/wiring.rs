//! Making a lab's network: namespaces, wires, addresses, routes.
//!
//! Owns: the kernel side of a [`Layout`]. May not touch: processes, files.
//! Invariant: everything is inside namespaces of the lab; the caller's own network is never changed.
//!
//! What a wire of veth pairs needs, and an ordinary one does not:
//! - Checksums are finished by the sender (`tx off`): on a veth they are otherwise left unfinished, and a packet that
//!   is wrapped on its way arrives with a wrong one. No segment is larger than the MTU (`tso off`): in generic mode
//!   such packets would reach the program.
//! - What an XDP program sends back out of a veth only arrives if the other end has a program too; see
//!   [`weir_kernel::bpf::attach_pass`].
//! - IPv6 addresses are ready at once (no duplicate address detection).
//! - Replies come straight from the real servers, so no host may expect them the way the requests went (`rp_filter`).

use anyhow::{Context as _, anyhow};
use weir_kernel::bpf::{StateDir, attach_pass};
use weir_kernel::net::{Ethtool, Netns, NewAddress, NewRoute, Offload, Prefix, Rtnl, Sysctl, VethEnd};

use super::layout::{Host, Layout, Wire};
use super::state::{HOSTS, Name};

/// Sysctls of every host, before it has a link.
const SYSCTLS: [(&[&str], &str); 12] = [
    (&["ipv4", "conf", "all", "rp_filter"], "0"),
    (&["ipv4", "conf", "default", "rp_filter"], "0"),
    (&["ipv4", "conf", "lo", "rp_filter"], "0"),
    (&["ipv4", "conf", "all", "send_redirects"], "0"),
    (&["ipv4", "conf", "default", "send_redirects"], "0"),
    (&["ipv4", "conf", "all", "accept_redirects"], "0"),
    (&["ipv6", "conf", "all", "accept_dad"], "0"),
    (&["ipv6", "conf", "default", "accept_dad"], "0"),
    (&["ipv6", "conf", "default", "dad_transmits"], "0"),
    (&["ipv6", "conf", "default", "accept_ra"], "0"),
    (&["ipv6", "conf", "all", "accept_redirects"], "0"),
    (&["ipv6", "conf", "default", "accept_redirects"], "0"),
];

/// Makes the whole network; `mtu` is that of all links, bytes.
pub(super) fn make(lab: &Name, layout: &Layout, mtu: u16) -> anyhow::Result<()> {
    for host in &layout.hosts {
        make_host(lab, host).with_context(|| format!("cannot make the host {}", host.name))?;
    }
    for wire in &layout.wires {
        make_wire(lab, wire, mtu).with_context(|| {
            let [(one, _), (other, _)] = wire.ends;
            format!("cannot make the wire between {one} and {other}")
        })?;
    }
    for host in &layout.hosts {
        configure(lab, host).with_context(|| format!("cannot configure the host {}", host.name))?;
    }
    match layout.director_peer() {
        Some((host, link)) => pass(lab, host, link)
            .with_context(|| format!("cannot attach a program to {link} in {host}, the director's peer")),
        None => Ok(()),
    }
}

/// Attaches the program that passes every packet; it stays until its pin goes with the lab's directory.
fn pass(lab: &Name, host: &str, link: &str) -> anyhow::Result<()> {
    let state = StateDir::open(&lab.host_dir(host))?;
    let pin = state.bpf().join("pass");
    Netns::open(&lab.namespace(host))?.run_in(|| -> anyhow::Result<()> {
        let link = Rtnl::open()?.link_by_name(link)?;
        attach_pass(link.index, Some(&pin))?;
        Ok(())
    })?
}

/// Whether all namespaces of a layout exist.
pub(super) fn exists(lab: &Name, layout: &Layout) -> anyhow::Result<bool> {
    let existing = Netns::list()?;
    Ok(layout.hosts.iter().all(|host| existing.contains(&lab.namespace(host.name))))
}

/// Deletes the namespaces, and with them everything inside; returns how many there were.
pub(super) fn remove(lab: &Name) -> anyhow::Result<usize> {
    let existing = Netns::list()?;
    let mut count = 0;
    for name in HOSTS.map(|host| lab.namespace(host)).iter().filter(|name| existing.contains(name)) {
        Netns::delete(name)?;
        count += 1;
    }
    Ok(count)
}

fn make_host(lab: &Name, host: &Host) -> anyhow::Result<()> {
    let netns = Netns::create(&lab.namespace(host.name))?;
    netns.run_in(|| -> anyhow::Result<()> {
        for (path, value) in SYSCTLS {
            Sysctl::new(path)?.set(value)?;
        }
        let forwarding = if host.forwards { "1" } else { "0" };
        Sysctl::new(&["ipv4", "ip_forward"])?.set(forwarding)?;
        Sysctl::ipv6_conf("all", "forwarding")?.set(forwarding)?;
        // Real servers open port 80 as root; a client makes thousands of connections a second.
        Sysctl::new(&["ipv4", "ip_local_port_range"])?.set("1024\t65535")?;
        let rtnl = Rtnl::open()?;
        rtnl.set_up(rtnl.link_by_name("lo")?.index)?;
        if let Some(bridge) = host.bridge {
            rtnl.set_up(rtnl.create_bridge(bridge)?.index)?;
        }
        Ok(())
    })?
}

fn make_wire(lab: &Name, wire: &Wire, mtu: u16) -> anyhow::Result<()> {
    use std::os::fd::AsFd as _;

    let [(host, link), (other_host, other_link)] = wire.ends;
    let netns = Netns::open(&lab.namespace(host))?;
    let other = Netns::open(&lab.namespace(other_host))?;
    let end = |link| VethEnd::new(link).mtu(u32::from(mtu));
    Rtnl::open_in(&netns)?.create_veth(end(link), end(other_link).in_netns(other.as_fd()))?;
    for (netns, link) in [(&netns, link), (&other, other_link)] {
        let ethtool = Ethtool::open_in(netns)?;
        for offload in [Offload::Tso, Offload::TxChecksum] {
            ethtool.set_offload(link, offload, false)?;
        }
    }
    Ok(())
}

fn configure(lab: &Name, host: &Host) -> anyhow::Result<()> {
    let rtnl = Rtnl::open_in(&Netns::open(&lab.namespace(host.name))?)?;
    let bridge = host.bridge.map(|name| rtnl.link_by_name(name)).transpose()?;
    for link in rtnl.links()? {
        if link.kind.as_deref() == Some("veth") {
            if let Some(bridge) = &bridge {
                rtnl.set_master(link.index, Some(bridge.index))?;
            }
            rtnl.set_up(link.index)?;
        }
    }
    for (link, address, length) in &host.addresses {
        let index = rtnl.link_by_name(link)?.index;
        rtnl.add_address(&NewAddress::new(index, *address, *length).nodad())?;
    }
    for (destination, length, gateway) in &host.routes {
        let prefix = Prefix::new(*destination, *length).ok_or_else(|| anyhow!("/{length} is too long"))?;
        rtnl.add_route(&NewRoute::new(prefix).via(*gateway))?;
    }
    Ok(())
}
