//! The bpf(2) system call, as far as weir uses it directly.
//!
//! Owns: command numbers and the unsafe calls. May not touch: names, paths, policy.
//! Invariant: every function is safe to call: the kernel gets pointers to live memory of the length it is told, or of
//! the length the map's own info says it will use.
//!
//! The loader is aya's. What is here is what aya does not offer, or offers with a surprise: it attaches through netlink
//! when a link is refused, reuses a pin without comparing it, and has no test runs outside its own program types.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::layout::{
    ById, Info, KernelLinkInfo, KernelMapInfo, KernelProgInfo, LinkCreate, LinkUpdate, MapBatch, MapCreate,
    MapElement, Object, TestRun,
};

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP: u32 = 1;
const MAP_UPDATE: u32 = 2;
const MAP_DELETE: u32 = 3;
const MAP_NEXT_KEY: u32 = 4;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const TEST_RUN: u32 = 10;
const PROG_BY_ID: u32 = 13;
const INFO_BY_FD: u32 = 15;
const MAP_LOOKUP_BATCH: u32 = 24;
const MAP_UPDATE_BATCH: u32 = 26;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_DETACH: u32 = 34;

/// `enum bpf_attach_type`, as far as weir attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AttachType {
    Xdp = 37,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// `BPF_MAP_TYPE_HASH`.
pub(crate) const MAP_TYPE_HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`.
pub(crate) const MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_PROG_ARRAY`.
pub(crate) const MAP_TYPE_PROG_ARRAY: u32 = 3;
/// `BPF_MAP_TYPE_PERCPU_ARRAY`.
pub(crate) const MAP_TYPE_PERCPU_ARRAY: u32 = 6;
/// `BPF_MAP_TYPE_LPM_TRIE`.
pub(crate) const MAP_TYPE_LPM_TRIE: u32 = 11;
/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
pub(crate) const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// `BPF_PROG_TYPE_XDP`.
pub(crate) const PROG_TYPE_XDP: u32 = 6;

