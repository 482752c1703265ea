//! Signals as a command-line tool wants them.

use nix::sys::signal::{SigHandler, Signal, signal};

/// Lets a closed pipe end this process without a word, as it ends every other tool (`weir status | head`). Rust ignores
/// SIGPIPE from the start, which turns the next `println!` into a panic.
///
/// Not for a command that changes something: it would be cut off half way.
pub fn end_on_closed_pipe() {
    // SAFETY: the default action runs no code of ours; the handler being replaced is Rust's own "ignore".
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}
