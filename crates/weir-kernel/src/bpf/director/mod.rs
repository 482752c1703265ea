//! The director in the kernel: its tables as memory, its program, its attachments.
//!
//! Owns: creating, pinning, adopting and removing them, in that order of care. May not touch: what services and rings
//! mean. Invariant: tables are adopted only when the kernel says they are exactly what this build would make, and
//! refused otherwise, with nothing changed.
//!
//! What a start does with what it finds pinned:
//!
//! | pinned | attached, or in a program array | start |
//! | --- | --- | --- |
//! | nothing, or the rest of a start that was cut short (no identity yet) | no | afresh |
//! | tables of this ABI, same key, at least as large (the flow table: as large) | either | adopted: flows and rings stay |
//! | tables of this ABI, too small or of another key | no | afresh: nobody is forwarding by them |
//! | tables of this ABI, too small or of another key | yes | [`Error::InUse`] |
//! | tables of another ABI | either | [`Error::PinnedAbi`] |
//! | a table missing or of another shape | either | [`Error::BadPin`] |

mod array;
mod attach;
mod pins;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use weir_abi::{Control, Count, Reason, map};

use super::{
    Error, Grace, Link, LoadOptions, Loaded, Lookup, Mapped, Program, ProgramInfo, RawMap, StateDir, clock,
    load, map::possible_cpus,
};
pub use array::Place;
use array::Seat;
pub use attach::AttachedLink;
use pins::{Held, PROGRAM_PIN, Verdict, tables};
pub(in crate::bpf) use pins::{LINK_PREFIX, link_pin};

/// Sizes of the director's tables, in records. The defaults are weir-abi's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Entries of the service table, both halves together; a power of two.
    pub services: u32,
    /// Ring slots of all services together.
    pub ring_slots: u32,
    /// Backend ids, including id 0, which is never used; at most 2^20.
    pub backends: u32,
    /// Buckets of the flow table, of eight flows each; a power of two.
    pub flow_buckets: u32,
    /// Buckets of the fragment table, of eight packets each; a power of two.
    pub fragment_buckets: u32,
    /// Server ids and targets of source lists, of all services together.
    pub servers: u32,
    /// Prefixes in all source lists together.
    pub sources: u32,
    /// VIP prefixes.
    pub prefixes: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        use map::default_size as size;
        Self {
            services: size::SERVICES,
            ring_slots: size::RINGS,
            backends: size::BACKENDS,
            flow_buckets: size::FLOWS,
            fragment_buckets: size::FRAGMENTS,
            servers: size::SERVERS,
            sources: size::SOURCES,
            prefixes: size::PREFIXES,
        }
    }
}

impl Sizes {
    /// Bytes of kernel memory the tables take on this machine (per-CPU counters for every possible CPU).
    pub fn memory(&self) -> Result<u64, Error> {
        let cpus = possible_cpus().map_err(Error::doing("count the CPUs"))? as u64;
        Ok(tables(self).iter().map(|table| table.memory(cpus)).sum())
    }

    fn check(&self) -> Result<(), Error> {
        const NOT_A_POWER: &str = "it must be a power of two";
        let problem = if !self.services.is_power_of_two() || self.services < 2 {
            ("the service table", self.services, "it must be a power of two, at least 2")
        } else if self.ring_slots == 0 {
            ("the ring table", self.ring_slots, "it must not be empty")
        } else if self.backends < 2 || self.backends > 1 << weir_abi::RingSlot::BACKEND_BITS {
            ("the backend table", self.backends, "it must be between 2 and 1048576")
        } else if !self.flow_buckets.is_power_of_two() {
            ("the flow table", self.flow_buckets, NOT_A_POWER)
        } else if !self.fragment_buckets.is_power_of_two() {
            ("the fragment table", self.fragment_buckets, NOT_A_POWER)
        } else if let Some((what, _)) = [
            ("the table of servers", self.servers),
            ("the table of sources", self.sources),
            ("the table of VIP prefixes", self.prefixes),
        ]
        .into_iter()
        .find(|(_, size)| *size == 0)
        {
            (what, 0, "it must not be empty")
        } else {
            return Ok(());
        };
        Err(Error::Size { what: problem.0, value: problem.1, why: problem.2 })
    }
}

/// What [`Director::load_or_adopt`] is to make.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Table sizes.
    pub sizes: Sizes,
    /// Secret key of the flow hash. `None`: the pinned one, or a random one on a fresh start. Directors that share
    /// traffic need the same key.
    pub hash_key: Option<[u64; 2]>,
}

