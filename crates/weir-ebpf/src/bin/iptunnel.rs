//! `weir iptunnel`: the maps of Linux's `xdp_tx_iptunnel` sample behind the packet logic.
#![no_std]
#![no_main]
#![allow(unsafe_code)] // map values are reached through pointers; see weir_ebpf
#![allow(clippy::needless_pass_by_value)] // the entry point macros hand the context over by value

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    helpers::bpf_get_prandom_u32,
    macros::{map, xdp},
    maps::{Array, HashMap, PerCpuArray},
    programs::XdpContext,
};
use weir_abi::iptunnel::{DropReason, RXCNT_ENTRIES, Tunnel, VIP2TNL_ENTRIES, Vip};
use weir_datapath::iptunnel::{Tables, Verdict, process};
use weir_ebpf::XdpFrame;

#[map(name = "vip2tnl")]
static VIP2TNL: HashMap<Vip, Tunnel> = HashMap::with_max_entries(VIP2TNL_ENTRIES, 0);
#[map(name = "rxcnt")]
static RXCNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(RXCNT_ENTRIES, 0);
#[map(name = "iptnl_drops")]
static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DropReason::ALL.len() as u32, 0);
#[map(name = "iptnl_mtu")]
static MTU: Array<u32> = Array::with_max_entries(1, 0);

struct MapTables;

impl Tables for MapTables {
    #[inline(always)]
    fn tunnel(&self, vip: &Vip) -> Option<Tunnel> {
        let value = VIP2TNL.get_ptr(vip)?;
        // SAFETY: a value of this map, valid while the program runs; any bytes are a `Tunnel`. Where user space replaces
        // the entry meanwhile, the kernel puts another element in its place and leaves this one as it is.
        Some(unsafe { *value })
    }
    #[inline(always)]
    fn mtu(&self) -> u32 {
        match MTU.get_ptr(0) {
            // SAFETY: a value of this map: one aligned word, valid while the program runs.
            Some(mtu) => unsafe { mtu.read_volatile() },
            None => 0,
        }
    }
    #[inline(always)]
    fn fresh_id(&self) -> [u8; 2] {
        // SAFETY: takes nothing, returns a number.
        let random = unsafe { bpf_get_prandom_u32() };
        (random as u16).to_be_bytes()
    }
    #[inline(always)]
    fn count(&self, protocol: u8) {
        increment(&RXCNT, protocol as u32);
    }
    #[inline(always)]
    fn count_drop(&self, reason: DropReason) {
        increment(&DROPS, reason as u32);
    }
}

#[inline(always)]
fn increment(counters: &PerCpuArray<u64>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: a per-CPU map value: ours alone while the program runs, aligned and live that long.
        unsafe { *counter += 1 };
    }
}

/// XDP entry point.
#[xdp]
fn xdp_tx_iptunnel(ctx: XdpContext) -> u32 {
    match process(&mut XdpFrame::<false>(&ctx), &MapTables) {
        Verdict::Pass(_) => XDP_PASS,
        Verdict::Drop(_) => XDP_DROP,
        Verdict::Transmit => XDP_TX,
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
