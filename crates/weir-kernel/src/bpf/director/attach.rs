//! Where the director is attached.
//!
//! Owns: one pinned link for each interface, and which of the director's two programs is in it. May not touch: tables.
//! Invariant: an interface that stays attached has a program at every moment of an exchange.
//!
//! Drivers whose MTU goes beyond one buffer take no program but one that is marked `frags`; that one asks the kernel for
//! each packet's length, so it is the second choice. Generic mode, which hands over packets in one piece, is the third.

use super::{
    super::{Attached, Error, Link, Program, XdpMode, XdpRequest, query, xdp},
    Director, pins,
};
use std::path::Path;

/// One of the director's attachments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedLink {
    /// The interface's name when it was attached.
    pub interface: String,
    /// Its index; 0 when it has gone since.
    pub ifindex: u32,
    /// The kernel's id of the program there; another than [`Director::program_info`]'s until it is attached anew.
    pub program_id: u32,
}

impl Director {
    /// Attaches the program to an interface of this network namespace.
    ///
    /// Where an earlier run is attached already in a mode that `request` allows, the program is exchanged between one
    /// packet and the next; in another mode the link is replaced, with a moment without any.
    ///
    /// # Errors
    /// [`Error::NoInterface`]; [`Error::Attach`] with the driver's reason. Nothing is attached to it then.
    pub fn attach(&mut self, ifindex: u32, request: XdpRequest) -> Result<Attached, Error> {
        let name = xdp::find_name(ifindex)
            .ok_or_else(|| Error::NoInterface { interface: format!("with index {ifindex}") })?;
        let pin = self.dir.join(pins::link_pin(&name));
        // A link of that name may belong to a device that has gone; a link of that device may have another name.
        if let Some(link) = self.links.remove(&name)
            && link.info()?.ifindex != ifindex
        {
            link.detach()?;
        }
        if let Some(old) = self.name_of(ifindex)?
            && let Some(mut link) = self.links.remove(&old)
        {
            link.rename_pin(&pin)?;
        }
        let (link, attached) = self.attach_best(ifindex, request, &pin)?;
        self.links.insert(name, link);
        Ok(attached)
    }

    fn attach_best(&self, ifindex: u32, request: XdpRequest, pin: &Path) -> Result<(Link, Attached), Error> {
        let plain = |request| self.program.attach_xdp(ifindex, request, Some(pin));
        let frags = |frags: &Program| {
            let (link, attached) = frags.attach_xdp(ifindex, XdpRequest::Native, Some(pin))?;
            Ok((link, Attached { frags: true, ..attached }))
        };
        let Some(program) = self.frags.as_ref().filter(|_| request != XdpRequest::Generic) else {
            return plain(request);
        };
        match query(ifindex)? {
            // Where the second choice is in force already, the first would only be refused, with a moment without any.
            Some(there) if there.program_name == pins::FRAGS_PROGRAM && pin.exists() => {
                return frags(program);
            }
            // What is in generic mode already is not taken off for a try.
            Some(there) if there.mode == Some(XdpMode::Generic) && request == XdpRequest::Auto => {
                return plain(request);
            }
            _ => {}
        }
        let refused = match plain(XdpRequest::Native) {
            Err(error @ Error::Attach { .. }) => error,
            other => return other,
        };
        match frags(program) {
            Ok(attached) => Ok(attached),
            Err(_) if request == XdpRequest::Auto => plain(request),
            Err(_) => Err(refused),
        }
    }

    fn name_of(&self, ifindex: u32) -> Result<Option<String>, Error> {
        for (name, link) in &self.links {
            if link.info()?.ifindex == ifindex {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    /// All attachments, those of an earlier run too until they are attached anew or detached.
    pub fn attached(&self) -> Result<Vec<AttachedLink>, Error> {
        self.links
            .iter()
            .map(|(interface, link)| {
                let info = link.info()?;
                let interface = interface.clone();
                Ok(AttachedLink { interface, ifindex: info.ifindex, program_id: info.program_id })
            })
            .collect()
    }

    /// Detaches from the interface; whether it was attached.
    pub fn detach(&mut self, interface: &str) -> Result<bool, Error> {
        match self.links.remove(interface) {
            Some(link) => link.detach().map(|()| true),
            None => Ok(false),
        }
    }

    /// Detaches from all interfaces, as far as it can be done; the first error.
    pub fn detach_all(&mut self) -> Result<(), Error> {
        let mut outcome = Ok(());
        while let Some((_, link)) = self.links.pop_first() {
            outcome = outcome.and(link.detach());
        }
        outcome
    }
}
