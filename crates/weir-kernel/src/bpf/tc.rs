//! Attaching tc programs: tcx where the kernel has it (6.6), a clsact filter before.
//!
//! Owns: the choice between the two, names of filters. May not touch: XDP.
//! Invariant: a filter of weir's is found again by its program's name, so that a later process can take it away.

use std::{fmt, io, mem, os::fd::AsFd as _, path::Path};

use aya::programs::{
    Program as AyaProgram, SchedClassifier, TcAttachType,
    tc::{NlOptions, TcAttachOptions, TcError, qdisc_add_clsact, qdisc_detach_program},
};

use super::{
    Error, Link, Loaded, ProgramKind, advice, sys,
    xdp::{find_name, interface_name},
};

/// Which packets of an interface a tc program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcDirection {
    /// Coming in.
    Ingress,
    /// Going out.
    Egress,
}

/// How a tc program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TcMethod {
    /// tcx where there is such a thing, else a filter.
    #[default]
    Auto,
    /// A tcx link (Linux 6.6).
    Tcx,
    /// A clsact qdisc and a filter named like the program.
    Filter,
}

/// An attached tc program.
#[derive(Debug)]
pub enum TcAttachment {
    /// A tcx link: dropped, it detaches unless pinned.
    Tcx(Link),
    /// A filter: it stays until [`detach_filter`] or [`TcAttachment::detach`].
    Filter {
        /// The interface.
        ifindex: u32,
        /// The direction.
        direction: TcDirection,
        /// The program's name, by which the filter is found.
        program: String,
    },
}

impl TcAttachment {
    /// Detaches now. The clsact qdisc stays: others may have filters there.
    pub fn detach(self) -> Result<(), Error> {
        match self {
            Self::Tcx(link) => link.detach(),
            Self::Filter { ifindex, direction, program } => {
                detach_filter(ifindex, direction, &program).map(drop)
            }
        }
    }
}

impl TcDirection {
    fn tcx(self) -> sys::AttachType {
        match self {
            Self::Ingress => sys::AttachType::TcxIngress,
            Self::Egress => sys::AttachType::TcxEgress,
        }
    }

    fn filter(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

impl fmt::Display for TcDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl Loaded {
    /// Attaches the tc program `name`.
    ///
    /// With tcx and `pin` the link is pinned there; a link already pinned there on the same interface gets the new
    /// program between one packet and the next. A filter needs no pin; one of the same program name is replaced (there
    /// is a moment without it).
    pub fn attach_tc(
        &mut self,
        name: &str,
        ifindex: u32,
        direction: TcDirection,
        method: TcMethod,
        pin: Option<&Path>,
    ) -> Result<TcAttachment, Error> {
        let program = self.program(name)?;
        if program.kind() != ProgramKind::Tc {
            return Err(self.missing("tc program", name));
        }
        if method != TcMethod::Filter {
            if let Some(pin) = pin.filter(|pin| pin.exists()) {
                let link = Link::open(pin)?;
                if link.info()?.ifindex == ifindex && link.update(program.as_fd()).is_ok() {
                    return Ok(TcAttachment::Tcx(link));
                }
                link.detach()?;
            }
            match sys::link_create(program.as_fd(), ifindex, direction.tcx(), 0) {
                Ok(fd) => {
                    let mut link = Link::new(fd);
                    pin.map_or(Ok(()), |pin| link.pin(pin))?;
                    return Ok(TcAttachment::Tcx(link));
                }
                // Before 6.6 the attach type is an unknown number.
                Err(error) if method == TcMethod::Auto && error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(refused(ifindex, format!("tcx {direction}"), &error)),
            }
        }
        self.attach_filter(name, ifindex, direction)
    }

    fn attach_filter(
        &mut self,
        name: &str,
        ifindex: u32,
        direction: TcDirection,
    ) -> Result<TcAttachment, Error> {
        let failed = |error: &io::Error| refused(ifindex, format!("tc filter {direction}"), error);
        let interface = interface_name(ifindex);
        match qdisc_add_clsact(&interface).map_err(into_io) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&error)),
            _ => {}
        }
        detach_filter(ifindex, direction, name)?;
        let Some(AyaProgram::SchedClassifier(classifier)) = self.ebpf_program(name) else {
            return Err(self.missing("tc program", name));
        };
        keep_filter(classifier, &interface, direction).map_err(|error| failed(&error))?;
        Ok(TcAttachment::Filter { ifindex, direction, program: name.to_owned() })
    }
}

fn keep_filter(classifier: &mut SchedClassifier, interface: &str, direction: TcDirection) -> io::Result<()> {
    let options = TcAttachOptions::Netlink(NlOptions::default());
    let id =
        classifier.attach_with_options(interface, direction.filter(), options).map_err(
            |error| match error {
                aya::programs::ProgramError::TcError(error) => into_io(error),
                other => io::Error::other(other),
            },
        )?;
    // The loader would take the filter away with itself; weir finds it by name.
    mem::forget(classifier.take_link(id).map_err(io::Error::other)?);
    Ok(())
}

/// Takes away the filters of the program `name`; whether there were any.
pub fn detach_filter(ifindex: u32, direction: TcDirection, name: &str) -> Result<bool, Error> {
    match qdisc_detach_program(&interface_name(ifindex), direction.filter(), name).map_err(into_io) {
        Ok(()) => Ok(true),
        // No clsact, no interface or no such filter: all the same here.
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(refused(ifindex, format!("tc filter {direction}, to take it away"), &error)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL))
        || error.kind() == io::ErrorKind::NotFound
}

fn refused(ifindex: u32, mode: String, error: &io::Error) -> Error {
    if find_name(ifindex).is_none() {
        return Error::NoInterface { interface: format!("with index {ifindex}") };
    }
    Error::Attach {
        interface: interface_name(ifindex),
        mode,
        why: error.to_string(),
        advice: advice(error).to_owned(),
    }
}

/// The system's error behind the loader's.
fn into_io(error: TcError) -> io::Error {
    if let TcError::IoError(error) = error {
        return error;
    }
    if matches!(error, TcError::AlreadyAttached) {
        return io::ErrorKind::AlreadyExists.into();
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(code) = inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(code);
        }
        cause = inner.source();
    }
    io::Error::other(error)
}
