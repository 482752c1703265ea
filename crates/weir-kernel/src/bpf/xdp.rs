//! Attaching XDP programs by bpf_link, and saying why not.
//!
//! Owns: modes, the choice between them, refusals in words. May not touch: pins (see `link`), tables.
//! Invariant: an attachment is a bpf_link or an error; never the netlink attachment that nobody holds.

use std::{
    fmt, io,
    os::fd::{BorrowedFd, OwnedFd},
};

use super::{Error, Link, advice, rtnl, sys};

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// In the driver, before the kernel makes an skb.
    Native,
    /// In the network stack, on an skb; works with every driver and is slower.
    Generic,
}

impl XdpMode {
    pub(crate) fn flag(self) -> u32 {
        match self {
            Self::Generic => 2, // XDP_FLAGS_SKB_MODE
            Self::Native => 4,  // XDP_FLAGS_DRV_MODE
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// The mode asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XdpRequest {
    /// Native, or generic with the reason where the driver has no native mode.
    #[default]
    Auto,
    /// Native or an error.
    Native,
    /// Generic.
    Generic,
}

/// How a program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The mode it runs in.
    pub mode: XdpMode,
    /// Whether it is a program for an MTU beyond one buffer.
    pub frags: bool,
    /// Why it is generic although [`XdpRequest::Auto`] would rather have had native.
    pub fell_back: Option<String>,
}

/// Attaches, without pinning.
pub(crate) fn create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    request: XdpRequest,
) -> Result<(OwnedFd, Attached), Error> {
    let first = if request == XdpRequest::Generic { XdpMode::Generic } else { XdpMode::Native };
    let refused = match link(program, ifindex, first) {
        Ok(link) => return Ok((link, Attached { mode: first, frags: false, fell_back: None })),
        Err(error) => error,
    };
    if request != XdpRequest::Auto || !is_drivers(&refused) {
        return Err(refusal(program, ifindex, first, &refused));
    }
    let (why, _) = explain(program, ifindex, first, &refused);
    let link = link(program, ifindex, XdpMode::Generic)
        .map_err(|error| refusal(program, ifindex, XdpMode::Generic, &error))?;
    Ok((link, Attached { mode: XdpMode::Generic, frags: false, fell_back: Some(why) }))
}

/// Puts `program` into `link`, if it is on that interface in a mode `request` allows; `None` if it is not, or the kernel
/// refuses to exchange the two.
pub(crate) fn exchange(
    link: &Link,
    program: BorrowedFd<'_>,
    ifindex: u32,
    request: XdpRequest,
) -> Result<Option<Attached>, Error> {
    let info = link.info()?;
    if info.ifindex != ifindex {
        return Ok(None);
    }
    // A link does not say its mode; the interface does.
    let there = rtnl::query(ifindex)?.filter(|there| there.program_id == info.program_id);
    let Some(mode) = there.and_then(|there| there.mode) else { return Ok(None) };
    let fell_back = match (request, mode) {
        (XdpRequest::Auto, XdpMode::Generic) => {
            Some("it was attached in generic mode before and was kept so".to_owned())
        }
        (XdpRequest::Native, XdpMode::Generic) | (XdpRequest::Generic, XdpMode::Native) => return Ok(None),
        _ => None,
    };
    if let Err(error) = link.update(program) {
        tracing::warn!(%error, interface = interface_name(ifindex), "cannot exchange the program; attaching anew");
        return Ok(None);
    }
    Ok(Some(Attached { mode, frags: false, fell_back }))
}

fn link(program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode) -> io::Result<OwnedFd> {
    sys::link_create(program, ifindex, sys::AttachType::Xdp, mode.flag())
}

/// Whether it is the driver that refuses, so that generic mode may do. Not when another program is there, the device is
/// gone or we may not.
fn is_drivers(error: &io::Error) -> bool {
    use libc::{E2BIG, EINVAL, EMSGSIZE, ENOMEM, ENOSPC, EOPNOTSUPP, ERANGE};
    matches!(error.raw_os_error(), Some(EOPNOTSUPP | EINVAL | ERANGE | E2BIG | EMSGSIZE | ENOMEM | ENOSPC))
}

fn refusal(program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode, error: &io::Error) -> Error {
    // The kernel says EINVAL when there is no such interface.
    if find_name(ifindex).is_none() {
        return Error::NoInterface { interface: format!("with index {ifindex}") };
    }
    let (why, advice) = explain(program, ifindex, mode, error);
    Error::Attach { interface: interface_name(ifindex), mode: format!("xdp {mode}"), why, advice }
}

/// Cause and advice.
fn explain(program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode, error: &io::Error) -> (String, String) {
    use libc::{E2BIG, EBUSY, EEXIST, EINVAL, EMSGSIZE, EOPNOTSUPP, ERANGE};
    let code = error.raw_os_error().unwrap_or(0);
    if matches!(code, EBUSY | EEXIST) {
        return match rtnl::query(ifindex) {
            Ok(Some(other)) => (
                format!(
                    "another XDP program is attached{} (id {}, \"{}\")",
                    other.mode.map(|mode| format!(" in {mode} mode")).unwrap_or_default(),
                    other.program_id,
                    other.program_name
                ),
                format!(
                    "stop whatever attached it, or take it away with `ip link set dev {} xdp off`",
                    interface_name(ifindex)
                ),
            ),
            _ => (
                format!("the interface is in use: {error}"),
                "if it is part of a bond or team that has an XDP program, attach to that, or take its program away".to_owned(),
            ),
        };
    }
    let words = rtnl::refusal(program, ifindex, mode);
    let said = |meaning: &str| match &words {
        Some(words) => format!("{meaning}: \"{words}\""),
        None => format!("{meaning} ({error})"),
    };
    match code {
        EOPNOTSUPP if mode == XdpMode::Native => {
            (said("the driver has no native XDP"), "use xdp mode \"auto\" or \"generic\"".to_owned())
        }
        ERANGE | E2BIG | EMSGSIZE => (
            said("the driver refuses XDP with this MTU"),
            "lower the interface's MTU (1500 fits every driver), or use xdp mode \"generic\"".to_owned(),
        ),
        EINVAL if words.is_some() => (
            said("the driver refuses"),
            "change what it complains about (often MTU, LRO or the number of queues), or use xdp mode \"generic\""
                .to_owned(),
        ),
        EINVAL => (
            said("the kernel refuses; it may be older than 5.9 and have no XDP links"),
            "use Linux 5.15 or newer".to_owned(),
        ),
        _ => (said("the kernel refuses"), advice(error).to_owned()),
    }
}

/// The interface's name in this network namespace; `None` where there is no such interface.
pub(crate) fn find_name(ifindex: u32) -> Option<String> {
    // nix 0.31 takes the null pointer that means "none" for success and gives an empty name.
    let name = nix::net::if_::if_indextoname(ifindex).ok()?;
    Some(name.to_string_lossy().into_owned()).filter(|name| !name.is_empty())
}

/// The interface's name, or its number where it has gone.
pub(crate) fn interface_name(ifindex: u32) -> String {
    find_name(ifindex).unwrap_or_else(|| format!("interface {ifindex}"))
}
