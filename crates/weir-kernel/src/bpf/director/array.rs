//! Where the director is called by a root program of somebody else's, instead of being attached.
//!
//! Owns: one position of a pinned program array, the second pin of that array, the pin of the program in it. May not
//! touch: tables, links, other positions. Invariant: what is replaced or taken out of the position is a program whose pin
//! is in the state directory, or nothing; a foreign one stays.
//!
//! The kernel lets an array hold programs of one kind only: of one type, all compiled or none, all for packets in several
//! buffers (`frags`) or none. The first program to use the array decides, so the root's kind is found by trying both.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use super::{
    super::{Error, LoadOptions, Program, ProgramInfo, RawMap, load, program, sys},
    Director, PROGRAM, Sizes, pins,
};

/// A position of a pinned program array that a root program calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the array is pinned.
    pub array: PathBuf,
    /// The position.
    pub position: u32,
    /// Where in the array packets go on that the director passes; `None`: to the kernel.
    pub next: Option<u32>,
}

impl Place {
    fn refused(&self, why: impl Into<String>, advice: impl Into<String>) -> Error {
        Error::Place {
            array: self.array.clone(),
            position: self.position,
            why: why.into(),
            advice: advice.into(),
        }
    }

    /// Opens the array, if it is one and has the position.
    fn open(&self) -> Result<RawMap, Error> {
        let fd = sys::open_pin(&self.array).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => self.refused(
                "nothing is pinned there",
                "start the root program first, and give the path at which its program array is pinned",
            ),
            _ => Error::doing(format!("open the program array {}", self.array.display()))(error),
        })?;
        let map = RawMap::from_fd(fd, &self.array.display().to_string()).map_err(|error| {
            self.refused(error.to_string(), "give the path at which the root's program array is pinned")
        })?;
        let info = map.info();
        if (info.map_type, info.key_size, info.value_size) != (sys::MAP_TYPE_PROG_ARRAY, 4, 4) {
            let why = format!("it is no program array but a map of type {}", info.map_type);
            return Err(self.refused(why, "give the path at which the root's program array is pinned"));
        }
        for position in [Some(self.position), self.next].into_iter().flatten() {
            if position >= info.max_entries {
                let why = format!("it has no position {position}, only 0 to {}", info.max_entries - 1);
                return Err(self.refused(why, "choose a position that the root program calls"));
            }
        }
        Ok(map)
    }
}

/// A place as it was taken, by this process or an earlier one.
#[derive(Debug)]
pub(super) struct Seat {
    array: RawMap,
    position: u32,
}

impl Seat {
    /// The kernel's id of the program there.
    fn occupant(&self) -> Result<Option<u32>, Error> {
        occupant(&self.array, self.position)
    }

    /// The place in words.
    pub(super) fn describe(&self) -> String {
        format!("position {} of a program array", self.position)
    }
}

fn occupant(array: &RawMap, position: u32) -> Result<Option<u32>, Error> {
    let id = array.get(&position.to_ne_bytes())?;
    Ok(id.and_then(|id| id.first_chunk().map(|id| u32::from_ne_bytes(*id))))
}

/// The place an earlier run has taken and still holds.
pub(super) fn seat(dir: &Path) -> Result<Option<Seat>, Error> {
    let failed = || Error::doing(format!("list {}", dir.display()));
    let own = own_programs(dir);
    for entry in fs::read_dir(dir).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        let Some(position) = name.to_str().and_then(pins::position_of) else { continue };
        let bad = |why: String| Error::BadPin {
            map: name.to_string_lossy().into_owned(),
            why,
            dir: dir.to_owned(),
        };
        let array = RawMap::open(&dir.join(&name)).map_err(|error| bad(error.cause()))?;
        if array.info().map_type != sys::MAP_TYPE_PROG_ARRAY {
            return Err(bad("it is no program array".to_owned()));
        }
        let seat = Seat { array, position };
        if seat.occupant()?.is_some_and(|id| own.contains(&id)) {
            return Ok(Some(seat));
        }
    }
    Ok(None)
}

/// Ids of the programs that are, or are about to be, in the place. Two of them when an exchange was cut short.
fn own_programs(dir: &Path) -> Vec<u32> {
    let id = |pin| Some(program::info_of(&sys::open_pin(&dir.join(pin)).ok()?).ok()?.id);
    [pins::PLACED_PIN, pins::NEW_PLACED_PIN].into_iter().filter_map(id).collect()
}

