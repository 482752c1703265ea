//! What is pinned, and whether it can be used.
//!
//! Owns: the shapes of the tables, the comparison with what the kernel says, the names of pins.
//! May not touch: contents, but for the identity and the key. Invariant: [`judge`] changes nothing.

use std::{collections::BTreeMap, fs, io, path::Path};

use weir_abi::{ABI_VERSION, Control, MAGIC, PrefixKey, Reason, ServerKey, map};

use super::{
    super::{Error, Link, MapInfo, Mapped, RawMap, sys},
    Options, Sizes,
    array::{self, Seat},
};

/// Pin of the program.
pub(super) const PROGRAM_PIN: &str = "director";
/// The program for an MTU beyond one buffer.
pub(super) const FRAGS_PROGRAM: &str = "director_frags";
/// Pin of a program on its way to [`PROGRAM_PIN`].
pub(super) const NEW_PROGRAM_PIN: &str = "director_new";
/// Beginning of the names of pinned links.
pub(in crate::bpf) const LINK_PREFIX: &str = "link_";

/// The director's programs that hand on what they pass, and what the loader tells them.
pub(super) const NEXT_PROGRAM: &str = "director_next";
pub(super) const NEXT_FRAGS_PROGRAM: &str = "director_next_f";
pub(super) const NEXT_ARRAY: &str = "WEIR_NEXT";
pub(super) const NEXT_POSITION: &str = "WEIR_NEXT_POSITION";
/// Beginning of the name of the pin of a program array that the director is in; the position follows.
const PLACE_PREFIX: &str = "array_";
/// Pin of the program that is in it.
pub(super) const PLACED_PIN: &str = "placed";
/// Pin of a program on its way there.
pub(super) const NEW_PLACED_PIN: &str = "placed_new";

/// The shape of one table.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) entries: u32,
    map_type: u32,
    key_size: u32,
    value_size: u32,
    flags: u32,
}

/// All tables of the director.
pub(super) fn tables(sizes: &Sizes) -> [Table; 13] {
    let words = |name, entries, words: u32| Table {
        name,
        entries,
        map_type: sys::MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8 * words,
        flags: map::F_MMAPABLE,
    };
    let per_cpu = |name, entries, value_size| Table {
        name,
        entries,
        map_type: sys::MAP_TYPE_PERCPU_ARRAY,
        key_size: 4,
        value_size,
        flags: 0,
    };
    let counts = |name, entries| per_cpu(name, entries, size_of::<weir_abi::Count>() as u32);
    // Of keys to a word each.
    let lookup = |name, entries, map_type, key_size: usize, flags| Table {
        name,
        entries,
        map_type,
        key_size: key_size as u32,
        value_size: 8,
        flags,
    };
    let trie =
        |name, entries| lookup(name, entries, sys::MAP_TYPE_LPM_TRIE, PrefixKey::LEN, map::F_NO_PREALLOC);
    [
        words(map::CONTROL, 1, 8),
        words(map::SERVICES, sizes.services, 8),
        words(map::RINGS, sizes.ring_slots, 1),
        words(map::BACKENDS, sizes.backends, 8),
        words(map::FLOWS, sizes.flow_buckets, 8),
        counts(map::REASONS, Reason::COUNT),
        counts(map::BACKEND_COUNTS, sizes.backends),
        words(map::FRAGMENTS, sizes.fragment_buckets, 8),
        lookup(map::SERVERS, sizes.servers, sys::MAP_TYPE_HASH, size_of::<ServerKey>(), 0),
        trie(map::SOURCES, sizes.sources),
        trie(map::PREFIXES, sizes.prefixes),
        // As many as there can be ids: the services' of both halves.
        lookup(map::BUDGETS, sizes.services, sys::MAP_TYPE_ARRAY, 4, 0),
        per_cpu(map::LIMITER, 1, 8),
    ]
}

impl Table {
    /// Bytes of kernel memory, when it is full.
    pub(super) fn memory(&self, cpus: u64) -> u64 {
        let entries = u64::from(self.entries);
        let value = u64::from(self.value_size);
        entries
            * match self.map_type {
                // A pointer and one value for each CPU.
                sys::MAP_TYPE_PERCPU_ARRAY => 8 + value * cpus,
                // The kernel's own part of an element is 48 bytes, and there is about a bucket of 16 for each.
                sys::MAP_TYPE_HASH => 64 + u64::from(self.key_size) + value,
                // Taken when there is an element: 40 bytes, the key and the value, rounded up to 96; and where prefixes
                // part, a node in between.
                sys::MAP_TYPE_LPM_TRIE => 2 * 96,
                _ => value,
            }
    }

