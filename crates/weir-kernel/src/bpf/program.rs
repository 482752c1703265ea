//! Loading objects, and programs once loaded.
//!
//! Owns: the loader (aya) and what is asked of it; open programs. May not touch: what a program does.
//! Invariant: no type of the loader leaves this module's public items.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Once,
};

use aya::{Ebpf, EbpfLoader, maps::Map, programs::Program as AyaProgram};

use super::{
    Attached, Error, Link, RawMap, XdpRequest,
    error::{from_loader, from_program},
    objects, sys, xdp,
};

/// What to change in an object before it is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Other sizes for maps: name, elements.
    pub max_entries: Vec<(String, u32)>,
    /// Other values for constants: name, bytes of exactly its size.
    pub globals: Vec<(String, Vec<u8>)>,
    /// Maps to use instead of making them: name, pin. Made and pinned there where nothing is pinned yet. The caller has
    /// compared what is pinned with what the object wants.
    pub pins: Vec<(String, PathBuf)>,
}

/// A loaded object: its maps exist, its programs are loaded when first asked for.
#[derive(Debug)]
pub struct Loaded {
    name: String,
    ebpf: Ebpf,
}

/// Loads the embedded object `name`.
pub fn load(name: &str, options: &LoadOptions) -> Result<Loaded, Error> {
    raise_memlock();
    let bytes = objects::get(name)?;
    let mut loader = EbpfLoader::new();
    for (map, size) in &options.max_entries {
        loader.map_max_entries(map, *size);
    }
    for (global, value) in &options.globals {
        loader.override_global(global, value.as_slice(), true);
    }
    for (map, path) in &options.pins {
        loader.map_pin_path(map, path.as_path());
    }
    let ebpf = loader.load(bytes).map_err(|error| from_loader(name, &error))?;
    Ok(Loaded { name: name.to_owned(), ebpf })
}

impl Loaded {
    /// The program `name`, loaded into the kernel. It may be an XDP or a tc program.
    ///
    /// # Errors
    /// [`Error::Verifier`] where the kernel refuses it.
    pub fn program(&mut self, name: &str) -> Result<Program, Error> {
        let Some(program) = self.ebpf.program_mut(name) else {
            return Err(self.missing("program", name));
        };
        let kind = match program {
            AyaProgram::Xdp(_) => ProgramKind::Xdp,
            AyaProgram::SchedClassifier(_) => ProgramKind::Tc,
            _ => return Err(self.missing("XDP or tc program", name)),
        };
        if program.fd().is_err() {
            let loaded = match program {
                AyaProgram::Xdp(xdp) => xdp.load(),
                AyaProgram::SchedClassifier(tc) => tc.load(),
                _ => Ok(()),
            };
            loaded.map_err(|error| from_program(&self.name, name, error))?;
        }
        let fd = program
            .fd()
            .map_err(io::Error::other)
            .and_then(|fd| fd.as_fd().try_clone_to_owned())
            .map_err(Error::doing(format!("keep the program {name}")))?;
        Ok(Program { fd, name: name.to_owned(), kind })
    }

    /// The names of all programs.
    pub fn program_names(&self) -> Vec<String> {
        self.ebpf.programs().map(|(name, _)| name.to_owned()).collect()
    }

    /// The map `name`.
    pub fn map(&self, name: &str) -> Result<RawMap, Error> {
        let map = self.ebpf.map(name).ok_or_else(|| self.missing("map", name))?;
        duplicate(map)
            .and_then(|fd| RawMap::from_fd(fd, name))
            .map_err(Error::doing(format!("keep the map {name}")))
    }

    /// The names of all maps, those of the compiler's sections (`.rodata` …) left out.
    pub fn map_names(&self) -> Vec<String> {
        self.ebpf.maps().map(|(name, _)| name.to_owned()).filter(|name| !name.starts_with('.')).collect()
    }

    /// Pins every map by its name in `dir`, which is made where it is missing.
    pub fn pin_maps(&self, dir: &Path) -> Result<(), Error> {
        fs::create_dir_all(dir).map_err(Error::doing(format!("create {}", dir.display())))?;
        self.map_names().iter().try_for_each(|name| self.map(name)?.pin(&dir.join(name)))
    }

    pub(super) fn ebpf_program(&mut self, name: &str) -> Option<&mut AyaProgram> {
        self.ebpf.program_mut(name)
    }

    pub(super) fn missing(&self, kind: &'static str, name: &str) -> Error {
        Error::NoSuchItem { object: self.name.clone(), kind, name: name.to_owned() }
    }
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    /// XDP.
    Xdp,
    /// A tc classifier in direct-action mode.
    Tc,
}

/// A program in the kernel. It stays there as long as this, a pin or a link holds it.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    name: String,
    kind: ProgramKind,
}

