//! One change to the machine: what it is, making it, undoing it.
//!
//! Owns: the kinds of change `weir real up` makes. May not touch: the record (see `journal`), which changes are wanted
//! (see `plan`). Invariant: making a change that is made, and undoing one that is not, are both fine.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use weir_kernel::bpf::{Link, TcDirection, detach_filter};
use weir_kernel::net::{NewAddress, Rtnl, Scope, Sysctl};

/// A change to the machine that can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(super) enum Step {
    /// A sysctl got another value.
    Sysctl {
        /// As sysctl(8) spells it.
        key: String,
        /// Its value before.
        previous: String,
        /// Its value since.
        value: String,
    },
    /// A dummy interface was made.
    Device {
        /// Its name.
        name: String,
    },
    /// An interface that was down was set up.
    Up {
        /// Its name.
        device: String,
    },
    /// An interface got an address.
    Address {
        /// The interface's name.
        device: String,
        /// The address.
        address: IpAddr,
    },
    /// A program was attached.
    Program {
        /// The interface's name.
        interface: String,
        /// Its index then.
        ifindex: u32,
        /// Where on the interface.
        hook: Hook,
        /// The pin of the link; a tc filter of an older kernel has none.
        pin: PathBuf,
    },
}

/// Where on an interface a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hook {
    /// XDP, native or generic.
    Xdp,
    /// tc, coming in.
    Ingress,
    /// tc, going out.
    Egress,
}

impl Hook {
    /// The program that belongs there.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Xdp => weir_abi::agent::UNWRAP_XDP,
            Self::Ingress => weir_abi::agent::UNWRAP_TC,
            Self::Egress => weir_abi::agent::CLAMP_MSS,
        }
    }
    /// The direction, for tc.
    pub(super) const fn direction(self) -> Option<TcDirection> {
        match self {
            Self::Xdp => None,
            Self::Ingress => Some(TcDirection::Ingress),
            Self::Egress => Some(TcDirection::Egress),
        }
    }
}

/// The prefix length that means one address.
pub(super) const fn host_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl Step {
    /// Whether both change the same thing (not necessarily in the same way).
    pub(super) fn same_thing(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sysctl { key: a, .. }, Self::Sysctl { key: b, .. }) => a == b,
            (
                Self::Program { pin: a, interface: one, .. },
                Self::Program { pin: b, interface: other, .. },
            ) => a == b && one == other,
            _ => self == other,
        }
    }

    /// Makes the change. Programs are attached by `attach`, not here.
    pub(super) fn make(&self, rtnl: &Rtnl) -> anyhow::Result<()> {
        match self {
            Self::Sysctl { key, value, .. } => {
                Sysctl::parse(key)?.set(value)?;
            }
            Self::Device { name } => {
                if rtnl.find_link(name)?.is_none() {
                    rtnl.create_dummy(name)?;
                }
            }
            Self::Up { device } => rtnl.set_up(rtnl.link_by_name(device)?.index)?,
            Self::Address { device, address } => {
                // Host scope: never chosen as the source of a connection this machine begins.
                let new = NewAddress::new(rtnl.link_by_name(device)?.index, *address, host_bits(*address));
                rtnl.ensure_address(&new.scope(Scope::Host).nodad())?;
            }
            Self::Program { .. } => {}
        }
        Ok(())
    }

    /// Undoes the change, as far as it is still there. Gives a sentence where it was left as it is on purpose.
    pub(super) fn undo(&self, rtnl: &Rtnl) -> anyhow::Result<Option<String>> {
        self.try_undo(rtnl).with_context(|| format!("cannot undo: {self}"))
    }

    fn try_undo(&self, rtnl: &Rtnl) -> anyhow::Result<Option<String>> {
        match self {
            Self::Sysctl { key, previous, value } => {
                let sysctl = Sysctl::parse(key)?;
                match sysctl.read() {
                    Ok(current) if current == *value => {
                        sysctl.set(previous)?;
                    }
                    Ok(current) if current == *previous => {}
                    Ok(current) => {
                        return Ok(Some(format!("{key} is left at {current}: something else has set it")));
                    }
                    // The interface has gone, and its sysctls with it.
                    Err(error) if error.errno() == Some(nix::errno::Errno::ENOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Self::Device { name } => {
                if let Some(link) = rtnl.find_link(name)? {
                    rtnl.delete_link(link.index)?;
                }
            }
            Self::Up { device } => {
                if let Some(link) = rtnl.find_link(device)? {
                    rtnl.set_down(link.index)?;
                }
            }
            Self::Address { device, address } => {
                if let Some(link) = rtnl.find_link(device)? {
                    rtnl.ensure_no_address(link.index, *address, host_bits(*address))?;
                }
            }
            Self::Program { ifindex, hook, pin, .. } => {
                if pin.exists() {
                    Link::open(pin)?.detach()?;
                } else if let Some(direction) = hook.direction() {
                    detach_filter(*ifindex, direction, hook.program())?;
                }
            }
        }
        Ok(None)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { key, previous, value } => write!(f, "{key} from {previous} to {value}"),
            Self::Device { name } => write!(f, "dummy interface {name}"),
            Self::Up { device } => write!(f, "interface {device} up"),
            Self::Address { device, address } => write!(f, "address {address} on {device}"),
            Self::Program { interface, hook, .. } => write!(f, "program {} on {interface}", hook.program()),
        }
    }
}
