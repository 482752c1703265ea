//! `weir real down`: undoing what `up` did.
//!
//! Owns: the order and what is said about it. Invariant: what cannot be undone stays in the record, for another try.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use weir_kernel::bpf::StateDir;
use weir_kernel::net::Rtnl;

use super::journal::Journal;

/// Undoes everything.
pub(super) fn run(dir: &Path) -> anyhow::Result<ExitCode> {
    let found = Journal::read(dir)?;
    if found.is_none() && !StateDir::exists(dir) {
        println!("Nothing is set up here ({} has no undo record).", dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    let state = StateDir::open(dir)?;
    // Read again: another command may have had the directory a moment ago.
    let mut journal = Journal::open(dir)?;
    let changes = journal.steps().len();
    for note in journal.undo(&Rtnl::open()?, |_| true)? {
        println!("note: {note}");
    }
    journal.remove()?;
    state.remove().with_context(|| format!("everything is undone, but {} stays", dir.display()))?;
    let plural = if changes == 1 { "change" } else { "changes" };
    println!("Undone: {changes} {plural}. Packets from directors are not taken here any more.");
    Ok(ExitCode::SUCCESS)
}
