//! Being the only program of a virtual machine.
//!
//! Owns: what process 1 owes its machine: the file systems that reading about CPUs and kernels needs, and an end.
//! May not touch: what is checked. Invariant: the machine ends, whatever happened before.

use std::{convert::Infallible, fs, io};

use nix::{
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        termios::tcdrain,
    },
};

/// Whether this process was started by the kernel.
pub(crate) fn is_guest() -> bool {
    std::process::id() == 1
}

/// Mounts `/proc` and `/sys`; a failure is only reported, for what misses them to fail with its own reason.
pub(crate) fn prepare() {
    for (kind, path) in [("proc", "/proc"), ("sysfs", "/sys")] {
        // It may be in the image already.
        let _ = fs::create_dir(path);
        if let Err(error) = mount(Some(kind), path, Some(kind), MsFlags::empty(), None::<&str>) {
            eprintln!("cannot mount {path}: {error}");
        }
    }
}

/// Switches the machine off. Should that be refused, the end of process 1 is the kernel's end too.
pub(crate) fn power_off() {
    // What is still on its way to the serial line would be lost.
    if let Err(error) = tcdrain(io::stdout()) {
        eprintln!("cannot wait for the console: {error}");
    }
    let Err::<Infallible, _>(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("cannot switch the machine off: {error}");
}
