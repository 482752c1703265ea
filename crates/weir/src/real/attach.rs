//! Attaching the agent's programs.
//!
//! Owns: which hook unwraps on an interface, pins of links. May not touch: tables, other changes. Invariant: an
//! attachment is in the journal before it is made; an interface has one unwrapping program.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use weir_abi::agent;
use weir_kernel::bpf::{
    Error, Link as Attachment, Loaded, TcDirection, TcMethod, XdpMode, XdpRequest, query, test_run,
};
use weir_kernel::net::{Link, Prefix, Rtnl};

use super::ModeRequest;
use super::journal::{Journal, Setup, Unwrapping};
use super::step::{Hook, Step};
use crate::advice::Advise as _;

/// What a tc program returns to drop a packet.
const TC_ACT_SHOT: u32 = 2;

/// The attachment of a hook's program to an interface; pins are named by index, since names may have dots.
pub(super) fn step(bpf: &Path, link: &Link, hook: Hook) -> Step {
    let name = if hook == Hook::Egress { "clamp" } else { "unwrap" };
    let kind = if hook == Hook::Xdp { "xdp" } else { "tc" };
    let pin = bpf.join(format!("{name}-{kind}-{}", link.index));
    Step::Program { interface: link.name.clone(), ifindex: link.index, hook, pin }
}

/// Whether a pinned attachment still holds.
pub(super) fn holds(step: &Step) -> bool {
    match step {
        Step::Program { ifindex, pin, .. } => {
            let info = Attachment::open(pin).and_then(|link| link.info());
            info.is_ok_and(|info| info.ifindex == *ifindex)
        }
        _ => false,
    }
}

/// Attaches the unwrapping program to `link` as asked for, in place of the one of an earlier `up`, which is put back
/// should that fail. With `fresh` nothing of the earlier one can be kept.
pub(super) fn unwrapping(
    journal: &mut Journal,
    rtnl: &Rtnl,
    loaded: &mut Loaded,
    bpf: &Path,
    link: &Link,
    request: ModeRequest,
    fresh: bool,
) -> anyhow::Result<Unwrapping> {
    let xdp = step(bpf, link, Hook::Xdp);
    let tc = step(bpf, link, Hook::Ingress);
    if !fresh && let Some(kept) = keep(journal.setup(), link, request, &xdp, &tc, journal) {
        return Ok(kept);
    }
    let former = journal.setup().and_then(|setup| {
        let before = setup.unwrapping.iter().find(|before| before.interface == link.name)?;
        mode_request(&before.mode).filter(|_| journal.has(&xdp) || journal.has(&tc))
    });
    // One program at a time: two kinds of XDP exclude each other, and what the first unwraps the second would not see.
    journal.undo(rtnl, |step| step.same_thing(&xdp) || step.same_thing(&tc))?;
    let failed = match attach(journal, rtnl, loaded, link, request, &xdp, &tc) {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    journal.undo(rtnl, |step| step.same_thing(&xdp) || step.same_thing(&tc))?;
    if let Some(former) = former {
        attach(journal, rtnl, loaded, link, former, &xdp, &tc).with_context(|| {
            format!("{}, and what was attached before cannot be put back", first_line(&failed.to_string()))
        })?;
    }
    Err(failed)
}

/// The request that gives a mode which was had before.
fn mode_request(mode: &str) -> Option<ModeRequest> {
    match mode {
        "native" => Some(ModeRequest::Native),
        "generic" => Some(ModeRequest::Generic),
        "tc" => Some(ModeRequest::Tc),
        _ => None,
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A hook and a program for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Native,
    /// Native, by the program for packets that may lie in several buffers: some drivers take no other with a large MTU.
    NativeFrags,
    Generic,
    Tc,
}

impl Way {
    /// What a request allows, the best one first.
    const fn allowed(request: ModeRequest) -> &'static [Self] {
        match request {
            ModeRequest::Auto => &[Self::Native, Self::NativeFrags, Self::Generic, Self::Tc],
            ModeRequest::Native => &[Self::Native, Self::NativeFrags],
            ModeRequest::Generic => &[Self::Generic],
            ModeRequest::Tc => &[Self::Tc],
        }
    }

    const fn mode(self) -> &'static str {
        match self {
            Self::Native | Self::NativeFrags => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
        }
    }

    fn attach(self, loaded: &mut Loaded, ifindex: u32, xdp: &Step, tc: &Step) -> Result<(), Error> {
        let (name, request) = match self {
            Self::Native => (agent::UNWRAP_XDP, XdpRequest::Native),
            Self::NativeFrags => (agent::UNWRAP_FRAGS, XdpRequest::Native),
            Self::Generic => (agent::UNWRAP_XDP, XdpRequest::Generic),
            Self::Tc => {
                // A pinned link stays when this handle of it goes; a filter stays anyway.
                let (direction, pin) = (TcDirection::Ingress, pin_of(tc));
                return loaded.attach_tc(agent::UNWRAP_TC, ifindex, direction, TcMethod::Auto, pin).map(drop);
            }
        };
        loaded.program(name)?.attach_xdp(ifindex, request, pin_of(xdp)).map(drop)
    }
}

