//! Bringing a machine to where weir can be built and tried.
//!
//! Owns: what is needed and in which order it is installed. May not touch: services; nothing is started or
//! enabled. Invariant: with everything in place nothing is run but a few version queries.

mod compiler;
mod linker;
pub(crate) mod packages;

use anyhow::bail;

use crate::workspace::which;
pub(crate) use packages::EMULATOR;

/// Everything needed to build weir: a compiler for the BPF target, and its linker.
pub(crate) fn for_building() -> anyhow::Result<()> {
    let rustc = compiler::ensure()?;
    linker::ensure(&rustc)
}

/// Everything needed to build weir and to try it in a lab.
pub(crate) fn for_running() -> anyhow::Result<()> {
    let missing = packages::missing();
    if !missing.is_empty() {
        packages::install(&missing)?;
    }
    for_building()?;
    let still: Vec<_> = packages::missing().into_iter().filter(|tool| tool.required).collect();
    if !still.is_empty() {
        bail!("after installing, these commands are still missing: {}", packages::commands(&still));
    }
    Ok(())
}

/// Everything needed to run another kernel in a machine of its own.
pub(crate) fn for_emulating() -> anyhow::Result<()> {
    if which(EMULATOR.command).is_none() {
        packages::install(&[EMULATOR])?;
    }
    if which(EMULATOR.command).is_none() {
        bail!("after installing, {} is still missing", EMULATOR.command);
    }
    Ok(())
}