impl Director {
    /// Puts the program into a place of somebody's program array; what the kernel says about the program there.
    ///
    /// Where an earlier run's program is, it is exchanged between one packet and the next. A place taken before that is
    /// another one is given up first.
    ///
    /// # Errors
    /// [`Error::Place`], with nothing changed there, where it is no such place, another program is in it or the kernel
    /// takes no director beside the programs it has.
    pub fn enter(&mut self, place: &Place) -> Result<ProgramInfo, Error> {
        let array = place.open()?;
        if let Some(id) = occupant(&array, place.position)?
            && !own_programs(&self.dir).contains(&id)
        {
            return Err(foreign(place, id));
        }
        let same = |seat: &Seat| seat.position == place.position && seat.array.info().id == array.info().id;
        if !self.seat.as_ref().is_some_and(same) {
            self.leave()?;
            // Of a place that was lost.
            pins::remove_place(&self.dir)?;
            array.pin(&self.dir.join(pins::place_pin(place.position)))?;
        }
        match self.put(&array, place) {
            Ok(info) => {
                self.seat = Some(Seat { array, position: place.position });
                Ok(info)
            }
            Err(error) => {
                if self.seat.is_none() {
                    // The first error is the one to tell.
                    if let Err(error) = pins::remove_place(&self.dir) {
                        tracing::warn!(%error, "cannot remove the pins of a place that was not to be had");
                    }
                }
                Err(error)
            }
        }
    }

    /// The plain program, or the one for packets in several buffers where the root is for those.
    fn put(&self, array: &RawMap, place: &Place) -> Result<ProgramInfo, Error> {
        let Some(next) = place.next else {
            match exchange(&self.dir, &self.program, array, place.position) {
                Err(error) if is_invalid(&error) => {}
                other => return other,
            }
            let frags = self.frags.as_ref().map(|frags| exchange(&self.dir, frags, array, place.position));
            return match frags {
                Some(Ok(info)) => Ok(info),
                _ => Err(other_kind(array, place, &self.program).unwrap_or_else(|| {
                    place.refused(
                        "the kernel takes neither the plain program nor the one for an MTU beyond one buffer beside \
                         those there",
                        "load the root for attachment type BPF_XDP, as libbpf does for the section `xdp`; \
                         one marked `frags` takes Linux 5.18",
                    )
                })),
            };
        };
        let pin = |name: &str, pin: &str| (name.to_owned(), self.dir.join(pin));
        let tables = pins::tables(&Sizes::default());
        let mut object = load(
            PROGRAM,
            &LoadOptions {
                // The tables are there already, whatever their sizes.
                max_entries: Vec::new(),
                globals: vec![(pins::NEXT_POSITION.to_owned(), next.to_ne_bytes().to_vec())],
                pins: (tables.iter().map(|table| pin(table.name, table.name)))
                    .chain([pin(pins::NEXT_ARRAY, &pins::place_pin(place.position))])
                    .collect(),
            },
        )?;
        // The kernel compares kinds when it loads a program that refers to the array.
        let mut enter = |name| exchange(&self.dir, &object.program(name)?, array, place.position);
        enter(pins::NEXT_PROGRAM).or_else(|plain| {
            enter(pins::NEXT_FRAGS_PROGRAM)
                .map_err(|_| other_kind(array, place, &self.program).unwrap_or(plain))
        })
    }

    /// What the kernel says of the program in the place; `None` where none was taken or it has been lost.
    pub fn placed(&self) -> Result<Option<u32>, Error> {
        let Some(seat) = &self.seat else { return Ok(None) };
        Ok(seat.occupant()?.filter(|id| own_programs(&self.dir).contains(id)))
    }

    /// Whether the root still calls the director at `place`.
    ///
    /// # Errors
    /// [`Error::Place`] where somebody has emptied the place, put another program there or pinned another array.
    pub fn check_place(&self, place: &Place) -> Result<(), Error> {
        const AGAIN: &str = "start weir again to enter it";
        let Some(seat) = &self.seat else { return Err(place.refused("weir is not in it", AGAIN)) };
        if self.placed()?.is_none() {
            return Err(match seat.occupant()? {
                Some(id) => foreign(place, id),
                None => place.refused("somebody has taken the director's program out of it", AGAIN),
            });
        }
        // A pin that cannot be opened takes nothing away: the array lives as long as weir is in it.
        if place.open().is_ok_and(|array| array.info().id != seat.array.info().id) {
            return Err(place.refused("another array is pinned there than the one weir is in", AGAIN));
        }
        Ok(())
    }

