//! What the daemon may do: checked before it begins, reduced once it runs.
//!
//! Owns: the capability sets. Invariant: once [`reduce`] returns, this thread and every later one hold no more than is
//! needed to reconfigure, and nothing they execute can hold more.
//!
//! | kept | for |
//! | --- | --- |
//! | CAP_NET_ADMIN | attaching to interfaces named by a reload, VIP addresses, asking for neighbours |
//! | CAP_BPF | pins, counters, grace periods |
//! | CAP_DAC_READ_SEARCH | reading an edited configuration that only its owner may read |
//! | CAP_SYS_ADMIN (permitted, not effective; not with `--detach=never`) | unmounting the bpffs at exit |

use anyhow::Context as _;
use caps::{CapSet, Capability, CapsHashSet};

use crate::advice::Advise as _;

/// Refuses to begin without the capabilities that loading and attaching take.
pub(super) fn check() -> anyhow::Result<()> {
    let needed =
        [Capability::CAP_NET_ADMIN, Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN];
    let held = caps::read(None, CapSet::Effective).context("cannot read this process's capabilities")?;
    let missing: Vec<String> =
        needed.iter().filter(|capability| !held.contains(capability)).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!("cannot run the director: this process lacks {}", missing.join(", ")))
        .advise("run it as root, for instance with `sudo weir run …`")
}

/// Gives up everything that is not needed any more. Call it before other threads are started.
pub(super) fn reduce(unmounts_at_exit: bool) -> anyhow::Result<()> {
    let held = caps::read(None, CapSet::Permitted)?;
    let mut keep: CapsHashSet =
        [Capability::CAP_NET_ADMIN, Capability::CAP_BPF, Capability::CAP_DAC_READ_SEARCH]
            .into_iter()
            .collect();
    keep.retain(|capability| held.contains(capability));
    caps::set(None, CapSet::Effective, &keep)?;
    if unmounts_at_exit && held.contains(&Capability::CAP_SYS_ADMIN) {
        keep.insert(Capability::CAP_SYS_ADMIN);
    }
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    nix::sys::prctl::set_no_new_privs().context("cannot give up gaining privileges")
}

/// Takes back what unmounting takes.
pub(super) fn raise_for_unmount() -> anyhow::Result<()> {
    caps::raise(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).context("cannot use CAP_SYS_ADMIN again")
}
