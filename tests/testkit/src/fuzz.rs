//! Test bodies that are fuzz target and test at once: one for each parser of bytes that somebody else chose.
//!
//! Owns: the meaning of a fuzz input, and what must hold of any. A body is a plain `fn(&[u8])` that panics when something
//! does not hold; `fuzz/fuzz_targets` hands it to libFuzzer and `tests/fuzz_replay.rs` runs it over the kept inputs in
//! `fuzz/corpus` and `fuzz/regressions`. Invariant: a body is a function of its input alone (no clock, no randomness, no
//! state), and it works out what is right from plain bytes, not by calling the code under test.

mod agent;
mod bytes;
mod director;
mod iptunnel;
mod process;
mod text;

pub use agent::{mss, unwrap};
pub use director::{icmp, server_id, wrapped};
pub use iptunnel::iptunnel;
pub use process::{Arrival, once, process, process_input};
pub use text::{config, hash_key};

/// A fuzz target: its name (as of its program and its directories) and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every fuzz target.
pub const TARGETS: [Target; 9] = [
    ("process", process),
    ("server_id", server_id),
    ("icmp", icmp),
    ("wrapped", wrapped),
    ("unwrap", unwrap),
    ("mss", mss),
    ("iptunnel", iptunnel),
    ("config", config),
    ("hash_key", hash_key),
];

/// The interface that packets are sent out of.
const IFINDEX: u32 = 1;
