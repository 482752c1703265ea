//! Links: what keeps a program attached.
//!
//! Owns: one bpf_link descriptor, its pin. May not touch: which program, which mode.
//! Invariant: dropping an unpinned [`Link`] detaches; dropping a pinned one does not.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{Error, sys};

/// An attachment. Dropped, it detaches, unless it is pinned.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    pin: Option<PathBuf>,
}

/// What the kernel says about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The kernel's id of the link.
    pub id: u32,
    /// The kernel's id of the program behind it.
    pub program_id: u32,
    /// The interface in the network namespace it was attached in; 0 when the device is gone.
    pub ifindex: u32,
}

impl Link {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, pin: None }
    }

    /// Opens a pinned link.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = || Error::doing(format!("open the pinned link {}", path.display()));
        let fd = sys::open_pin(path).map_err(failed())?;
        sys::link_info(fd.as_fd()).map_err(failed())?;
        Ok(Self { fd, pin: Some(path.to_owned()) })
    }

    /// Pins the link at `path` in a bpffs, so that it outlives this process.
    pub fn pin(&mut self, path: &Path) -> Result<(), Error> {
        sys::pin(self.fd.as_fd(), path).map_err(Error::doing(format!("pin a link at {}", path.display())))?;
        self.pin = Some(path.to_owned());
        Ok(())
    }

    /// Moves the pin within its bpffs.
    pub(crate) fn rename_pin(&mut self, to: &Path) -> Result<(), Error> {
        let Some(from) = &self.pin else { return self.pin(to) };
        fs::rename(from, to).map_err(Error::doing(format!(
            "rename {} to {}",
            from.display(),
            to.display()
        )))?;
        self.pin = Some(to.to_owned());
        Ok(())
    }

    /// Where the link is pinned.
    pub fn pinned_at(&self) -> Option<&Path> {
        self.pin.as_deref()
    }

    /// What the kernel says about it.
    pub fn info(&self) -> Result<LinkInfo, Error> {
        let info = sys::link_info(self.fd.as_fd()).map_err(Error::doing("ask about a link"))?;
        Ok(LinkInfo { id: info.id, program_id: info.prog_id, ifindex: info.ifindex })
    }

    /// Puts another program of the same type in place, between one packet and the next.
    pub(crate) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        sys::link_update(self.fd.as_fd(), program)
    }

    /// Detaches now and removes the pin. When this returns no new packet reaches the program.
    pub fn detach(self) -> Result<(), Error> {
        if let Some(pin) = &self.pin {
            match fs::remove_file(pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::doing(format!("remove {}", pin.display()))(error));
                }
                _ => {}
            }
        }
        match sys::link_detach(self.fd.as_fd()) {
            // ENOLINK: the device has gone, and the attachment with it.
            Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => {
                Err(Error::doing("detach a program")(error))
            }
            _ => Ok(()),
        }
    }
}