/// What a test run gave.
pub(crate) struct TestRunResult {
    pub(crate) retval: u32,
    pub(crate) out_len: u32,
    pub(crate) duration: u32,
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T: ?Sized>(memory: &T) -> u64 {
    std::ptr::from_ref(memory).cast::<u8>() as u64
}

fn address_mut<T: ?Sized>(memory: &mut T) -> u64 {
    std::ptr::from_mut(memory).cast::<u8>() as u64
}

/// # Safety
/// `attr` must be the layout `command` takes, its pointers valid for what the kernel reads or writes there.
unsafe fn bpf<T>(command: u32, attr: &mut T) -> io::Result<RawFd> {
    let attr_ptr: *mut T = attr;
    // SAFETY: attr_ptr points to size_of::<T>() bytes; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr_ptr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

/// # Safety
/// As [`bpf`], and `command` must return a new descriptor.
unsafe fn bpf_fd<T>(command: u32, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn map_create(
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    inner: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let inner_map_fd = inner.map_or(0, raw);
    let mut attr = MapCreate { map_type, key_size, value_size, max_entries, flags: 0, inner_map_fd };
    // SAFETY: no pointers.
    unsafe { bpf_fd(MAP_CREATE, &mut attr) }
}

/// Looks `key` up; `value` must be as long as the kernel's copy of a value (all CPUs' for a per-CPU map).
///
/// # Safety
/// `key` and `value` must have the lengths the map's info asks for.
pub(crate) unsafe fn map_lookup(fd: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr =
        MapElement { fd: raw(fd), key: address(key), value: address_mut(value), ..MapElement::default() };
    // SAFETY: both pointers are live for the call; the lengths are the caller's promise.
    unsafe { bpf(MAP_LOOKUP, &mut attr) }.map(drop)
}

/// # Safety
/// As [`map_lookup`].
pub(crate) unsafe fn map_update(fd: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let mut attr = MapElement { fd: raw(fd), pad: 0, key: address(key), value: address(value), flags };
    // SAFETY: the kernel only reads; the lengths are the caller's promise.
    unsafe { bpf(MAP_UPDATE, &mut attr) }.map(drop)
}

/// # Safety
/// `key` must have the map's key length.
pub(crate) unsafe fn map_delete(fd: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attr = MapElement { fd: raw(fd), key: address(key), ..MapElement::default() };
    // SAFETY: the kernel only reads the key; its length is the caller's promise.
    unsafe { bpf(MAP_DELETE, &mut attr) }.map(drop)
}

/// # Safety
/// `key` (where given) and `next` must have the map's key length.
pub(crate) unsafe fn map_next_key(fd: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<()> {
    let mut attr = MapElement {
        fd: raw(fd),
        key: key.map_or(0, address),
        value: address_mut(next),
        ..MapElement::default()
    };
    // SAFETY: the kernel reads one key and writes one; the lengths are the caller's promise.
    unsafe { bpf(MAP_NEXT_KEY, &mut attr) }.map(drop)
}

/// Reads the first `count` elements of an array map in one call; returns how many there were.
///
/// # Safety
/// Keys are 4 bytes; `values` must have room for `count` of the kernel's copies of a value, `keys` for `count`.
pub(crate) unsafe fn array_lookup_batch(
    fd: BorrowedFd<'_>,
    keys: &mut [u32],
    values: &mut [u8],
) -> io::Result<usize> {
    let mut next = 0u32;
    let mut attr = MapBatch {
        out_batch: address_mut(&mut next),
        keys: address_mut(keys),
        values: address_mut(values),
        count: keys.len() as u32,
        fd: raw(fd),
        ..MapBatch::default()
    };
    // SAFETY: `next` takes one 4-byte key; the other lengths are the caller's promise.
    match unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) } {
        Ok(_) => Ok(attr.count as usize),
        // The end of the map was reached: the elements up to there were copied.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(attr.count as usize),
        Err(error) => Err(error),
    }
}

/// What one call has read of a table.
pub(crate) struct Piece<const K: usize> {
    /// How many entries.
    pub(crate) len: usize,
    /// Where the next piece begins; `None`: this was the last one.
    pub(crate) next: Option<[u64; K]>,
}

/// Reads entries of a hash or a trie into `keys` and `words`, from the beginning or from where another call ended.
///
/// # Safety
/// Keys of the map have `8 * K` bytes, values eight; `words` is as long as `keys`.
pub(crate) unsafe fn lookup_words<const K: usize>(
    fd: BorrowedFd<'_>,
    from: Option<&[u64; K]>,
    keys: &mut [[u64; K]],
    words: &mut [u64],
) -> io::Result<Piece<K>> {
    let mut next = [0; K];
    let mut attr = MapBatch {
        in_batch: from.map_or(0, address),
        out_batch: address_mut(&mut next),
        keys: address_mut(keys),
        values: address_mut(words),
        count: keys.len() as u32,
        fd: raw(fd),
        ..MapBatch::default()
    };
    // SAFETY: a place in a table is told by four bytes (a hash's bucket) or by a key, and `next` and `from` have room for
    // either; the kernel writes at most `count` keys and values, and their lengths are the caller's promise.
    match unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) } {
        Ok(_) => Ok(Piece { len: attr.count as usize, next: Some(next) }),
        // The end was reached: the entries up to there were copied.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(Piece { len: attr.count as usize, next: None })
        }
        Err(error) => Err(error),
    }
}

/// Stores a word under each key.
///
/// # Safety
/// Keys of the map have `8 * K` bytes, values eight; `words` is as long as `keys`.
pub(crate) unsafe fn update_words<const K: usize>(
    fd: BorrowedFd<'_>,
    keys: &[[u64; K]],
    words: &[u64],
) -> io::Result<()> {
    let mut attr = MapBatch {
        keys: address(keys),
        values: address(words),
        count: keys.len() as u32,
        fd: raw(fd),
        ..MapBatch::default()
    };
    // SAFETY: the kernel reads `count` keys and values; their lengths are the caller's promise.
    unsafe { bpf(MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Object { path: path.as_ptr() as u64, fd: raw(fd), file_flags: 0 };
    // SAFETY: the path is a live, zero-terminated string.
    unsafe { bpf(OBJ_PIN, &mut attr) }.map(drop)
}

pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Object { path: path.as_ptr() as u64, ..Object::default() };
    // SAFETY: the path is a live, zero-terminated string.
    unsafe { bpf_fd(OBJ_GET, &mut attr) }
}

pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = ById { id, ..ById::default() };
    // SAFETY: no pointers.
    unsafe { bpf_fd(PROG_BY_ID, &mut attr) }
}

