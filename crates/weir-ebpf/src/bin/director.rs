//! The director: wraps packets to services and sends them to backends.
#![no_std]
#![no_main]
#![allow(unsafe_code)] // map values are reached through pointers; see weir_ebpf
#![allow(clippy::needless_pass_by_value)] // the entry point macros hand the context over by value

use aya_ebpf::{
    macros::{map, xdp},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, lpm_trie::Key},
    programs::XdpContext,
};
use weir_abi::{
    Address, Backend, Control, Count, FLOWS_PER_BUCKET, Family, PrefixKey, Reason, RingSlot, ServerKey,
    Service, SourceRule, map as abi,
};
use weir_datapath::{Action, BudgetWord, Tables, general, plain};
use weir_ebpf::{MapWords, Maps, ScratchMap, XdpFragsFrame, XdpFrame, scratch, xdp_action};

#[map]
static WEIR_CONTROL: Array<[u64; 8]> = Array::with_max_entries(1, abi::F_MMAPABLE);
#[map]
static WEIR_SERVICES: Array<[u64; 8]> = Array::with_max_entries(abi::default_size::SERVICES, abi::F_MMAPABLE);
#[map]
static WEIR_RINGS: Array<u64> = Array::with_max_entries(abi::default_size::RINGS, abi::F_MMAPABLE);
#[map]
static WEIR_BACKENDS: Array<[u64; 8]> = Array::with_max_entries(abi::default_size::BACKENDS, abi::F_MMAPABLE);
#[map]
static WEIR_FLOWS: Array<[u64; FLOWS_PER_BUCKET]> =
    Array::with_max_entries(abi::default_size::FLOWS, abi::F_MMAPABLE);
#[map]
static WEIR_REASONS: PerCpuArray<Count> = PerCpuArray::with_max_entries(Reason::COUNT, 0);
#[map]
static WEIR_BCOUNTS: PerCpuArray<Count> = PerCpuArray::with_max_entries(abi::default_size::BACKENDS, 0);

#[map]
static WEIR_FRAGMENTS: Array<[u64; FLOWS_PER_BUCKET]> =
    Array::with_max_entries(abi::default_size::FRAGMENTS, abi::F_MMAPABLE);
#[map]
static WEIR_SERVERS: HashMap<u64, u64> = HashMap::with_max_entries(abi::default_size::SERVERS, 0);
#[map]
static WEIR_SOURCES: LpmTrie<[u8; 20], u64> =
    LpmTrie::with_max_entries(abi::default_size::SOURCES, abi::F_NO_PREALLOC);
#[map]
static WEIR_PREFIXES: LpmTrie<[u8; 20], u64> =
    LpmTrie::with_max_entries(abi::default_size::PREFIXES, abi::F_NO_PREALLOC);
#[map]
static WEIR_BUDGETS: Array<u64> = Array::with_max_entries(abi::default_size::BUDGETS, 0);
#[map]
static WEIR_LIMITER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[map]
static WEIR_SCRATCH: ScratchMap = PerCpuArray::with_max_entries(1, 0);

/// The program array that `director_next` is in; the loader puts the real one in its place.
#[map]
static WEIR_NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// The position after it there.
#[unsafe(no_mangle)]
static WEIR_NEXT_POSITION: u32 = 0;

struct MapTables;

#[inline(always)]
fn words(map: &'static Array<[u64; 8]>, index: u32) -> Option<MapWords<8>> {
    let value = map.get_ptr_mut(index)?;
    // SAFETY: a value of this map: eight aligned words, valid while the program runs.
    Some(unsafe { MapWords::new(value) })
}

#[inline(always)]
fn longest_prefix(trie: &'static LpmTrie<[u8; 20], u64>, key: PrefixKey) -> Option<u64> {
    // SAFETY: both are 24 bytes of which the first four are the number of bits; `Key` has no alignment.
    let key = unsafe { &*(&raw const key).cast::<Key<[u8; 20]>>() };
    trie.get(key).copied()
}