    /// Takes the program out of its place, unless another is there by now; whether it was in one.
    pub fn leave(&mut self) -> Result<bool, Error> {
        let Some(seat) = &self.seat else { return Ok(false) };
        let held = self.placed()?.is_some();
        if held {
            seat.array.delete(&seat.position.to_ne_bytes())?;
        } else {
            tracing::warn!("the director's program is not in {} any more", seat.describe());
        }
        pins::remove_place(&self.dir)?;
        self.seat = None;
        Ok(held)
    }
}

/// Puts `program` into the position. It is pinned before it is there, so that it is known for weir's own at any moment.
fn exchange(dir: &Path, program: &Program, array: &RawMap, position: u32) -> Result<ProgramInfo, Error> {
    let (new, pin) = (dir.join(pins::NEW_PLACED_PIN), dir.join(pins::PLACED_PIN));
    let key = position.to_ne_bytes();
    // An exchange that was cut short may have left the program that is in force as the new one.
    if occupant(array, position)?.is_some_and(|id| pinned_id(&new) == Some(id)) {
        rename(&new, &pin)?;
    }
    pins::unlink(&new)?;
    program.pin(&new)?;
    let fd = program.as_fd().as_raw_fd();
    if let Err(error) = array.set(&key, &fd.to_ne_bytes(), 0) {
        pins::unlink(&new)?;
        return Err(error);
    }
    rename(&new, &pin)?;
    program.info()
}

fn pinned_id(path: &Path) -> Option<u32> {
    Some(program::info_of(&sys::open_pin(path).ok()?).ok()?.id)
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::doing(format!("rename {} to {}", from.display(), to.display())))
}

fn is_invalid(error: &Error) -> bool {
    matches!(error, Error::System { source, .. } if source.raw_os_error() == Some(libc::EINVAL))
}

/// Another program is in the place.
fn foreign(place: &Place, id: u32) -> Error {
    let name = sys::program_by_id(id).and_then(|fd| program::info_of(&fd)).map(|info| info.name);
    let name = name.map(|name| format!(", \"{name}\"")).unwrap_or_default();
    let Place { array, position, .. } = place;
    let bytes = position.to_le_bytes().map(|byte| byte.to_string()).join(" ");
    place.refused(
        format!("another program is there (id {id}{name})"),
        format!(
            "choose a free position, or empty this one with `bpftool map delete pinned {} key {bytes}`",
            array.display()
        ),
    )
}

/// Why the kernel takes none of the director's programs into the array, where what it says of the array tells.
fn other_kind(array: &RawMap, place: &Place, program: &Program) -> Option<Error> {
    let (kind, jited) = owner(array).ok()??;
    let ours = program.info().ok()?.is_jited();
    let compiled = |yes: bool| if yes { "compiled" } else { "interpreted" };
    if kind != sys::PROG_TYPE_XDP {
        return Some(place.refused(
            format!("its programs are of type {kind}, and the director is an XDP program (type 6)"),
            "give the program array of an XDP root",
        ));
    }
    (jited != ours).then(|| {
        place.refused(
            format!("its programs are {}, and the director is {}", compiled(jited), compiled(ours)),
            "load the root and weir under the same net.core.bpf_jit_enable",
        )
    })
}

/// Type of the programs that the array holds, and whether they are compiled; `None` as long as nothing has used it.
fn owner(array: &RawMap) -> io::Result<Option<(u32, bool)>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", array.as_fd().as_raw_fd()))?;
    Ok(parse_owner(&text))
}

fn parse_owner(text: &str) -> Option<(u32, bool)> {
    let field = |name: &str| -> Option<u32> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
    };
    Some((field("owner_prog_type")?, field("owner_jited")? != 0))
}

#[cfg(test)]
mod tests {
    use super::parse_owner;

    #[test]
    fn an_owner_is_read_from_what_the_kernel_says_of_the_map() {
        let text = "pos:\t0\nmap_type:\t3\nmemlock:\t4096\nowner_prog_type:\t6\nowner_jited:\t1\n";
        assert_eq!(parse_owner(text), Some((6, true)));
        assert_eq!(parse_owner(&text.replace("jited:\t1", "jited:\t0")), Some((6, false)));
        assert_eq!(parse_owner("map_type:\t3\n"), None);
    }
}
