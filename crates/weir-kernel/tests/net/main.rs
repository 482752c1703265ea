//! The network side against the real kernel, in namespaces that each test makes and removes.
//!
//! Needs root and iproute2. Without them the tests fail rather than pass unseen: run them with `cargo xtask test`.

mod events;
mod links;
mod machine;
mod next_hops;
mod space;