#[inline(always)]
fn budget_word(value: Option<*mut u64>) -> Option<BudgetWord<MapWords<8>>> {
    let value = value?;
    // SAFETY: the value is one word, and only its first word is ever accessed ([`BudgetWord`]); the verifier would refuse
    // any other.
    Some(BudgetWord(unsafe { MapWords::new(value.cast()) }))
}

impl Tables for MapTables {
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
    fn flow_bucket(&self, index: u32) -> Option<MapWords<8>> {
        words(&WEIR_FLOWS, index)
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
    #[inline(always)]
    fn fragment_bucket(&self, index: u32) -> Option<MapWords<8>> {
        words(&WEIR_FRAGMENTS, index)
    }
    #[inline(always)]
    fn vip_prefix(&self, family: Family, address: Address) -> Option<u8> {
        longest_prefix(&WEIR_PREFIXES, PrefixKey::vip(family, address)).map(|len| len as u8)
    }
    #[inline(always)]
    fn source_rule(&self, list: u32, address: Address) -> Option<SourceRule> {
        longest_prefix(&WEIR_SOURCES, PrefixKey::source(list, address)).map(SourceRule)
    }
    #[inline(always)]
    fn server(&self, key: ServerKey) -> Option<u32> {
        let value = WEIR_SERVERS.get_ptr(key.0)?;
        // SAFETY: a value of this map: one aligned word, valid while the program runs.
        Some(unsafe { value.read_volatile() } as u32)
    }
    #[inline(always)]
    fn budget(&self, service_id: u32) -> Option<BudgetWord<MapWords<8>>> {
        budget_word(WEIR_BUDGETS.get_ptr_mut(service_id))
    }
    #[inline(always)]
    fn limiter(&self) -> Option<BudgetWord<MapWords<8>>> {
        budget_word(WEIR_LIMITER.get_ptr_mut(0))
    }
}

#[inline(always)]
fn decide(ctx: &XdpContext) -> Action {
    match plain(&mut XdpFrame::<false>(ctx), &MapTables) {
        Some(outcome) => outcome.action,
        None => match scratch(&WEIR_SCRATCH) {
            Some(scratch) => general(&mut XdpFrame::<true>(ctx), &MapTables, scratch).action(),
            None => Action::Drop,
        },
    }
}

/// The same, with an MTU beyond one buffer.
#[inline(always)]
fn decide_frags(ctx: &XdpContext) -> Action {
    match plain(&mut XdpFragsFrame::<false>::new(ctx), &MapTables) {
        Some(outcome) => outcome.action,
        None => match scratch(&WEIR_SCRATCH) {
            Some(scratch) => general(&mut XdpFragsFrame::<true>::new(ctx), &MapTables, scratch).action(),
            None => Action::Drop,
        },
    }
}

/// Packets that are passed go on to the next program of the array this one is in; where there is none, to the kernel.
#[inline(always)]
fn hand_on(ctx: &XdpContext, action: Action) -> u32 {
    if let Action::Pass = action {
        // SAFETY: a constant that the loader sets; volatile, or the compiler would take the value it sees here for the
        // one there will be.
        let next = unsafe { (&raw const WEIR_NEXT_POSITION).read_volatile() };
        // SAFETY: no value with a destructor is alive; the context is the one the kernel called us with.
        unsafe { WEIR_NEXT.tail_call(ctx, next) };
    }
    xdp_action(ctx, action)
}

/// XDP entry point.
#[xdp]
fn director(ctx: XdpContext) -> u32 {
    xdp_action(&ctx, decide(&ctx))
}

/// The same, with an MTU beyond one buffer.
#[xdp(frags)]
fn director_frags(ctx: XdpContext) -> u32 {
    xdp_action(&ctx, decide_frags(&ctx))
}

/// In a program array, where another program comes after it.
#[xdp]
fn director_next(ctx: XdpContext) -> u32 {
    hand_on(&ctx, decide(&ctx))
}

/// The same, with an MTU beyond one buffer. (The kernel keeps 15 bytes of a name.)
#[xdp(frags)]
fn director_next_f(ctx: XdpContext) -> u32 {
    hand_on(&ctx, decide_frags(&ctx))
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
