//! The state directory: a lock and a bpffs of weir's own.
//!
//! Owns: the directory, its lock file, the mount at `bpf`. May not touch: what is pinned there.
//! Invariant: while a [`StateDir`] lives no other process has one for the same path.
//!
//! The bpffs is an instance of its own (every mount of type `bpf` is), mode 0700, so that weir neither needs
//! /sys/fs/bpf nor meets anyone else's pins. It outlives the process, which is what keeps programs forwarding across a
//! restart. It belongs to the mount namespace it was made in and goes with it. A process in a passing one (`ip netns
//! exec` makes such) keeps its pins only if the directory was opened outside before: the mount is then there already.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::Error;

/// Weir's state directory, locked, with a bpffs at `bpf`.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    bpf: PathBuf,
    lock: Flock<File>,
}

impl StateDir {
    /// Creates `path` (mode 0700) where it is missing, locks it and mounts a bpffs at `path/bpf` unless one is there.
    ///
    /// # Errors
    /// [`Error::StateDirBusy`] when another process has it; [`Error::System`] otherwise.
    pub fn open(path: &Path) -> Result<Self, Error> {
        create(path)?;
        let lock = lock(path)?;
        let bpf = path.join("bpf");
        create(&bpf)?;
        if !is_bpffs(&bpf)? {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("bpf"), &bpf, Some("bpf"), flags, Some("mode=0700"))
                .map_err(|errno| Error::doing(format!("mount a bpffs at {}", bpf.display()))(errno.into()))?;
        }
        Ok(Self { path: path.to_owned(), bpf, lock })
    }

    /// Whether a state directory with a bpffs is at `path`, in use or not.
    pub fn exists(path: &Path) -> bool {
        is_bpffs(&path.join("bpf")).unwrap_or(false)
    }

    /// The directory itself, for files that are not pins.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bpffs. Names in it must not contain dots.
    pub fn bpf(&self) -> &Path {
        &self.bpf
    }

    /// Unmounts the bpffs, and with it drops every pin; removes the directory where nothing else is left in it.
    ///
    /// Links that are only held by their pin detach.
    pub fn remove(self) -> Result<(), Error> {
        match umount2(&self.bpf, MntFlags::empty()) {
            Err(Errno::EBUSY) => umount2(&self.bpf, MntFlags::MNT_DETACH),
            other => other,
        }
        .map_err(|errno| Error::doing(format!("unmount {}", self.bpf.display()))(errno.into()))?;
        fs::remove_dir(&self.bpf).map_err(Error::doing(format!("remove {}", self.bpf.display())))?;
        // The lock file goes while it is locked: whoever opens the path next makes and locks another one.
        let file = self.path.join(LOCK);
        fs::remove_file(&file).map_err(Error::doing(format!("remove {}", file.display())))?;
        drop(self.lock);
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                Err(Error::doing(format!("remove {}", self.path.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

const LOCK: &str = "lock";

fn create(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::doing(format!("create the directory {}", path.display())))
}

/// Whether the path is in a BPF file system.
pub(super) fn is_bpffs(path: &Path) -> Result<bool, Error> {
    let found = statfs(path).map_err(|errno| {
        Error::doing(format!("look at the file system of {}", path.display()))(errno.into())
    })?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}

fn lock(directory: &Path) -> Result<Flock<File>, Error> {
    let path = directory.join(LOCK);
    let failed = || Error::doing(format!("lock {}", path.display()));
    // More than one round only when another process removes the file between our opening and locking it.
    for _ in 0..16 {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed())?;
        let mut locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => locked,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(failed())?;
                let pid = match pid.trim() {
                    "" => "unknown".to_owned(),
                    pid => pid.to_owned(),
                };
                return Err(Error::StateDirBusy { path: directory.to_owned(), pid });
            }
            Err((_, errno)) => return Err(failed()(errno.into())),
        };
        if is_same_file(&locked, &path) {
            locked
                .set_len(0)
                .and_then(|()| locked.write_all(std::process::id().to_string().as_bytes()))
                .map_err(failed())?;
            return Ok(locked);
        }
    }
    Err(failed()(io::ErrorKind::ResourceBusy.into()))
}

fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}
