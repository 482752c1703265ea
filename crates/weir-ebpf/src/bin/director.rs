//! The director: wraps packets to services and sends them to backends.
#![no_std]
#![no_main]
#![allow(unsafe_code)] // map values are reached through pointers; see weir_ebpf
#![allow(clippy::needless_pass_by_value)] // the entry point macros hand the context over by value

use aya_ebpf::{
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};
use weir_abi::{Backend, Control, Count, FLOWS_PER_BUCKET, Reason, RingSlot, Service, map as abi};
use weir_datapath::{Tables, process};
use weir_ebpf::{MapWords, Maps, XdpFrame, xdp_action};

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

struct MapTables;

#[inline(always)]
fn words(map: &'static Array<[u64; 8]>, index: u32) -> Option<MapWords<8>> {
    let value = map.get_ptr_mut(index)?;
    // SAFETY: a value of this map: eight aligned words, valid while the program runs.
    Some(unsafe { MapWords::new(value) })
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
}

/// XDP entry point.
#[xdp]
fn director(ctx: XdpContext) -> u32 {
    let outcome = process(&mut XdpFrame(&ctx), &MapTables);
    xdp_action(&ctx, outcome.action)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
