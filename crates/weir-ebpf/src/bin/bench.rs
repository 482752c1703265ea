//! What `cargo xtask bench` measures with and against; never attached to an interface.
//!
//! `driver` restores the packet that the run before left wrapped, optionally gives it another flow, and tail-calls the
//! program under test. `base` is what the driver costs by itself, `floor` the least a forwarder can do, `iptunnel` the
//! logic of the Linux tunnel sample, `lru` the director with the kernel's LRU hash for a flow table.
#![no_std]
#![no_main]
#![allow(unsafe_code)] // map values are reached through pointers; see weir_ebpf
#![allow(clippy::needless_pass_by_value)] // the entry point macros hand the context over by value

use aya_ebpf::{
    bindings::{
        BPF_F_NO_COMMON_LRU,
        xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    },
    helpers::generated::bpf_xdp_get_buff_len,
    macros::{map, xdp},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use weir_abi::{
    Address, Backend, Control, Count, FLOWS_PER_BUCKET, Family, FlowEntry, Reason, RingSlot, ServerKey,
    Service, SourceRule, map as abi,
};
use weir_datapath::{Action, BudgetWord, Flow, Frame, Memory, Recall, Tables, general, plain};
use weir_ebpf::{MapWords, Maps, ScratchMap, XdpFrame, scratch, xdp_action};

/// The program under test, at index 0.
#[map]
static BENCH_TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Words: packet length, 16 bytes of Ethernet header, flows less one, salt, version, counter, services less one; see
/// `weir-bench`.
#[map]
static BENCH_DRIVER: Array<[u64; 8]> = Array::with_max_entries(1, abi::F_MMAPABLE);

/// Runs the program under test on a packet as good as new.
#[xdp]
fn driver(ctx: XdpContext) -> u32 {
    if restore(&ctx).is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: an empty slot makes the call return; it is reported as an aborted packet.
    unsafe { BENCH_TARGET.tail_call(&ctx, 0) };
    XDP_ABORTED
}

/// Sends a packet as good as new: for live runs, in which the kernel restores its length.
#[xdp]
fn generator(ctx: XdpContext) -> u32 {
    if restore(&ctx).is_none() { XDP_ABORTED } else { XDP_TX }
}

/// What comes back: packets of the length awaited, and others.
#[map]
static BENCH_RETURNED: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);
/// The length awaited, and the first packet that came back since it was written.
#[map]
static BENCH_AWAITED: Array<Awaited> = Array::with_max_entries(1, 0);

/// Value of [`BENCH_AWAITED`].
#[repr(C)]
#[derive(Clone, Copy)]
struct Awaited {
    len: u64,
    /// Of the packet seen; 0: none yet.
    seen: u64,
    /// Its beginning, as many whole words as it has.
    head: [u64; 9],
}

/// Counts what comes back and drops it.
#[xdp]
fn sink(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::<false>(&ctx);
    let (Some(awaited), Some(returned)) = (BENCH_AWAITED.get_ptr_mut(0), BENCH_RETURNED.get_ptr_mut(0))
    else {
        return XDP_ABORTED;
    };
    // SAFETY: a value of this map, written by user space between runs and by this program on one CPU during them.
    let awaited = unsafe { &mut *awaited };
    // SAFETY: a per-CPU value, ours alone while the program runs.
    let returned = unsafe { &mut *returned };
    let len = frame.len() as u64;
    if awaited.seen == 0 {
        for (number, word) in awaited.head.iter_mut().enumerate() {
            // Word by word: of more bytes at once the compiler makes a call of memmove().
            let Some(bytes) = frame.at::<[u8; 8]>(8 * number) else { break };
            *word = u64::from_ne_bytes(*bytes);
        }
        awaited.seen = len;
    }
    if len == awaited.len {
        returned[0] += 1;
    } else {
        returned[1] += 1;
    }
    XDP_DROP
}

#[inline(always)]
fn restore(ctx: &XdpContext) -> Option<()> {
    let config = BENCH_DRIVER.get_ptr_mut(0)?;
    // SAFETY: a map value of eight words, written by user space between runs and by this one program during them.
    let config = unsafe { &mut *config };
    let mut frame = XdpFrame::<false>(ctx);
    // By helper: the compiler would rearrange `data_end - data - length` into arithmetic the verifier refuses.
    // SAFETY: the context is the one the kernel called us with.
    let len = unsafe { bpf_xdp_get_buff_len(ctx.ctx) };
    let grown = (len as usize).wrapping_sub(config[0] as usize);
    if grown != 0 {
        frame.shrink_head(grown & 0x7f).ok()?;
    }
    let ethernet = frame.at_mut::<[u8; 14]>(0)?;
    let (first, second) = (config[1].to_ne_bytes(), config[2].to_ne_bytes());
    ethernet[..8].copy_from_slice(&first);
    ethernet[8..].copy_from_slice(&second[..6]);
    let mask = config[3];
    if mask != 0 {
        // An odd multiplier visits every index below a power of two once, in an order no prefetcher follows.
        let index = config[6].wrapping_mul(0x9e37_79b1) & mask;
        config[6] = config[6].wrapping_add(1);
        let host = ((index >> 8) as u32 ^ config[4] as u32).to_be_bytes();
        let port = (1024 + (index as u16 & 0xff)).to_be_bytes();
        if config[5] == 4 {
            *frame.at_mut::<[u8; 3]>(27)? = [host[1], host[2], host[3]];
            *frame.at_mut::<[u8; 2]>(34)? = port;
            let services = config[7];
            if services != 0 {
                // A flow keeps its service: other bits of the same index.
                *frame.at_mut::<[u8; 2]>(32)? = ((index >> 3 & services) as u16).to_be_bytes();
            }
        } else {
            *frame.at_mut::<[u8; 4]>(34)? = host;
            *frame.at_mut::<[u8; 2]>(54)? = port;
        }
    }
    Some(())
}

