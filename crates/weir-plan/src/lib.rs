//! What has to be done to the director's tables so that they say what the configuration asks for.
//!
//! Owns: ids, ring ranges, the service table's layout, the order of changes. May not touch: the kernel, files, clocks
//! (time is an argument). The tables themselves are behind [`TableStore`]: the daemon's is the kernel's maps,
//! [`Model`] is one in memory.
//!
//! Nothing is remembered between two plans: [`Observed`] is read back from the tables every time, so that a daemon
//! that was killed in the middle of a change, or replaced by a newer one, goes on where the tables stand.
//!
//! Invariants, each a property test over random histories (`tests/histories.rs`):
//! - After any *prefix of the stores* of a plan every service points at a whole ring (or none), and every slot of it
//!   names a backend that exists, belongs to that service and is not down; the source list it names is whole, and who is
//!   named by the list has a backend; every VIP prefix has services.
//! - After the whole plan the tables are as desired, and another plan is empty.
//! - Nothing that a packet in flight may still read is overwritten: whatever was released is reused only after a
//!   grace period.
//! - A backend id in use means one (service, address, encapsulation, outer source) for as long as a ring, a flow or
//!   a server's number names it.

mod backends;
mod desired;
mod layout;
mod masks;
mod model;
mod observed;
mod op;
mod plan;
mod ranges;
mod rings;
mod servers;
mod source_list;
mod store;
mod switch;

pub use desired::{
    Desired, DesiredBackend, DesiredDirector, DesiredService, NextHop, Path, ring_size, service_key,
};
pub use model::Model;
pub use observed::{Observed, ObservedBackend, ObservedService, SourceMasks};
pub use op::Op;
pub use plan::{PlanError, Planner, diff};
pub use source_list::SourceList;
pub use store::{Limits, TableStore};
