//! Passes every packet: what the peer of a veth needs so that the other end's XDP_TX arrives.
#![no_std]
#![no_main]
#![allow(unsafe_code)] // link sections are unsafe attributes
#![allow(clippy::needless_pass_by_value)] // the entry point macros hand the context over by value

use weir_ebpf as _; // the panic handler

use aya_ebpf::{bindings::xdp_action::XDP_PASS, macros::xdp, programs::XdpContext};

/// XDP entry point.
#[xdp]
fn pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// The same, with an MTU beyond one buffer.
#[xdp(frags)]
fn pass_frags(_: XdpContext) -> u32 {
    XDP_PASS
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
