//! Where a lab is kept, and who may change it.
//!
//! Owns: lab names, `/run/weir-lab`, its lock, the record of what was asked for. May not touch: namespaces, processes.
//! Invariant: whoever holds a [`Lock`] is the only one that makes or removes labs.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};

use super::layout::Topology;
use super::{DEFAULT_MTU, XdpMode};
use crate::advice::Advise as _;

/// Where all labs are kept.
const ROOT: &str = "/run/weir-lab";
/// The name of a lab that was given none.
pub(super) const DEFAULT: &str = "default";
/// Every host of any topology.
pub(super) const HOSTS: [&str; 7] = ["client", "router", "switch", "director", "rs1", "rs2", "rs3"];

/// A lab's name: at most 32 lower-case letters, digits and `-`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(String);

impl Name {
    /// Accepts or refuses a name from the command line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if (1..=32).contains(&text.len()) && !text.starts_with('-') && text.chars().all(fits) {
            return Ok(Self(text.to_owned()));
        }
        Err("a lab's name is 1 to 32 lower-case letters, digits and `-`, not beginning with `-`".to_owned())
    }

    /// The name itself.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The option that names it, with a blank before it; nothing for the default.
    pub(super) fn option(&self) -> String {
        if self.0 == DEFAULT { String::new() } else { format!(" --name {}", self.0) }
    }

    /// What `ip netns` calls the namespace of a host.
    pub(super) fn namespace(&self, host: &str) -> String {
        if self.0 == DEFAULT { format!("weir-lab-{host}") } else { format!("weir-lab-{}-{host}", self.0) }
    }

    /// The lab's directory.
    pub(super) fn dir(&self) -> PathBuf {
        Path::new(ROOT).join(&self.0)
    }

    /// The director's configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.dir().join("weir.toml")
    }

    /// A host's own directory: weir's runtime directory there, the web server's files.
    pub(super) fn host_dir(&self, host: &str) -> PathBuf {
        self.dir().join(host)
    }
}

/// What was asked for, and whether it was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// How it is wired.
    pub(super) topology: Topology,
    /// How the director's program is to be attached.
    pub(super) xdp_mode: XdpMode,
    /// MTU of all links, bytes.
    pub(super) mtu: u16,
    /// Whether the director is run.
    pub(super) director: bool,
    /// Whether the agents are set up.
    pub(super) agents: bool,
    /// Whether everything was made.
    pub(super) complete: bool,
}

impl Record {
    /// The record of a lab; `None` if there is none, or none that can be read.
    pub(super) fn read(name: &Name) -> Option<Self> {
        Self::decode(&serde_json::from_slice(&fs::read(name.dir().join("lab.json")).ok()?).ok()?)
    }

    fn decode(value: &Value) -> Option<Self> {
        Some(Self {
            topology: Topology::parse(value["topology"].as_str()?)?,
            // Records did not always have these two.
            xdp_mode: value["xdp_mode"].as_str().map_or(Some(XdpMode::default()), XdpMode::parse)?,
            mtu: value["mtu"].as_u64().map_or(Some(DEFAULT_MTU), |mtu| mtu.try_into().ok())?,
            director: value["director"].as_bool()?,
            agents: value["agents"].as_bool()?,
            complete: value["complete"].as_bool()?,
        })
    }

    /// Writes it, all or nothing.
    pub(super) fn write(self, name: &Name) -> anyhow::Result<()> {
        write_whole(&name.dir().join("lab.json"), &self.encode().to_string())
    }

    fn encode(self) -> Value {
        json!({
            "topology": self.topology.as_str(),
            "xdp_mode": self.xdp_mode.as_str(),
            "mtu": self.mtu,
            "director": self.director,
            "agents": self.agents,
            "complete": self.complete,
        })
    }
}

/// Writes a file so that a crash leaves the old one or the new one.
pub(super) fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The right to make and remove labs, until it is dropped.
pub(super) struct Lock {
    directory: File,
}

impl Lock {
    /// Waits until no other process has it.
    pub(super) fn take() -> anyhow::Result<Self> {
        // More than one round only when another process removes the directory between our opening and locking it.
        for _ in 0..16 {
            let taken = create_dir(Path::new(ROOT)).and_then(|()| File::open(ROOT)).and_then(|directory| {
                directory.lock()?;
                Ok(directory)
            });
            match taken {
                Ok(directory) if is_still_there(&directory) => return Ok(Self { directory }),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot lock {ROOT}"))
                        .advise("make sure that /run is writable");
                }
            }
        }
        bail!("cannot lock {ROOT}: it comes and goes")
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Goes while it is locked, and only if no lab is left in it.
        if is_still_there(&self.directory) {
            fs::remove_dir(ROOT).ok();
        }
    }
}

fn is_still_there(directory: &File) -> bool {
    match (directory.metadata(), fs::metadata(ROOT)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Creates a directory that everyone may look into.
pub(super) fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Unmounts and removes a lab's directory; returns whether there was one. To be called under the [`Lock`].
pub(super) fn remove(name: &Name) -> anyhow::Result<bool> {
    let dir = name.dir();
    for mount in mounts_below(&dir)?.iter().rev() {
        umount2(mount, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", mount.display()))?;
    }
    match fs::remove_dir_all(&dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", dir.display())),
    }
}
/// Mount points below a directory, in the order they were mounted.
fn mounts_below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    // Lab names need none of the escapes of that file.
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_how_the_program_is_attached() {
        let topology = Topology::default();
        let record = Record {
            topology,
            xdp_mode: XdpMode::Generic,
            mtu: 9000,
            director: true,
            agents: false,
            complete: true,
        };
        let mut value = record.encode();
        assert_eq!(Record::decode(&value), Some(record));
        value.as_object_mut().unwrap().remove("xdp_mode");
        value.as_object_mut().unwrap().remove("mtu");
        let old = Record { xdp_mode: XdpMode::Auto, mtu: 1500, ..record };
        assert_eq!(Record::decode(&value), Some(old), "an old one");
    }

    #[test]
    fn names_cannot_leave_the_directory_or_look_like_options() {
        for bad in ["", "-a", "a/b", "..", "A", "a b", &"x".repeat(33)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
        let name = Name::parse("my-2nd").unwrap();
        assert_eq!(name.namespace("rs1"), "weir-lab-my-2nd-rs1");
        assert_eq!(Name::parse(DEFAULT).unwrap().namespace("rs1"), "weir-lab-rs1");
    }
}