/// # Safety
/// `T` must be a layout the kernel may fill with any bytes, for an object of `fd`'s kind.
unsafe fn info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let mut attr = Info { fd: raw(fd), len: size_of::<T>() as u32, buffer: address_mut(&mut info) };
    // SAFETY: the kernel writes at most `len` bytes, and T takes any bytes.
    unsafe { bpf(INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// What kind of BPF object a descriptor is, by the name the kernel gives its inode.
fn is(fd: BorrowedFd<'_>, kind: &str) -> io::Result<()> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let target = target.to_string_lossy();
    // Up to 6.15 "anon_inode:bpf-map", brackets around the name since; links show as "bpf_link" or "bpf-link".
    if target.replace('_', "-").contains(kind) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is not a {kind} but {target}")))
}

pub(crate) fn map_info(fd: BorrowedFd<'_>) -> io::Result<KernelMapInfo> {
    is(fd, "bpf-map")?;
    // SAFETY: plain integers, and the descriptor is a map's.
    unsafe { info(fd) }
}

pub(crate) fn prog_info(fd: BorrowedFd<'_>) -> io::Result<KernelProgInfo> {
    is(fd, "bpf-prog")?;
    // SAFETY: plain integers, and the descriptor is a program's; no array is asked for (all pointers and counts zero).
    unsafe { info(fd) }
}

pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<KernelLinkInfo> {
    is(fd, "bpf-link")?;
    // SAFETY: plain integers, and the descriptor is a link's; zero lengths mean no string is written.
    unsafe { info(fd) }
}

pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: AttachType,
    flags: u32,
) -> io::Result<OwnedFd> {
    let attach_type = attach_type as u32;
    let mut attr = LinkCreate { prog_fd: raw(program), target: ifindex, attach_type, flags };
    // SAFETY: no pointers.
    unsafe { bpf_fd(LINK_CREATE, &mut attr) }
}

pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate { link_fd: raw(link), new_prog_fd: raw(program), ..LinkUpdate::default() };
    // SAFETY: no pointers.
    unsafe { bpf(LINK_UPDATE, &mut attr) }.map(drop)
}

pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = raw(link);
    // SAFETY: the attribute is the descriptor alone.
    unsafe { bpf(LINK_DETACH, &mut attr) }.map(drop)
}

pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    out: &mut [u8],
    context: Option<&[u8]>,
    repeat: u32,
) -> io::Result<TestRunResult> {
    let mut attr = TestRun {
        prog_fd: raw(program),
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: address(packet),
        data_out: address_mut(out),
        repeat,
        ctx_size_in: context.map_or(0, |context| context.len() as u32),
        ctx_in: context.map_or(0, address),
        ..TestRun::default()
    };
    // SAFETY: the kernel reads and writes at most the lengths given beside each pointer.
    unsafe { bpf(TEST_RUN, &mut attr) }?;
    Ok(TestRunResult { retval: attr.retval, out_len: attr.data_size_out, duration: attr.duration })
}

/// Sends `repeat` frames as if `program` had just received each of them, in batches of `batch`. What it returns is done:
/// sent, redirected, passed on or dropped.
pub(crate) fn live_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u8],
    repeat: u32,
    batch: u32,
) -> io::Result<()> {
    const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
    let mut attr = TestRun {
        prog_fd: raw(program),
        data_size_in: packet.len() as u32,
        data_in: address(packet),
        repeat,
        ctx_size_in: context.len() as u32,
        ctx_in: address(context),
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
        ..TestRun::default()
    };
    // SAFETY: the kernel reads at most the lengths given beside each pointer, and writes to none: there is no output.
    unsafe { bpf(TEST_RUN, &mut attr) }.map(drop)
}
