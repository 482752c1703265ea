//! The packet's way: `bytes -> parse -> classify -> select -> encapsulate -> outcome`.
//!
//! The same source is compiled into the verified BPF programs, into host tests, fuzz targets and simulators: it is
//! generic over [`Frame`] (a packet's bytes) and [`Tables`] (what user space decided). Nothing here allocates, panics or
//! knows an XDP action, a map or a clock. Invariant: every packet leaves [`process`] with exactly one reason, counted
//! exactly once, and a packet whose verdict is "pass" leaves byte-identical.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod classify;
pub mod decap;
mod encap;
pub mod flow_table;
mod fragment;
mod frame;
mod gue;
mod hash;
mod icmp;
pub mod iptunnel;
mod layers;
mod link;
pub mod mss;
mod outcome;
pub mod parse;
mod process;
mod reply;
mod route;
mod select;
mod server_id;
mod tables;
mod unwrap;

pub use frame::{Frame, Header, NoRoom};
pub use hash::flow_hash;
pub use outcome::{Action, Outcome, PackedOutcome};
pub use parse::Flow;
pub use process::{plain, process};
pub use route::{Scratch, general};
pub use select::Choice;
pub use tables::{BudgetWord, Memory, Recall, Tables};