fn attach(
    journal: &mut Journal,
    rtnl: &Rtnl,
    loaded: &mut Loaded,
    link: &Link,
    request: ModeRequest,
    xdp: &Step,
    tc: &Step,
) -> anyhow::Result<Unwrapping> {
    let mut refused = None;
    for &way in Way::allowed(request) {
        let (step, other) = if way == Way::Tc { (tc, xdp) } else { (xdp, tc) };
        if journal.has(other) {
            journal.undo(rtnl, |done| done.same_thing(other))?;
        }
        if !journal.has(step) {
            journal.note(step.clone())?;
        }
        match way.attach(loaded, link.index, xdp, tc) {
            Ok(()) => {
                let is_native = way.mode() == "native";
                return Ok(Unwrapping {
                    interface: link.name.clone(),
                    mode: way.mode().to_owned(),
                    frags: way == Way::NativeFrags,
                    fell_back: refused.as_ref().filter(|_| !is_native).map(why),
                });
            }
            // Kernels before 5.18 do not know such programs; what they say of it is of no interest.
            Err(_) if way == Way::NativeFrags => {}
            Err(error @ Error::Attach { .. }) => refused = refused.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    // There is a first way, and only a refusal leads past it.
    Err(refused.map_or_else(|| anyhow!("cannot unwrap on {}", link.name), Into::into))
}

/// The cause of a refusal, without what was refused and what to do about it.
fn why(refusal: &Error) -> String {
    match refusal {
        Error::Attach { why, .. } => why.clone(),
        other => first_line(&other.to_string()).to_owned(),
    }
}

/// What unwraps already, if it is what is asked for.
fn keep(
    setup: Option<&Setup>,
    link: &Link,
    request: ModeRequest,
    xdp: &Step,
    tc: &Step,
    journal: &Journal,
) -> Option<Unwrapping> {
    let before = setup?.unwrapping.iter().find(|before| before.interface == link.name)?;
    let step = if before.mode == "tc" { tc } else { xdp };
    let suits = match request {
        ModeRequest::Auto => true,
        ModeRequest::Native => before.mode == "native",
        ModeRequest::Generic => before.mode == "generic",
        ModeRequest::Tc => before.mode == "tc",
    };
    (suits && journal.has(step) && holds(step)).then(|| before.clone())
}

/// Attaches the program that lowers announced segment sizes.
pub(super) fn clamping(
    journal: &mut Journal,
    loaded: &mut Loaded,
    bpf: &Path,
    link: &Link,
    fresh: bool,
) -> anyhow::Result<()> {
    let step = step(bpf, link, Hook::Egress);
    if !fresh && journal.has(&step) && holds(&step) {
        return Ok(());
    }
    if !journal.has(&step) {
        journal.note(step.clone())?;
    }
    loaded
        .attach_tc(agent::CLAMP_MSS, link.index, TcDirection::Egress, TcMethod::Auto, pin_of(&step))
        .with_context(|| format!("cannot lower the announced segment sizes on {}", link.name))?;
    Ok(())
}

fn pin_of(step: &Step) -> Option<&Path> {
    match step {
        Step::Program { pin, .. } => Some(pin),
        _ => None,
    }
}

/// The mode of the XDP program that is on an interface, whoever attached it.
pub(super) fn xdp_mode(ifindex: u32) -> Option<XdpMode> {
    query(ifindex).ok().flatten().and_then(|attachment| attachment.mode)
}

/// Fails where this kernel's tc cannot turn a packet of one family into one of the other, which directors of another
/// family than a VIP's need. Shown by a packet of the tables' own addresses.
pub(super) fn check_family_change(
    loaded: &mut Loaded,
    vips: &[IpAddr],
    own: &[IpAddr],
    from: &[Prefix],
) -> anyhow::Result<()> {
    for (v4_outside, what) in [(false, "IPv4 in IPv6"), (true, "IPv6 in IPv4")] {
        let outside = |ip: &&IpAddr| ip.is_ipv4() == v4_outside;
        let director = from.iter().map(Prefix::addr).find(|ip| ip.is_ipv4() == v4_outside);
        let (Some(director), Some(own)) = (director, own.iter().find(outside)) else { continue };
        let Some(vip) = vips.iter().find(|ip| ip.is_ipv4() != v4_outside) else { continue };
        let packet = wrapped(director, *own, *vip);
        let run = test_run(loaded.program(agent::UNWRAP_TC)?, &packet, None, 1)?;
        if run.retval == TC_ACT_SHOT {
            return Err(anyhow!("this kernel's tc cannot unwrap {what} (it needs Linux 6.3)"))
                .advise("use --xdp-mode generic, or give directors addresses of the VIPs' family");
        }
    }
    Ok(())
}

/// An empty packet to a VIP, wrapped in a header of the other family.
fn wrapped(director: IpAddr, own: IpAddr, vip: IpAddr) -> Vec<u8> {
    const NO_NEXT_HEADER: u8 = 59;
    let header =
        |source: IpAddr, destination: IpAddr, protocol: u8, payload: usize| match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
                bytes[2..4].copy_from_slice(&(20 + payload as u16).to_be_bytes());
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes
            }
            (source, destination) => {
                let six = |ip: IpAddr| match ip {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                let mut bytes = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
                bytes[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
                bytes.extend(six(source));
                bytes.extend(six(destination));
                bytes
            }
        };
    let inner = header(vip, vip, NO_NEXT_HEADER, 0);
    let outer = header(director, own, if vip.is_ipv4() { 4 } else { 41 }, inner.len());
    let ether_type: [u8; 2] = if own.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&[2u8; 12][..], &ether_type, &outer, &inner].concat()
}
