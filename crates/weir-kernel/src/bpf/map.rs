//! Maps by name, with keys and values as bytes.
//!
//! Owns: lookups and updates through system calls, per-CPU values, shape checks. May not touch: what the bytes mean.
//! Invariant: the kernel is never handed a key or value of another length than the map's own info says.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::OnceLock,
};

use weir_abi::Count;

use super::{Error, sys};

/// What the kernel says about a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// The kernel's id.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value (of one CPU's, for a per-CPU map).
    pub value_size: u32,
    /// Most elements.
    pub max_entries: u32,
    /// `BPF_F_…`.
    pub flags: u32,
}

/// An open map.
#[derive(Debug)]
pub struct RawMap {
    fd: OwnedFd,
    name: String,
    info: MapInfo,
    /// CPUs with a value of their own in each element; `None` for an ordinary map.
    cpus: Option<usize>,
}

impl RawMap {
    /// Takes an open descriptor of a map; `name` is for messages.
    pub(crate) fn from_fd(fd: OwnedFd, name: &str) -> io::Result<Self> {
        let info = sys::map_info(fd.as_fd())?;
        // BPF_MAP_TYPE_PERCPU_HASH 5, PERCPU_ARRAY 6, LRU_PERCPU_HASH 10, PERCPU_CGROUP_STORAGE 21.
        let per_cpu = matches!(info.map_type, 5 | 6 | 10 | 21);
        let cpus = if per_cpu { Some(possible_cpus()?) } else { None };
        let info = MapInfo {
            map_type: info.map_type,
            id: info.id,
            key_size: info.key_size,
            value_size: info.value_size,
            max_entries: info.max_entries,
            flags: info.map_flags,
        };
        Ok(Self { fd, name: name.to_owned(), info, cpus })
    }