    /// Whether a map is this table, but for the number of entries; what is wrong otherwise.
    fn check_shape(&self, info: &MapInfo) -> Result<(), String> {
        let wrong = |what: &str, found: u32, wanted: u32| {
            if found == wanted { Ok(()) } else { Err(format!("its {what} is {found}, not {wanted}")) }
        };
        wrong("map type", info.map_type, self.map_type)?;
        wrong("key size", info.key_size, self.key_size)?;
        wrong("value size", info.value_size, self.value_size)?;
        wrong("flags word", info.flags, self.flags)
    }

    /// Whether a map is this table; what is wrong otherwise.
    pub(super) fn check(&self, info: &MapInfo) -> Result<(), String> {
        self.check_shape(info)?;
        if info.max_entries == self.entries {
            return Ok(());
        }
        Err(format!("it has {} entries, not {}", info.max_entries, self.entries))
    }
}

/// What to do with what is pinned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Remove what there is and start with empty tables.
    Fresh,
    /// Use it, with the sizes it has: where more room was made than is asked for now, the room stays.
    Adopt(Sizes),
}

/// By what packets still reach the program of an earlier run.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By interface name.
    pub(super) links: BTreeMap<String, Link>,
    pub(super) seat: Option<Seat>,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.seat.is_none()
    }

    /// All of it in words.
    fn describe(&self) -> Vec<String> {
        self.links.keys().cloned().chain(self.seat.as_ref().map(Seat::describe)).collect()
    }
}

/// Looks at everything pinned in `dir`. Returns what holds the program as well.
pub(super) fn judge(dir: &Path, options: &Options) -> Result<(Verdict, Held), Error> {
    let held = Held { links: links(dir)?, seat: array::seat(dir)? };
    let tables = tables(&options.sizes);
    let bad = |map: &str, why: String| Error::BadPin { map: map.to_owned(), why, dir: dir.to_owned() };
    let missing = |map: &str| bad(map, "it is missing".to_owned());

    let mut pinned = BTreeMap::new();
    for table in &tables {
        if let Some(map) = open(dir, table.name)? {
            pinned.insert(table.name, map);
        }
    }
    let Some(control) = pinned.get(map::CONTROL) else {
        // The identity is written when everything is there, so without one nobody has used the rest.
        return if held.is_empty() { Ok((Verdict::Fresh, held)) } else { Err(missing(map::CONTROL)) };
    };
    // Another version may have made the record longer, but not moved its first word.
    let record = control.get(&0u32.to_ne_bytes()).ok().flatten().unwrap_or_default();
    let Some(identity) = record.first_chunk().map(|word| u64::from_le_bytes(*word)) else {
        return Err(bad(map::CONTROL, "it is no control record".to_owned()));
    };
    if identity == 0 && held.is_empty() {
        return Ok((Verdict::Fresh, held));
    }
    if identity as u32 != MAGIC {
        return Err(bad(map::CONTROL, "it is not a control record of weir's".to_owned()));
    }
    let found = (identity >> 32) as u32;
    if found != ABI_VERSION {
        return Err(Error::PinnedAbi { found, expected: ABI_VERSION, dir: dir.to_owned() });
    }

    let mut differences = Vec::new();
    let mut sizes = options.sizes;
    for table in &tables {
        let info = pinned.get(table.name).ok_or_else(|| missing(table.name))?.info();
        table.check_shape(&info).map_err(|why| bad(table.name, why))?;
        let roomy = match table.name {
            // There are as many budgets as services.
            map::SERVICES | map::BUDGETS => Some(&mut sizes.services),
            map::RINGS => Some(&mut sizes.ring_slots),
            map::BACKENDS | map::BACKEND_COUNTS => Some(&mut sizes.backends),
            map::SERVERS => Some(&mut sizes.servers),
            map::SOURCES => Some(&mut sizes.sources),
            map::PREFIXES => Some(&mut sizes.prefixes),
            _ => None,
        };
        if let Some(size) = roomy.filter(|_| info.max_entries > table.entries) {
            *size = info.max_entries;
        } else if info.max_entries != table.entries {
            let what = format!("the size of {}", table.name);
            differences.push((what, info.max_entries.to_string(), table.entries.to_string()));
        }
    }
    let control = Mapped::<8>::new(control)?;
    let key = control.record(0).map(|record| Control(record).hash_key());
    if options.hash_key.is_some() && options.hash_key != key {
        // Secret: the values are not shown.
        differences.push(("the hash key".to_owned(), "the old one".to_owned(), "the new one".to_owned()));
    }
    let Some((what, pinned, wanted)) = differences.into_iter().next() else {
        return Ok((Verdict::Adopt(sizes), held));
    };
    if held.is_empty() {
        tracing::info!(
            what,
            pinned,
            wanted,
            "the pinned tables were made otherwise and nobody uses them: starting afresh"
        );
        return Ok((Verdict::Fresh, held));
    }
    Err(Error::InUse { what, pinned, wanted, places: held.describe() })
}

