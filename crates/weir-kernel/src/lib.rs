//! The kernel as weir sees it.
//!
//! Owns everything that talks to the kernel: BPF objects and their pins (with aya), netlink, ethtool, sysctls and
//! network namespaces. Holds no policy and knows no configuration syntax.

// System calls that no safe wrapper offers: bpf(2), mapping tables, ioctls, and entering namespaces between fork and exec.
#![allow(unsafe_code)]

pub mod bpf;
pub mod net;
pub mod signal;
