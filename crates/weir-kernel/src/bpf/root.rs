//! A root: the XDP program that calls the programs of an array, for machines where nobody else brings one.
//!
//! Owns: a directory in a bpffs with the array and a link for each interface. May not touch: what is in the array.
//! Invariant: every root of a directory calls the same array.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Attached, Error, Link, LoadOptions, RawMap, XdpRequest,
    director::{LINK_PREFIX, link_pin},
    load,
    state_dir::is_bpffs,
    sys, xdp,
};

/// Name of the object, and the program in it.
const OBJECT: &str = "root";
/// The program for an MTU beyond one buffer.
const FRAGS: &str = "root_frags";
/// Name of the array in the object.
const ARRAY: &str = "WEIR_ROOT";
/// A directory with a root in it.
#[derive(Debug)]
pub struct Root {
    dir: PathBuf,
}

impl Root {
    /// Positions of the array.
    pub const POSITIONS: u32 = 8;

    /// The root in `dir`, which need not exist yet; its parent is in a bpffs.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where the array is pinned.
    pub fn array(&self) -> PathBuf {
        self.dir.join("programs")
    }

    fn link_pin(&self, interface: &str) -> PathBuf {
        self.dir.join(link_pin(interface))
    }

    /// Attaches the root to an interface. The first one makes the array; all of a directory share it.
    ///
    /// # Errors
    /// As [`super::Program::attach_xdp`]; what was made for it is gone again then.
    pub fn attach(&self, ifindex: u32, request: XdpRequest) -> Result<Attached, Error> {
        let interface = xdp::find_name(ifindex)
            .ok_or_else(|| Error::NoInterface { interface: format!("with index {ifindex}") })?;
        let made = !self.dir.exists();
        let place = if made { self.dir.parent().unwrap_or(&self.dir) } else { &self.dir };
        if !is_bpffs(place)? {
            return Err(Error::NotBpffs { path: self.dir.clone() });
        }
        if made {
            fs::create_dir(&self.dir).map_err(Error::doing(format!("create {}", self.dir.display())))?;
        }
        let attached = self.attach_best(ifindex, request, &self.link_pin(&interface));
        if attached.is_err() && made {
            // The first error is the one to tell.
            fs::remove_dir(&self.dir).ok();
        }
        attached
    }

    fn attach_best(&self, ifindex: u32, request: XdpRequest, link: &Path) -> Result<Attached, Error> {
        let native = if request == XdpRequest::Auto { XdpRequest::Native } else { request };
        let refused = match self.attach_one(OBJECT, ifindex, native, link) {
            Ok(attached) => return Ok(attached),
            Err(error) => error,
        };
        // Kernels before 5.18 know no such programs.
        match self.attach_one(FRAGS, ifindex, native, link) {
            Ok(attached) => Ok(Attached { frags: true, ..attached }),
            Err(_) if request == XdpRequest::Auto => self.attach_one(OBJECT, ifindex, request, link),
            Err(_) => Err(refused),
        }
    }

    /// Each time with an object of its own: an array that one of the programs has used takes the other no more.
    fn attach_one(
        &self,
        program: &str,
        ifindex: u32,
        request: XdpRequest,
        link: &Path,
    ) -> Result<Attached, Error> {
        let pin = self.array();
        let there = pin.exists();
        let pins = if there { vec![(ARRAY.to_owned(), pin.clone())] } else { Vec::new() };
        if there {
            self.check(&RawMap::open(&pin)?)?;
        }
        let mut object = load(OBJECT, &LoadOptions { pins, ..LoadOptions::default() })?;
        let (link, attached) = object.program(program)?.attach_xdp(ifindex, request, Some(link))?;
        if !there && let Err(error) = object.map(ARRAY)?.pin(&pin) {
            link.detach()?;
            return Err(error);
        }
        Ok(attached)
    }

    fn check(&self, array: &RawMap) -> Result<(), Error> {
        let info = array.info();
        if info.map_type == sys::MAP_TYPE_PROG_ARRAY && info.max_entries == Self::POSITIONS {
            return Ok(());
        }
        let why = format!("it is no program array of {} positions", Self::POSITIONS);
        Err(Error::BadPin { map: array.name().to_owned(), why, dir: self.dir.clone() })
    }

    /// Detaches from every interface and removes the directory.
    pub fn remove(self) -> Result<(), Error> {
        let failed = || Error::doing(format!("list {}", self.dir.display()));
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK_PREFIX)) {
                Link::open(&path)?.detach()?;
            }
        }
        let array = self.array();
        match fs::remove_file(&array) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::doing(format!("remove {}", array.display()))(error));
            }
            _ => {}
        }
        fs::remove_dir(&self.dir).map_err(Error::doing(format!("remove {}", self.dir.display())))
    }
}