/// How the director came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With empty tables.
    Fresh,
    /// With the tables an earlier run left pinned.
    Adopted,
}

/// The director's program, tables and attachments.
///
/// Everything is pinned: dropping this leaves the program forwarding, to be adopted by the next start. Keep the
/// [`StateDir`] it was made with alive as long as this, so that no other process changes the same tables.
#[derive(Debug)]
pub struct Director {
    dir: PathBuf,
    start: Start,
    hz: u32,
    program: Program,
    /// For an MTU beyond one buffer; kernels before 5.18 take no such programs.
    frags: Option<Program>,
    control: Mapped<8>,
    services: Mapped<8>,
    rings: Mapped<1>,
    backends: Mapped<8>,
    flows: Mapped<8>,
    reasons: RawMap,
    backend_counts: RawMap,
    servers: Lookup<1>,
    sources: Lookup<3>,
    prefixes: Lookup<3>,
    grace: Grace,
    links: BTreeMap<String, Link>,
    seat: Option<Seat>,
}

impl Director {
    /// Makes the tables and the program, or takes over those pinned in `state`; attaches nothing.
    ///
    /// The program is always loaded anew; attached links run the old one until [`Director::attach`] exchanges it.
    pub fn load_or_adopt(state: &StateDir, options: &Options) -> Result<Self, Error> {
        options.sizes.check()?;
        let (verdict, held) = pins::judge(state.bpf(), options)?;
        match verdict {
            Verdict::Adopt(sizes) => {
                Self::load(state.bpf(), &Options { sizes, ..*options }, Start::Adopted, held)
            }
            Verdict::Fresh => {
                pins::remove(state.bpf())?;
                let made = Self::load(state.bpf(), options, Start::Fresh, held);
                if made.is_err() {
                    // The first error is the one to tell.
                    if let Err(error) = pins::remove(state.bpf()) {
                        tracing::warn!(%error, "cannot remove the pins of a start that failed");
                    }
                }
                made
            }
        }
    }

    fn load(dir: &Path, options: &Options, start: Start, held: Held) -> Result<Self, Error> {
        let tables = tables(&options.sizes);
        if start == Start::Fresh {
            let mib = options.sizes.memory()?.div_ceil(1 << 20);
            let Sizes { services, ring_slots, backends, flow_buckets, .. } = options.sizes;
            tracing::info!(mib, services, ring_slots, backends, flow_buckets, "making the director's tables");
        }
        let mut object = load(
            PROGRAM,
            &LoadOptions {
                max_entries: tables.iter().map(|table| (table.name.to_owned(), table.entries)).collect(),
                globals: Vec::new(),
                pins: tables.iter().map(|table| (table.name.to_owned(), dir.join(table.name))).collect(),
            },
        )?;
        for table in &tables {
            let info = object.map(table.name)?.info();
            table.check(&info).map_err(|why| Error::BadPin {
                map: table.name.to_owned(),
                why,
                dir: dir.to_owned(),
            })?;
        }
        let hz = clock::hz()?;
        let control = mapped(&object, map::CONTROL)?;
        if start == Start::Fresh {
            write_control(&control, options, hz)?;
        }
        let program = object.program(PROGRAM)?;
        replace_pin(&program, dir)?;
        let frags = object.program(pins::FRAGS_PROGRAM);
        if let Err(error) = &frags {
            tracing::debug!(%error, "no program for an MTU beyond one buffer");
        }
        Ok(Self {
            dir: dir.to_owned(),
            start,
            hz,
            program,
            frags: frags.ok(),
            control,
            services: mapped(&object, map::SERVICES)?,
            rings: mapped(&object, map::RINGS)?,
            backends: mapped(&object, map::BACKENDS)?,
            flows: mapped(&object, map::FLOWS)?,
            reasons: object.map(map::REASONS)?,
            backend_counts: object.map(map::BACKEND_COUNTS)?,
            servers: Lookup::new(object.map(map::SERVERS)?)?,
            sources: Lookup::new(object.map(map::SOURCES)?)?,
            prefixes: Lookup::new(object.map(map::PREFIXES)?)?,
            grace: Grace::new()?,
            links: held.links,
            seat: held.seat,
        })
    }

    /// Whether the tables are new.
    pub fn start(&self) -> Start {
        self.start
    }

    /// The control record (index 0).
    pub fn control(&self) -> &Mapped<8> {
        &self.control
    }

