//! A root: calls the programs of an array, position after position, for machines with more than one XDP program.
//!
//! A call does not return: the first position that holds a program decides, and whether later ones are called is for
//! that program to say. A packet that nobody takes is passed.
#![no_std]
#![no_main]
#![allow(unsafe_code)] // a tail call leaves the function, which only its caller can know to be fine
#![allow(clippy::needless_pass_by_value)] // the entry point macros hand the context over by value

use weir_ebpf as _; // the panic handler

use aya_ebpf::{
    bindings::xdp_action::XDP_PASS,
    macros::{map, xdp},
    maps::ProgramArray,
    programs::XdpContext,
};

/// A call of a constant position of an empty array costs nothing but a jump.
const POSITIONS: u32 = 8;

#[map]
static WEIR_ROOT: ProgramArray = ProgramArray::with_max_entries(POSITIONS, 0);

#[inline(always)]
fn call_each(ctx: &XdpContext) -> u32 {
    for position in 0..POSITIONS {
        // SAFETY: no value with a destructor is alive; the context is the one the kernel called us with.
        unsafe { WEIR_ROOT.tail_call(ctx, position) };
    }
    XDP_PASS
}

/// XDP entry point.
#[xdp]
fn root(ctx: XdpContext) -> u32 {
    call_each(&ctx)
}

/// The same, with an MTU beyond one buffer.
#[xdp(frags)]
fn root_frags(ctx: XdpContext) -> u32 {
    call_each(&ctx)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