/// The harness alone.
#[xdp]
fn base(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// Swaps MAC addresses and sends the frame back.
#[xdp]
fn floor(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::<false>(&ctx);
    let Some(macs) = frame.at_mut::<[[u8; 6]; 2]>(0) else { return XDP_DROP };
    macs.swap(0, 1);
    XDP_TX
}

/// Key of the sample's `vip2tnl`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Vip {
    words: [u64; 3],
}

/// Value of the sample's `vip2tnl`: source, destination, family, MAC.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tunnel {
    source: [u32; 4],
    destination: [u32; 4],
    family: u16,
    mac: [u8; 6],
}

#[map]
static BENCH_VIP2TNL: HashMap<Vip, Tunnel> = HashMap::with_max_entries(256, 0);
#[map]
static BENCH_RXCNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(256, 0);

/// What the sample does for an IPv4 TCP packet: hash lookup, grow the head, MACs, outer header, full checksum, count.
#[xdp]
fn iptunnel(ctx: XdpContext) -> u32 {
    sample(&ctx).unwrap_or(XDP_DROP)
}

#[inline(always)]
fn sample(ctx: &XdpContext) -> Option<u32> {
    let mut frame = XdpFrame::<false>(ctx);
    let ethernet = *frame.at::<[u8; 14]>(0)?;
    if ethernet[12..14] != [8, 0] {
        return Some(XDP_PASS);
    }
    let ip = *frame.at::<[u8; 20]>(14)?;
    let ports = *frame.at::<[u8; 4]>(34)?;
    let destination = u32::from_ne_bytes([ip[16], ip[17], ip[18], ip[19]]);
    let port = u16::from_ne_bytes([ports[2], ports[3]]);
    // Address, then port, family (AF_INET) and protocol, as in the sample's struct vip.
    let key = Vip { words: [destination as u64, 0, port as u64 | 2 << 16 | (ip[9] as u64) << 32] };
    // SAFETY: the value is only read, at once; user space writes it before the benchmark.
    let Some(tunnel) = (unsafe { BENCH_VIP2TNL.get(key) }) else { return Some(XDP_PASS) };
    frame.grow_head(20).ok()?;
    let outer_mac = frame.at_mut::<[u8; 14]>(0)?;
    outer_mac[..6].copy_from_slice(&tunnel.mac);
    outer_mac[6..12].copy_from_slice(&ethernet[..6]);
    outer_mac[12] = 8;
    outer_mac[13] = 0;
    let len = (u16::from_be_bytes([ip[2], ip[3]]) + 20).to_be_bytes();
    let (source, target) = (tunnel.source[0].to_ne_bytes(), tunnel.destination[0].to_ne_bytes());
    let mut header = [
        0x45, ip[1], len[0], len[1], 0, 0, 0, 0, 8, 4, 0, 0, source[0], source[1], source[2], source[3],
        target[0], target[1], target[2], target[3],
    ];
    let mut sum = 0u32;
    let mut at = 0;
    while at < 20 {
        sum += u16::from_ne_bytes([header[at], header[at + 1]]) as u32;
        at += 2;
    }
    let check = (!((sum & 0xffff) + (sum >> 16)) as u16).to_ne_bytes();
    header[10] = check[0];
    header[11] = check[1];
    *frame.at_mut::<[u8; 20]>(14)? = header;
    if let Some(count) = BENCH_RXCNT.get_ptr_mut(ip[9] as u32) {
        // SAFETY: a per-CPU value, ours alone while the program runs.
        unsafe { *count += 1 };
    }
    Some(XDP_TX)
}

