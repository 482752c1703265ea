//! Building weir's BPF objects from source.
//!
//! Owns: which compiler and which linker build for `bpfel-unknown-none`, with which flags, and where
//! the objects end up. Used by `weir-kernel`'s build script and by `cargo xtask`.
//! May not touch: what the programs do, the kernel, installing anything (that is `cargo xtask setup`).
//! Invariant: the environment a build script inherits from the outer cargo never reaches the inner
//! one, so that the objects depend on the sources and the two tools only.
//!
//! The BPF target has no precompiled `core`, so building needs a compiler with its library source, and
//! `-Z build-std`; see [`Rustc`]. The linker works on LLVM bitcode; see [`Linker`].
//!
//! | variable | meaning |
//! | --- | --- |
//! | `WEIR_BPF_RUSTC` | the compiler to use; must come with its library source |
//! | `WEIR_BPF_LINKER` | the `bpf-linker` to use, as new as that compiler's LLVM or newer |
//! | `WEIR_TOOLS` | weir's tool cache; default `$XDG_CACHE_HOME/weir`, else `~/.cache/weir` |
//! | `RUSTUP_HOME` | where rustup keeps its toolchains; default `~/.rustup` |

mod error;
mod linker;
mod objects;
mod rustc;

pub use error::Error;
pub use linker::{LINKER_VERSION, LLVM_MAJORS, Linker, link_root, tools_dir};
pub use objects::{Built, Request, Toolchain, bins, build, shared_target_dir};
pub use rustc::{MIN_RUSTC, Rustc};

/// The environment variables that choose the tools; a build script should rerun when they change.
pub const ENV: [&str; 4] = ["WEIR_BPF_RUSTC", "WEIR_BPF_LINKER", "WEIR_TOOLS", "RUSTUP_HOME"];

/// The package with the BPF programs, one binary target each.
pub const PACKAGE: &str = "weir-ebpf";

/// The target triple of the programs.
pub const TARGET: &str = "bpfel-unknown-none";
