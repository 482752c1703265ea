//! What weir's BPF programs have in common: the frame behind an XDP context, and words behind a map value.
//!
//! Owns: context -> [`weir_datapath::Frame`], map value -> [`weir_abi::Words`], outcome -> XDP action. Holds no protocol
//! constant and takes no decision; those are in `weir-datapath`. Invariant: every packet access is checked against the
//! packet's end on the way in, which the verifier proves again at load.
#![no_std]
#![allow(unsafe_code)] // a BPF program touches memory through pointers the kernel hands it; the verifier checks each use

mod action;
mod frags;
mod frame;
mod words;

pub use action::{Maps, ScratchMap, scratch, xdp_action};
pub use frags::XdpFragsFrame;
pub use frame::XdpFrame;
pub use words::MapWords;

/// Reachable panics become an endless loop, which the verifier refuses: a program that loads cannot panic.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