fn open(dir: &Path, name: &str) -> Result<Option<RawMap>, Error> {
    let path = dir.join(name);
    if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let opened = sys::open_pin(&path).and_then(|fd| RawMap::from_fd(fd, name));
    opened.map(Some).map_err(|error| Error::BadPin {
        map: name.to_owned(),
        why: error.to_string(),
        dir: dir.to_owned(),
    })
}

/// The pinned links by interface name; those of devices that have gone are left out.
fn links(dir: &Path) -> Result<BTreeMap<String, Link>, Error> {
    let failed = || Error::doing(format!("list {}", dir.display()));
    let mut links = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        let Some(interface) = name.to_str().and_then(interface_of) else { continue };
        let bad = |why: String| Error::BadPin {
            map: name.to_string_lossy().into_owned(),
            why,
            dir: dir.to_owned(),
        };
        let link = Link::open(&dir.join(&name)).map_err(|error| bad(error.cause()))?;
        if link.info()?.ifindex != 0 {
            links.insert(interface, link);
        }
    }
    Ok(links)
}

/// Removes the tables, the program, a place that was lost and the links of devices that have gone.
pub(super) fn remove(dir: &Path) -> Result<(), Error> {
    let failed = || Error::doing(format!("list {}", dir.display()));
    for entry in fs::read_dir(dir).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        let path = dir.join(&name);
        if name.to_str().and_then(interface_of).is_some() && Link::open(&path)?.info()?.ifindex == 0 {
            unlink(&path)?;
        }
    }
    for table in tables(&Sizes::default()) {
        unlink(&dir.join(table.name))?;
    }
    remove_place(dir)?;
    unlink(&dir.join(NEW_PROGRAM_PIN))?;
    unlink(&dir.join(PROGRAM_PIN))
}

/// Removes the pins of a program array and of the programs in it.
pub(super) fn remove_place(dir: &Path) -> Result<(), Error> {
    let failed = || Error::doing(format!("list {}", dir.display()));
    for entry in fs::read_dir(dir).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        if name.to_str().and_then(position_of).is_some() {
            unlink(&dir.join(&name))?;
        }
    }
    unlink(&dir.join(NEW_PLACED_PIN))?;
    unlink(&dir.join(PLACED_PIN))
}

/// Removes a pin, if it is there.
pub(super) fn unlink(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::doing(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// The name of an interface's link pin. bpffs refuses dots, which VLANs' names have; `%` escapes them and itself.
pub(in crate::bpf) fn link_pin(interface: &str) -> String {
    format!("{LINK_PREFIX}{}", interface.replace('%', "%25").replace('.', "%2e"))
}

/// The name of the pin of a program array, by the position taken there.
pub(super) fn place_pin(position: u32) -> String {
    format!("{PLACE_PREFIX}{position}")
}

pub(super) fn position_of(pin: &str) -> Option<u32> {
    pin.strip_prefix(PLACE_PREFIX)?.parse().ok()
}

fn interface_of(pin: &str) -> Option<String> {
    let escaped = pin.strip_prefix(LINK_PREFIX)?;
    Some(escaped.replace("%2e", ".").replace("%25", "%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_name_has_a_pin_of_its_own() {
        for name in ["eth0", "eth0.100", "a%2e", "%25.", "a%b"] {
            let pin = link_pin(name);
            assert!(!pin.contains('.'), "{pin}");
            assert_eq!(interface_of(&pin).as_deref(), Some(name));
        }
        assert_eq!(interface_of("WEIR_RINGS"), None);
    }

    #[test]
    fn memory_counts_every_cpu() {
        let table = &tables(&Sizes { backends: 100, ..Sizes::default() })[6];
        assert_eq!(table.memory(4), 100 * (8 + 4 * 16));
    }
}