    /// Opens a pinned map.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        sys::open_pin(path)
            .and_then(|fd| Self::from_fd(fd, &name))
            .map_err(Error::doing(format!("open the pinned map {}", path.display())))
    }

    /// The map's name, as the object or the pin gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel says about the map.
    pub fn info(&self) -> MapInfo {
        self.info
    }

    /// Pins the map.
    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        sys::pin(self.fd.as_fd(), path).map_err(Error::doing(format!(
            "pin map {} at {}",
            self.name,
            path.display()
        )))
    }

    /// The value under `key`; for a per-CPU map the values of all possible CPUs, each at a multiple of eight bytes.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.check_key(key)?;
        let mut value = vec![0; self.copied_value_size()];
        // SAFETY: the key's length was checked, the value's computed from the map's info.
        match unsafe { sys::map_lookup(self.fd.as_fd(), key, &mut value) } {
            Ok(()) => Ok(Some(value)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed("look up a key in", error)),
        }
    }

    /// The values under `key`, one for each possible CPU (one in all for an ordinary map).
    pub fn get_per_cpu(&self, key: &[u8]) -> Result<Option<Vec<Vec<u8>>>, Error> {
        let size = self.info.value_size as usize;
        let stride = if self.cpus.is_some() { self.stride() } else { size };
        let split = |all: Vec<u8>| all.chunks_exact(stride).map(|cpu| cpu[..size].to_vec()).collect();
        Ok(self.get(key)?.map(split))
    }

    /// Stores `value` under `key`; for a per-CPU map on every CPU. `flags` are `BPF_ANY` 0, `BPF_NOEXIST` 1 or
    /// `BPF_EXIST` 2.
    pub fn set(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Error> {
        self.check_key(key)?;
        if value.len() != self.info.value_size as usize {
            return Err(self.shape(format!(
                "a value of {} bytes was given, it holds {}",
                value.len(),
                self.info.value_size
            )));
        }
        let mut copied = value.to_vec();
        if let Some(cpus) = self.cpus {
            copied.resize(self.stride(), 0);
            copied = copied.repeat(cpus);
        }
        // SAFETY: both lengths are those of the map's info.
        unsafe { sys::map_update(self.fd.as_fd(), key, &copied, flags) }
            .map_err(|error| self.failed("store into", error))
    }

    /// Removes `key`; whether it was there.
    pub fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        self.check_key(key)?;
        // SAFETY: the key's length was checked.
        match unsafe { sys::map_delete(self.fd.as_fd(), key) } {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(self.failed("delete a key from", error)),
        }
    }

    /// All keys. At most `max_entries` are given even when the map changes meanwhile.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while keys.len() < self.info.max_entries as usize {
            let mut next = vec![0; self.info.key_size as usize];
            let last = keys.last().map(Vec::as_slice);
            // SAFETY: both buffers have the map's key length.
            match unsafe { sys::map_next_key(self.fd.as_fd(), last, &mut next) } {
                Ok(()) => keys.push(next),
                Err(error) if is_absent(&error) => break,
                Err(error) => return Err(self.failed("list the keys of", error)),
            }
        }
        Ok(keys)
    }

    /// The first `count` values of an array, in order, each as [`RawMap::get`] gives it.
    pub fn values(&self, count: u32) -> Result<Vec<Vec<u8>>, Error> {
        if !matches!(self.info.map_type, sys::MAP_TYPE_ARRAY | sys::MAP_TYPE_PERCPU_ARRAY) {
            return Err(self.shape("it is not an array".to_owned()));
        }
        let count = count.min(self.info.max_entries) as usize;
        let size = self.copied_value_size();
        let mut keys = vec![0u32; count];
        let mut all = vec![0; size * count];
        // SAFETY: an array has 4-byte keys; both buffers hold `count` elements of the kernel's copied size.
        match unsafe { sys::array_lookup_batch(self.fd.as_fd(), &mut keys, &mut all) } {
            Ok(read) if read == count => Ok(all.chunks_exact(size).map(<[u8]>::to_vec).collect()),
            // Batches of per-CPU arrays are known since 5.13; one by one otherwise.
            _ => (0..count as u32)
                .map(|key| Ok(self.get(&key.to_ne_bytes())?.unwrap_or_else(|| vec![0; size])))
                .collect(),
        }
    }

    /// The counter at `index` of an array of [`Count`]s, all CPUs together; zero outside of it.
    pub fn count(&self, index: u32) -> Result<Count, Error> {
        Ok(self.get(&index.to_ne_bytes())?.map(|value| sum(&value)).unwrap_or_default())
    }

    /// The first `len` counters of an array of [`Count`]s, all CPUs together.
    pub fn counts(&self, len: u32) -> Result<Vec<Count>, Error> {
        Ok(self.values(len)?.iter().map(|value| sum(value)).collect())
    }

    /// Bytes of one CPU's copy of a value.
    pub(crate) fn stride(&self) -> usize {
        (self.info.value_size as usize).next_multiple_of(8)
    }

    /// Bytes that the kernel copies for one element.
    fn copied_value_size(&self) -> usize {
        self.cpus.map_or(self.info.value_size as usize, |cpus| self.stride() * cpus)
    }

    fn check_key(&self, key: &[u8]) -> Result<(), Error> {
        if key.len() == self.info.key_size as usize {
            return Ok(());
        }
        Err(self.shape(format!("a key of {} bytes was given, it has {}", key.len(), self.info.key_size)))
    }

    fn shape(&self, why: String) -> Error {
        Error::Shape { map: self.name.clone(), why }
    }

    fn failed(&self, doing: &str, error: io::Error) -> Error {
        Error::doing(format!("{doing} map {}", self.name))(error)
    }
}

impl AsFd for RawMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Adds up all CPUs' counts.
fn sum(value: &[u8]) -> Count {
    let (words, _) = value.as_chunks::<8>();
    words.chunks_exact(2).fold(Count::default(), |total, cpu| Count {
        packets: total.packets.wrapping_add(u64::from_ne_bytes(cpu[0])),
        bytes: total.bytes.wrapping_add(u64::from_ne_bytes(cpu[1])),
    })
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

/// Number of CPUs the kernel could ever bring up: the number of values in a per-CPU element.
pub(crate) fn possible_cpus() -> io::Result<usize> {
    static CPUS: OnceLock<usize> = OnceLock::new();
    if let Some(cpus) = CPUS.get() {
        return Ok(*cpus);
    }
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let cpus = count_cpus(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok(*CPUS.get_or_init(|| cpus))
}

/// Counts a CPU list such as `0-3,8`.
fn count_cpus(list: &str) -> Option<usize> {
    list.trim()
        .split(',')
        .map(|range| match range.split_once('-') {
            Some((first, last)) => Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1),
            None => range.parse::<usize>().ok().map(|_| 1),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::count_cpus;

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(count_cpus("0\n"), Some(1));
        assert_eq!(count_cpus("0-3,8,10-11\n"), Some(7));
        assert_eq!(count_cpus(""), None);
        assert_eq!(count_cpus("3-1"), None);
    }
}
