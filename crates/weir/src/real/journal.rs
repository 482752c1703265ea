//! The undo record: what `up` changed, and what it was asked for.
//!
//! Owns: the file `undo.json` in the state directory. May not touch: the machine. Invariant: the file is whole at every
//! moment (it is replaced, never written to), and names every change before it is made.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use weir_kernel::net::{Netns, Prefix, Rtnl};

use super::Decap;
use super::step::Step;
use crate::advice::Advise as _;

const FILE: &str = "undo.json";
/// Version of the record's format.
const VERSION: u32 = 1;

/// What `up` achieved, for `status` and for the next `up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Setup {
    /// The VIPs.
    pub(super) vips: Vec<IpAddr>,
    /// Where directors send from.
    pub(super) from: Vec<String>,
    /// What unwraps.
    pub(super) decap: Decap,
    /// Where packets are unwrapped.
    pub(super) unwrapping: Vec<Unwrapping>,
    /// Interfaces on which announced segment sizes are lowered.
    pub(super) clamping: Vec<String>,
    /// The addresses that directors may send to.
    pub(super) own: Vec<IpAddr>,
    /// The smallest MTU of the interfaces wrapped packets arrive on, bytes; 0 where no segment sizes are lowered.
    pub(super) mtu: u32,
    /// Largest segment size announced over IPv4, bytes.
    pub(super) mss_v4: u16,
    /// Largest segment size announced over IPv6, bytes.
    pub(super) mss_v6: u16,
    /// UDP port on which GUE is unwrapped; 0 = none.
    #[serde(default)]
    pub(super) gue_port: u16,
    /// Tells one build's programs from another's.
    pub(super) programs: u64,
    /// Whether tc programs are filters (before Linux 6.6) and not links with pins.
    pub(super) tc_filters: bool,
}

impl Setup {
    /// The directors' networks.
    pub(super) fn networks(&self) -> Vec<Prefix> {
        self.from.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

/// One interface on which packets are unwrapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unwrapping {
    /// The interface.
    pub(super) interface: String,
    /// `native`, `generic`, `tc`, `kernel` or `none`.
    pub(super) mode: String,
    /// Whether the program is the one for packets that may lie in several buffers.
    #[serde(default)]
    pub(super) frags: bool,
    /// Why it is not a better one.
    pub(super) fell_back: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// Device and inode of the network namespace.
    netns: (u64, u64),
    setup: Option<Setup>,
    steps: Vec<Step>,
}

/// The record, open.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    record: Record,
}

impl Journal {
    /// The record in `dir`; `None` if there is none.
    pub(super) fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(anyhow!("cannot read the undo record {}: {error}", path.display()))
                    .advise("run this command as root");
            }
            other => other.with_context(|| format!("cannot read the undo record {}", path.display()))?,
        };
        let record: Record = serde_json::from_str(&text)
            .map_err(|error| anyhow!("cannot understand the undo record {}: {error}", path.display()))
            .advise(
                "look at what it names (addresses, sysctls), put that back by hand, then delete the file; \
                 `weir real up` sets up again",
            )?;
        if record.version != VERSION {
            let why = format!("it has version {}, this weir writes {VERSION}", record.version);
            return Err(anyhow!("cannot understand the undo record {}: {why}", path.display()))
                .advise("run `weir real down` with the weir that made it");
        }
        let here = Netns::current()?.id()?;
        if record.netns != here {
            return Err(anyhow!("the agent in {} belongs to another network namespace", dir.display()))
                .advise("run this command there, or use another --state-dir here");
        }
        Ok(Some(Self { path, record }))
    }

    /// The record in `dir`, or an empty one, which is not written yet.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        if let Some(found) = Self::read(dir)? {
            return Ok(found);
        }
        let record =
            Record { version: VERSION, netns: Netns::current()?.id()?, setup: None, steps: Vec::new() };
        Ok(Self { path: dir.join(FILE), record })
    }

    /// Every change that was made or is about to be, in order.
    pub(super) fn steps(&self) -> &[Step] {
        &self.record.steps
    }

    /// What the last `up` achieved; `None` if it did not end well.
    pub(super) fn setup(&self) -> Option<&Setup> {
        self.record.setup.as_ref()
    }

    /// The value of a sysctl before weir changed it, if it did and nothing else has changed it since.
    pub(super) fn previous(&self, wanted: &str, current: &str) -> Option<&str> {
        self.record.steps.iter().find_map(|step| match step {
            Step::Sysctl { key, previous, value } if key == wanted && value == current => {
                Some(previous.as_str())
            }
            _ => None,
        })
    }

    /// Whether the same thing was changed already.
    pub(super) fn has(&self, wanted: &Step) -> bool {
        self.record.steps.iter().any(|step| step.same_thing(wanted))
    }

    /// Whether weir gave some interface this address.
    pub(super) fn added(&self, ip: IpAddr) -> bool {
        self.record.steps.iter().any(|step| matches!(step, Step::Address { address, .. } if *address == ip))
    }

    /// Notes a change that is about to be made.
    pub(super) fn note(&mut self, step: Step) -> anyhow::Result<()> {
        self.record.steps.push(step);
        self.save()
    }

    /// Notes what was achieved.
    pub(super) fn achieved(&mut self, setup: Setup) -> anyhow::Result<()> {
        self.record.setup = Some(setup);
        self.save()
    }

    /// Undoes the changes that `which` holds for, the last one first. Goes on past one that cannot be undone; that one
    /// stays in the record. Gives sentences about what was left on purpose.
    pub(super) fn undo(
        &mut self,
        rtnl: &Rtnl,
        mut which: impl FnMut(&Step) -> bool,
    ) -> anyhow::Result<Vec<String>> {
        let mut notes = Vec::new();
        let mut failure = None;
        for at in (0..self.record.steps.len()).rev() {
            let Some(step) = self.record.steps.get(at).filter(|step| which(step)).cloned() else { continue };
            match step.undo(rtnl) {
                Ok(note) => {
                    notes.extend(note);
                    self.record.steps.remove(at);
                    self.save()?;
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(notes), Err)
    }

    /// Removes the file.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn save(&self) -> anyhow::Result<()> {
        let beside = self.path.with_extension("new");
        let text = serde_json::to_vec_pretty(&self.record)?;
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)
        };
        write().with_context(|| format!("cannot write the undo record {}", self.path.display()))
    }
}