impl Program {
    /// Its name in the object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind.
    pub fn kind(&self) -> ProgramKind {
        self.kind
    }

    /// What the kernel says about it.
    pub fn info(&self) -> Result<ProgramInfo, Error> {
        info_of(&self.fd).map_err(Error::doing(format!("ask about program {}", self.name)))
    }

    /// Pins the program.
    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        sys::pin(self.fd.as_fd(), path).map_err(Error::doing(format!(
            "pin program {} at {}",
            self.name,
            path.display()
        )))
    }

    /// Attaches an XDP program to an interface of this network namespace and, with `pin`, pins the link there.
    ///
    /// A link already pinned there, on the same interface and in a mode `request` allows, gets the new program between
    /// one packet and the next. Otherwise it is replaced.
    ///
    /// # Errors
    /// [`Error::NoInterface`]; [`Error::Attach`] with the driver's reason where it gives one.
    pub fn attach_xdp(
        &self,
        ifindex: u32,
        request: XdpRequest,
        pin: Option<&Path>,
    ) -> Result<(Link, Attached), Error> {
        if let Some(path) = pin.filter(|path| path.exists()) {
            let link = Link::open(path)?;
            if let Some(attached) = xdp::exchange(&link, self.fd.as_fd(), ifindex, request)? {
                return Ok((link, attached));
            }
            link.detach()?;
        }
        let (fd, attached) = xdp::create(self.fd.as_fd(), ifindex, request)?;
        let mut link = Link::new(fd);
        if let Some(path) = pin {
            link.pin(path)?;
        }
        Ok((link, attached))
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the kernel says about a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// The kernel's id.
    pub id: u32,
    /// Hash of the instructions.
    pub tag: u64,
    /// The name, as far as the kernel keeps it (15 bytes).
    pub name: String,
    /// Instructions the verifier walked; `None` before Linux 5.16.
    pub verified_insns: Option<u32>,
    /// Bytes of BPF instructions.
    pub xlated_bytes: u32,
    /// Bytes of machine code; 0 when the program is interpreted.
    pub jited_bytes: u32,
}

impl ProgramInfo {
    /// Whether the program runs as machine code. If not it is several times slower: see [`jit_enabled`].
    pub fn is_jited(&self) -> bool {
        self.jited_bytes != 0
    }
}

pub(crate) fn info_of(fd: &OwnedFd) -> io::Result<ProgramInfo> {
    let info = sys::prog_info(fd.as_fd())?;
    let end = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    Ok(ProgramInfo {
        id: info.id,
        tag: u64::from_be_bytes(info.tag),
        name: String::from_utf8_lossy(&info.name[..end]).into_owned(),
        verified_insns: (info.verified_insns != 0).then_some(info.verified_insns),
        xlated_bytes: info.xlated_len,
        jited_bytes: info.jited_len,
    })
}

/// Whether the kernel compiles BPF programs (`net.core.bpf_jit_enable`); `None` where it does not say.
pub fn jit_enabled() -> Option<bool> {
    let text = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok()?;
    Some(text.trim() != "0")
}

/// Attaches the program that passes every packet, for the peer of a veth whose other end answers with XDP_TX: without
/// one there the kernel drops such packets silently. Native mode; held by the link, or by `pin`.
pub fn attach_pass(ifindex: u32, pin: Option<&Path>) -> Result<Link, Error> {
    let mut object = load("pass", &LoadOptions::default())?;
    let refused = match object.program("pass")?.attach_xdp(ifindex, XdpRequest::Native, pin) {
        Ok((link, _)) => return Ok(link),
        Err(error) => error,
    };
    // For an MTU beyond one buffer. Kernels before 5.18 know no such programs.
    match object.program("pass_frags").and_then(|frags| frags.attach_xdp(ifindex, XdpRequest::Native, pin)) {
        Ok((link, _)) => Ok(link),
        Err(_) => Err(refused),
    }
}

/// Before Linux 5.11 maps counted against RLIMIT_MEMLOCK; since then a refusal does not matter.
fn raise_memlock() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
        if let Err(errno) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
            tracing::debug!(%errno, "RLIMIT_MEMLOCK stays as it is; Linux 5.11 and newer do not need it raised");
        }
    });
}

fn duplicate(map: &Map) -> io::Result<OwnedFd> {
    let data = match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::BloomFilter(data)
        | Map::CpuMap(data)
        | Map::DevMap(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::HashOfMaps(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::PerfEventArray(data)
        | Map::ProgramArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::Stack(data)
        | Map::Unsupported(data)
        | Map::XskMap(data) => data,
        other => return Err(io::Error::other(format!("weir has no use for {other:?}"))),
    };
    data.fd().as_fd().try_clone_to_owned()
}
