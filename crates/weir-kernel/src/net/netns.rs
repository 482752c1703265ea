//! Network namespaces, by the names that `ip netns` uses.
//!
//! Owns `/run/netns` and the calls that move a thread or a child process between namespaces. Invariant: the calling
//! thread never changes namespace; the work is done on threads of its own that end afterwards.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
            process::CommandExt,
        },
    },
    panic,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::error::Error;

/// Where `ip netns` keeps a file for each named namespace.
const DIRECTORY: &str = "/run/netns";
/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace. It exists as long as this does, even when its name is deleted.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    name: Option<String>,
}

impl Netns {
    /// Creates a namespace with a name, as `ip netns add` does. It has only a loopback link, which is down.
    pub fn create(name: &str) -> Result<Self, Error> {
        let path = path_of(name)?;
        let doing = || format!("create network namespace {name}");
        prepare_directory()?;
        // 0444 as iproute2 makes it; the namespace will be mounted over this file.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .map_err(|source| Error::io(doing(), source))?;
        let mounted = on_own_thread(|| -> Result<(), Errno> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        });
        let opened = mounted
            .map_err(|source| Error::io(doing(), source))
            .and_then(|result| result.map_err(|errno| Error::io(doing(), errno)))
            .and_then(|()| Self::open(name));
        if opened.is_err() {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
            let _ = fs::remove_file(&path);
        }
        opened
    }

    /// Opens a namespace by its name.
    pub fn open(name: &str) -> Result<Self, Error> {
        let path = path_of(name)?;
        let file = File::open(&path)
            .map_err(|source| Error::io(format!("open network namespace {name}"), source))?;
        Ok(Self { file: file.into(), name: Some(name.to_owned()) })
    }

    /// Opens the calling thread's namespace.
    pub fn current() -> Result<Self, Error> {
        let file = File::open(OWN)
            .map_err(|source| Error::io("open the current network namespace (is /proc mounted?)", source))?;
        Ok(Self { file: file.into(), name: None })
    }

    /// Deletes a name, as `ip netns delete` does. The namespace itself ends with the last process or handle in it.
    pub fn delete(name: &str) -> Result<(), Error> {
        let path = path_of(name)?;
        let failed = |source| Error::io(format!("delete network namespace {name}"), source);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: the file is there but nothing is mounted on it (left over by a crash or a reboot).
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        fs::remove_file(&path).map_err(failed)
    }

    /// Names of all namespaces, sorted.
    pub fn list() -> Result<Vec<String>, Error> {
        let failed = |source| Error::io(format!("list network namespaces in {DIRECTORY}"), source);
        let entries = match fs::read_dir(DIRECTORY) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            // Names that are not text cannot be ours; `ip` would not print them usefully either.
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// The name it was opened by.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Device and inode, the same for every handle to one namespace.
    pub fn id(&self) -> Result<(u64, u64), Error> {
        let failed = |source| Error::io("identify a network namespace", source);
        let file = File::from(self.file.try_clone().map_err(failed)?);
        let metadata = file.metadata().map_err(failed)?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Runs a function on a thread in this namespace and waits for it. Sockets that it opens stay in the namespace;
    /// threads that it starts do too. A panic in it goes on in the caller.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let doing = || match &self.name {
            Some(name) => format!("enter network namespace {name}"),
            None => "enter a network namespace".into(),
        };
        on_own_thread(|| setns(&self.file, CloneFlags::CLONE_NEWNET).map(|()| work()))
            .map_err(|source| Error::io(doing(), source))?
            .map_err(|errno| Error::io(doing(), errno))
    }

    /// Makes a command start in this namespace, with a private mount namespace whose `/sys` shows this namespace's
    /// links, as `ip netns exec` does. What was mounted below `/sys` (bpffs, cgroups) is not visible to it, and files
    /// in `/etc/netns` are not put in place.
    pub fn enter_on_exec(&self, command: &mut Command) -> Result<(), Error> {
        let netns = self
            .file
            .try_clone()
            .map_err(|source| Error::io("keep a network namespace for a command", source))?;
        // SAFETY: the closure runs in the forked child before exec and must only do what is async-signal-safe. It
        // calls `enter_child`, which makes plain system calls with constant C strings: no allocation, no locks, no
        // unwinding. The descriptor is owned by the closure and thus open.
        unsafe {
            command.pre_exec(move || Ok(enter_child(netns.as_fd())?));
        }
        Ok(())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

/// Runs between fork and exec: system calls only.
fn enter_child(netns: BorrowedFd<'_>) -> Result<(), Errno> {
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is mounted here must not spread to the rest of the machine.
    mount(
        None::<&std::ffi::CStr>,
        c"/",
        None::<&std::ffi::CStr>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&std::ffi::CStr>,
    )?;
    // Fails when /sys is not mounted; then the next mount is all that is needed.
    let _ = umount2(c"/sys", MntFlags::MNT_DETACH);
    mount(
        Some(c"sysfs"),
        c"/sys",
        Some(c"sysfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&std::ffi::CStr>,
    )
}

/// Runs `work` on a new thread, whose namespaces may be changed, and passes a panic on. The error is that of starting
/// the thread.
fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let handle = thread::Builder::new().name("weir-netns".into()).spawn_scoped(scope, work)?;
        Ok(handle.join().unwrap_or_else(|payload| panic::resume_unwind(payload)))
    })
}

fn path_of(name: &str) -> Result<PathBuf, Error> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name == "." || name == ".." || name.contains(['/', '\0']) {
        "it is not a plain file name"
    } else if name.len() > 255 {
        "it is longer than 255 bytes"
    } else {
        return Ok(Path::new(DIRECTORY).join(name));
    };
    Err(Error::InvalidName { what: "network namespace name", name: name.to_owned(), reason })
}

/// Makes the directory a shared mount, so that names made or deleted in one mount namespace are so in all.
fn prepare_directory() -> Result<(), Error> {
    let failed = |source: io::Error| Error::io(format!("prepare {DIRECTORY}"), source);
    DirBuilder::new().recursive(true).mode(0o755).create(DIRECTORY).map_err(failed)?;
    // iproute2 takes the same lock around the same two mounts.
    let directory = File::open(DIRECTORY).map_err(failed)?;
    let _lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))?;
    let share =
        || mount(None::<&str>, DIRECTORY, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Ok(()) => Ok(()),
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            mount(Some(DIRECTORY), DIRECTORY, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .and_then(|()| share())
                .map_err(|errno| failed(errno.into()))
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_directory() {
        for bad in ["", ".", "..", "a/b", "/etc/passwd", "a\0b"] {
            assert!(path_of(bad).is_err(), "{bad:?}");
        }
        assert_eq!(path_of("lab-1.x").unwrap(), Path::new("/run/netns/lab-1.x"));
    }
}
