//! What weir's tests share: frames and tables in plain memory, packets, table images and fixtures.
//!
//! Owns the host side of "one set of packets, three runners": a [`Fixture`] says what goes in, what the tables hold and
//! what must come out; `tests/host.rs` runs it through `weir_datapath::process` and `tests/kernel.rs`, by [`verified`],
//! through the verified program. Invariant: nothing here decides what is right by calling the code under test.

mod fixture;
mod frame;
pub mod fuzz;
pub mod image;
mod inside;
pub mod outer;
pub mod packet;
mod random;
mod real_servers;
mod tables;
pub mod verified;

pub use fixture::{Expected, Fixture, Held, SPREAD, Step, fixtures};
pub use frame::MemoryFrame;
pub use image::{DirectorSpec, Image, ServiceSpec, SourceSpec, Travel};
pub use inside::Inside;
pub use outer::How;
pub use random::{Random, random_image, random_packet};
pub use real_servers::RealServers;
pub use tables::MemoryTables;
