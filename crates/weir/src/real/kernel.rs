//! The classic way: the kernel's own tunnel devices unwrap.
//!
//! Owns: which devices, and getting their modules loaded. May not touch: addresses and sysctls of them (see `plan`).

use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::anyhow;
use weir_kernel::net::{Prefix, Rtnl};

use crate::advice::Advise as _;

/// A tunnel device that is there as soon as its module is.
pub(super) struct Tunnel {
    /// Its name.
    pub(super) device: &'static str,
    module: &'static str,
    what: &'static str,
}

const IPIP: Tunnel = Tunnel { device: "tunl0", module: "ipip", what: "IPv4 in IPv4" };
const IP6_TUNNEL: Tunnel = Tunnel { device: "ip6tnl0", module: "ip6_tunnel", what: "IPv6 in IPv6" };

/// The devices that these VIPs and directors need, present.
pub(super) fn tunnels(rtnl: &Rtnl, vips: &[IpAddr], from: &[Prefix]) -> anyhow::Result<Vec<Tunnel>> {
    let mut tunnels = Vec::new();
    for (v4, tunnel) in [(true, IPIP), (false, IP6_TUNNEL)] {
        let Some(vip) = vips.iter().find(|vip| vip.is_ipv4() == v4) else { continue };
        if !from.iter().any(|network| network.addr().is_ipv4() == v4) {
            return Err(anyhow!(
                "the kernel's {} cannot take {vip} from directors that send from {}",
                tunnel.device,
                if v4 { "IPv6 addresses" } else { "IPv4 addresses" }
            ))
            .advise("use --decap bpf, or give the directors addresses of the VIP's family");
        }
        ensure(rtnl, &tunnel)?;
        tunnels.push(tunnel);
    }
    Ok(tunnels)
}

fn ensure(rtnl: &Rtnl, tunnel: &Tunnel) -> anyhow::Result<()> {
    if rtnl.find_link(tunnel.device)?.is_some() {
        return Ok(());
    }
    // Best effort: whether it helped is seen below, and why not is said by `modprobe` itself.
    let loaded = Command::new("modprobe").arg(tunnel.module).stdin(Stdio::null()).output();
    if rtnl.find_link(tunnel.device)?.is_some() {
        return Ok(());
    }
    let why = match loaded {
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
        Err(error) => format!("modprobe: {error}"),
    };
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    Err(anyhow!("this kernel cannot unwrap {}: it has no {} device{why}", tunnel.what, tunnel.device)).advise(
        format!(
            "use --decap bpf, which needs no module; or install the module {} for kernel {}",
            tunnel.module,
            std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim()
        ),
    )
}