    /// Both halves of the service table.
    pub fn services(&self) -> &Mapped<8> {
        &self.services
    }

    /// The slots of all rings.
    pub fn rings(&self) -> &Mapped<1> {
        &self.rings
    }

    /// Backend records by id.
    pub fn backends(&self) -> &Mapped<8> {
        &self.backends
    }

    /// Flow buckets; each word is a [`weir_abi::FlowEntry`].
    pub fn flows(&self) -> &Mapped<8> {
        &self.flows
    }

    /// [`weir_abi::ServerKey`] to a backend id.
    pub fn servers(&self) -> &Lookup<1> {
        &self.servers
    }

    /// [`weir_abi::PrefixKey::sources`] to a [`weir_abi::SourceRule`].
    pub fn sources(&self) -> &Lookup<3> {
        &self.sources
    }

    /// [`weir_abi::PrefixKey::vips`] to the prefix's length.
    pub fn prefixes(&self) -> &Lookup<3> {
        &self.prefixes
    }

    /// The program, for [`super::test_run`].
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What the kernel says about the program.
    pub fn program_info(&self) -> Result<ProgramInfo, Error> {
        self.program.info()
    }

    /// How long a tick of the flow table lasts.
    pub fn tick(&self) -> Duration {
        let shift = self.control.record(0).map_or(0, |record| Control(record).tick_shift());
        clock::tick(self.hz, shift)
    }

    /// Returns when no run of the program can still see words replaced before the call; see [`Grace`].
    pub fn grace_period(&self) -> Result<(), Error> {
        self.grace.wait()
    }

    /// Packets and bytes by [`Reason`], indexed by its number.
    pub fn reasons(&self) -> Result<Vec<Count>, Error> {
        self.reasons.counts(Reason::COUNT)
    }

    /// Packets and bytes of all backends, indexed by id; the first `count` ids.
    pub fn all_backend_counts(&self, count: u32) -> Result<Vec<Count>, Error> {
        self.backend_counts.counts(count)
    }

    /// Packets and bytes of the backend `id`.
    pub fn backend_count(&self, id: u32) -> Result<Count, Error> {
        self.backend_counts.count(id)
    }

    /// Sets the counters of `id` to zero, for an id used anew: call it when nothing counts there any more, because a
    /// run in progress may still add to the old number.
    pub fn zero_backend_count(&self, id: u32) -> Result<(), Error> {
        self.backend_counts.set(&id.to_ne_bytes(), &[0; 16], 0)
    }

    /// Detaches everywhere and removes every pin: the next start is a fresh one.
    pub fn remove(mut self) -> Result<(), Error> {
        let left = self.leave().map(drop);
        self.detach_all().and(left)?;
        pins::remove(&self.dir)
    }
}

/// Name of the object, the program in it and its pin.
const PROGRAM: &str = PROGRAM_PIN;

fn mapped<const N: usize>(object: &Loaded, name: &str) -> Result<Mapped<N>, Error> {
    Mapped::new(&object.map(name)?)
}

fn write_control(control: &Mapped<8>, options: &Options, hz: u32) -> Result<(), Error> {
    let Some(record) = control.record(0) else { return Ok(()) };
    let control = Control(record);
    control.set_hash_key(match options.hash_key {
        Some(key) => key,
        None => random_key().map_err(Error::doing("draw a random hash key"))?,
    });
    let Sizes { flow_buckets, fragment_buckets, .. } = options.sizes;
    control.set_geometry(flow_buckets - 1, clock::tick_shift(hz), fragment_buckets.trailing_zeros());
    // Last: a record with an identity is whole.
    std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
    control.set_identity();
    Ok(())
}

fn random_key() -> io::Result<[u64; 2]> {
    let mut key = [0u64; 2];
    let len = size_of_val(&key);
    // SAFETY: `len` bytes of `key`, which takes any bytes. Requests up to 256 bytes are never cut short.
    let got = unsafe { libc::getrandom(key.as_mut_ptr().cast(), len, 0) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(key) }
}

/// Pins the program in place of the last run's.
fn replace_pin(program: &Program, dir: &Path) -> Result<(), Error> {
    let (new, pin) = (dir.join(pins::NEW_PROGRAM_PIN), dir.join(PROGRAM_PIN));
    pins::unlink(&new)?;
    program.pin(&new)?;
    fs::rename(&new, &pin).map_err(Error::doing(format!("rename {} to {}", new.display(), pin.display())))
}
