//! BPF as weir uses it: objects, programs, maps, links and pins.
//!
//! Owns: the loader, bpf(2), bpffs, attachments, the director's tables as typed memory. May not touch: routes and
//! neighbours (`net`), what is in the tables. Invariant: an attachment weir makes is a bpf_link that something holds: a
//! pin, a [`Link`], or a named tc filter.

mod clock;
mod director;
mod error;
mod grace;
mod layout;
mod link;
mod lookup;
mod map;
mod mapped;
pub mod objects;
mod program;
mod root;
mod rtnl;
mod state_dir;
mod sys;
mod tc;
mod test_run;
mod xdp;

pub(crate) use error::advice;

pub use director::{AttachedLink, Director, Options, Place, Sizes, Start};
pub use error::Error;
pub use grace::Grace;
pub use link::{Link, LinkInfo};
pub use lookup::Lookup;
pub use map::{MapInfo, RawMap};
pub use mapped::Mapped;
pub use program::{LoadOptions, Loaded, Program, ProgramInfo, ProgramKind, attach_pass, jit_enabled, load};
pub use root::Root;
pub use rtnl::{XdpAttachment, query};
pub use state_dir::StateDir;
pub use tc::{TcAttachment, TcDirection, TcMethod, detach_filter};
pub use test_run::{TestRun, live_run, test_run};
pub use xdp::{Attached, XdpMode, XdpRequest};