#[map]
static WEIR_CONTROL: Array<[u64; 8]> = Array::with_max_entries(1, abi::F_MMAPABLE);
#[map]
static WEIR_SERVICES: Array<[u64; 8]> = Array::with_max_entries(abi::default_size::SERVICES, abi::F_MMAPABLE);
#[map]
static WEIR_RINGS: Array<u64> = Array::with_max_entries(abi::default_size::RINGS, abi::F_MMAPABLE);
#[map]
static WEIR_BACKENDS: Array<[u64; 8]> = Array::with_max_entries(abi::default_size::BACKENDS, abi::F_MMAPABLE);
#[map]
static WEIR_REASONS: PerCpuArray<Count> = PerCpuArray::with_max_entries(Reason::COUNT, 0);
#[map]
static WEIR_BCOUNTS: PerCpuArray<Count> = PerCpuArray::with_max_entries(abi::default_size::BACKENDS, 0);
/// The kernel's LRU hash, one list a CPU, keyed by the whole 5-tuple.
#[map]
static BENCH_LRU: LruHashMap<[u64; 5], u64> = LruHashMap::with_max_entries(1 << 22, BPF_F_NO_COMMON_LRU);

#[map]
static BENCH_SCRATCH: ScratchMap = PerCpuArray::with_max_entries(1, 0);

/// The director's tables with another flow table.
struct LruTables;

#[inline(always)]
fn words(map: &'static Array<[u64; 8]>, index: u32) -> Option<MapWords<8>> {
    let value = map.get_ptr_mut(index)?;
    // SAFETY: a value of this map: eight aligned words, valid while the program runs.
    Some(unsafe { MapWords::new(value) })
}

#[inline(always)]
fn lru_key(flow: &Flow) -> [u64; 5] {
    let last = flow.key.word() | (flow.source_port as u64) << 48;
    [flow.source.0[0], flow.source.0[1], flow.key.vip.0[0], flow.key.vip.0[1], last]
}

impl Tables for LruTables {
    type Words = MapWords<8>;

    #[inline(always)]
    fn control(&self) -> Option<Control<MapWords<8>>> {
        words(&WEIR_CONTROL, 0).map(Control)
    }
    #[inline(always)]
    fn service(&self, index: u32) -> Option<Service<MapWords<8>>> {
        words(&WEIR_SERVICES, index).map(Service)
    }
    #[inline(always)]
    fn ring_slot(&self, index: u32) -> Option<RingSlot> {
        let slot = WEIR_RINGS.get_ptr(index)?;
        // SAFETY: a value of this map: one aligned word, valid while the program runs.
        Some(RingSlot(unsafe { slot.read_volatile() }))
    }
    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend<MapWords<8>>> {
        words(&WEIR_BACKENDS, id).map(Backend)
    }
    #[inline(always)]
    fn flow_bucket(&self, _index: u32) -> Option<MapWords<8>> {
        None
    }
    #[inline(always)]
    fn jiffies(&self) -> u64 {
        Maps::jiffies()
    }
    #[inline(always)]
    fn count(&self, reason: Reason, bytes: u64) {
        Maps::count(WEIR_REASONS.get_ptr_mut(reason as u32), bytes);
    }
    #[inline(always)]
    fn count_backend(&self, id: u32, bytes: u64) {
        Maps::count(WEIR_BCOUNTS.get_ptr_mut(id), bytes);
    }
    // What the measured services never ask for.
    #[inline(always)]
    fn fragment_bucket(&self, _index: u32) -> Option<MapWords<8>> {
        None
    }
    #[inline(always)]
    fn vip_prefix(&self, _family: Family, _address: Address) -> Option<u8> {
        None
    }
    #[inline(always)]
    fn source_rule(&self, _list: u32, _address: Address) -> Option<SourceRule> {
        None
    }
    #[inline(always)]
    fn server(&self, _key: ServerKey) -> Option<u32> {
        None
    }
    #[inline(always)]
    fn budget(&self, _service_id: u32) -> Option<BudgetWord<MapWords<8>>> {
        None
    }
    #[inline(always)]
    fn limiter(&self) -> Option<BudgetWord<MapWords<8>>> {
        None
    }
    #[inline(always)]
    fn recall(&self, flow: &Flow, _memory: &Memory) -> Option<Recall> {
        // SAFETY: the value is one word, read at once.
        let word = *unsafe { BENCH_LRU.get(lru_key(flow)) }?;
        Some(Recall { way: 0, entry: FlowEntry(word) })
    }
    #[inline(always)]
    fn touch(&self, _memory: &Memory, _recall: &Recall, _confirm: bool) {}
    #[inline(always)]
    fn remember(&self, flow: &Flow, memory: &Memory, _stale: Option<&Recall>, backend: u32, confirmed: bool) {
        let entry = FlowEntry::new(memory.tag, backend, memory.now, confirmed);
        let _ = BENCH_LRU.insert(lru_key(flow), entry.0, 0);
    }
}

/// The director over the kernel's LRU hash.
#[xdp]
fn lru(ctx: XdpContext) -> u32 {
    let action = match plain(&mut XdpFrame::<false>(&ctx), &LruTables) {
        Some(outcome) => outcome.action,
        None => match scratch(&BENCH_SCRATCH) {
            Some(scratch) => general(&mut XdpFrame::<true>(&ctx), &LruTables, scratch).action(),
            None => Action::Drop,
        },
    };
    xdp_action(&ctx, action)
}

const _: () = assert!(FLOWS_PER_BUCKET == 8, "a bucket is read as one record of eight words");

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
