//! The network of a live run: two ends of a cable in a namespace that nothing else is in.
//!
//! Owns: the namespace, the links. Invariant: the namespace has no name and ends with the thread that made it, so that
//! nothing is left however the benchmark ends.
use super::Cpu;
use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use std::{panic, thread};
use weir_kernel::net::{Rtnl, Sysctl, VethEnd};

/// Runs `work` on a thread in a network namespace of its own, on one CPU.
pub(crate) fn apart<T: Send>(work: impl FnOnce(Cpu) -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let thread = || {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace; run as root")?;
        work(Cpu::pin()?)
    };
    thread::scope(|scope| scope.spawn(thread).join().unwrap_or_else(|payload| panic::resume_unwind(payload)))
}

/// A veth pair, both ends up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    /// Index of the end that packets are sent from and come back to.
    pub generator: u32,
    /// Index of the end with the program under test.
    pub under_test: u32,
}

impl Wire {
    /// In the calling thread's namespace.
    pub(crate) fn new() -> anyhow::Result<Self> {
        // A link with IPv6 says so to its neighbours; these packets would be counted too.
        let ipv6 = Sysctl::ipv6_conf("default", "disable_ipv6")?;
        if ipv6.read().is_ok() {
            ipv6.set("1")?;
        }
        let rtnl = Rtnl::open()?;
        rtnl.create_veth(VethEnd::new("generator"), VethEnd::new("under-test"))?;
        let up = |name: &str| -> anyhow::Result<u32> {
            let index = rtnl.link_by_name(name)?.index;
            rtnl.set_up(index)?;
            Ok(index)
        };
        Ok(Self { generator: up("generator")?, under_test: up("under-test")? })
    }
}
