//! What `weir real up` is asked for.
//!
//! Owns: the arguments, each thing once; which of them go together, and with this machine. May not touch: the machine; it
//! only reads.

use std::net::IpAddr;

use anyhow::anyhow;
use weir_kernel::net::{Prefix, Sysctl};

use super::host::Host;
use super::{Decap, ModeRequest, UpArgs};
use crate::advice::Advise as _;

/// The arguments, each thing once.
pub(super) struct Request {
    pub(super) vips: Vec<IpAddr>,
    pub(super) from: Vec<Prefix>,
    pub(super) interfaces: Vec<String>,
    /// 0 = none.
    pub(super) gue_port: u16,
    pub(super) mode: ModeRequest,
    pub(super) decap: Decap,
    vip_device: Option<String>,
}

impl Request {
    /// The request, unless options are missing or do not go together.
    pub(super) fn new(args: &UpArgs) -> anyhow::Result<Self> {
        check_options(args)?;
        let mut vips = Vec::new();
        for vip in &args.vip {
            if !vips.contains(vip) {
                vips.push(*vip);
            }
        }
        let mut from = args.from.clone();
        from.sort();
        from.dedup();
        Ok(Self {
            vips,
            from,
            interfaces: args.interface.clone(),
            gue_port: args.gue_port.unwrap_or(0),
            mode: args.xdp_mode.unwrap_or_default(),
            decap: args.decap,
            vip_device: args.vip_device.clone(),
        })
    }

    /// The interfaces that hold IPv4 and IPv6 VIPs.
    pub(super) fn vip_devices(&self) -> (&str, &str) {
        match (&self.vip_device, self.decap) {
            (Some(name), _) => (name, name),
            (None, Decap::Bpf | Decap::None) => ("lo", "lo"),
            (None, Decap::Kernel) => ("tunl0", "ip6tnl0"),
        }
    }

    /// Refuses what this machine cannot do.
    pub(super) fn validate(&self, host: &Host) -> anyhow::Result<()> {
        for vip in &self.vips {
            host.check_vip(*vip)?;
        }
        if let Some(name) = &self.vip_device {
            host.check_vip_device(name)?;
        }
        host.arrivals(&self.interfaces, &self.from)?;
        if let Some(vip) = self.vips.iter().find(|vip| vip.is_ipv6()) {
            let disabled = |link: &str| Sysctl::ipv6_conf(link, "disable_ipv6").and_then(|key| key.read());
            let (_, device) = self.vip_devices();
            if disabled(device).is_ok_and(|value| value == "1") {
                return Err(anyhow!("{device} cannot hold {vip}: IPv6 is switched off there"))
                    .advise(format!("`sysctl net.ipv6.conf.{device}.disable_ipv6=0` switches it on"));
            }
        }
        Ok(())
    }
}

/// Refuses options that would have no effect, and asks for those that are needed.
fn check_options(args: &UpArgs) -> anyhow::Result<()> {
    let word = match args.decap {
        Decap::Bpf => "bpf",
        Decap::Kernel => "kernel",
        Decap::None => "none",
    };
    let is_none = args.decap == Decap::None;
    let unwraps = args.decap == Decap::Bpf;
    let meaningless = [
        ("--from", is_none && !args.from.is_empty()),
        ("--gue-port", !unwraps && args.gue_port.is_some()),
        ("--xdp-mode", !unwraps && args.xdp_mode.is_some()),
    ];
    if let Some((option, _)) = meaningless.iter().find(|(_, given)| *given) {
        return Err(anyhow!("{option} has no effect with --decap {word}"))
            .advise("leave it out, or use --decap bpf");
    }
    if is_none && args.interface.is_empty() {
        return Err(anyhow!("--decap none needs --interface"))
            .advise("name the interface that the director's packets arrive on");
    }
    if !is_none && args.from.is_empty() {
        return Err(anyhow!("--decap {word} needs --from")).advise(
            "give the addresses or networks that directors send from; only their packets are unwrapped",
        );
    }
    Ok(())
}
