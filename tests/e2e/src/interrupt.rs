//! Ctrl-C: labs are taken down before the program ends.
//!
//! Owns: SIGINT and SIGTERM of this process, the list of labs that are up. Invariant: every lab is in the list
//! from before it is made until after it is gone.

use std::os::unix::process::CommandExt as _;
use std::sync::Mutex;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::weir::{Output, PATIENCE, Weir, finish};

static LABS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on this lab is taken down on Ctrl-C.
pub(crate) fn remember(lab: &str) {
    labs().push(lab.to_owned());
}

/// The lab is gone, or meant to stay.
pub(crate) fn forget(lab: &str) {
    labs().retain(|known| known != lab);
}

fn labs() -> std::sync::MutexGuard<'static, Vec<String>> {
    LABS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Starts the thread that waits for the signals. By handlers, not by blocking them: child processes would inherit that,
/// and could not be ended by SIGTERM.
pub(crate) fn watch(weir: Weir) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        eprintln!("\ninterrupted: taking down the lab");
        for lab in labs().iter() {
            let mut command = weir.command(&["lab", "down", "--name", lab]);
            // In a group of its own: a second Ctrl-C must not end it half way.
            command.process_group(0);
            let out = finish(command, PATIENCE);
            if !out.as_ref().is_ok_and(Output::ok) {
                eprintln!("warning: the lab may not be gone; try `weir lab down --name {lab}`");
            }
        }
        std::process::exit(128 + signal);
    });
    Ok(())
}
