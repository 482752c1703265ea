//! Why the BPF objects could not be built, each as a line of cause and a line of advice.

use std::{io, path::PathBuf};

/// Why the BPF objects could not be built. Displays as one line of cause and one line of advice.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No compiler with library source was found.
    #[error(
        "cannot build the BPF programs: no Rust compiler with its library source was found ({looked})\n\
         run `cargo xtask setup`, or `rustup component add rust-src`"
    )]
    NoRustc {
        /// Which compilers were looked at and what each lacks.
        looked: String,
    },
    /// A compiler was found, but nothing to link with.
    #[error(
        "cannot build the BPF programs: no bpf-linker that reads LLVM {llvm} was found in {looked}\n\
         run `cargo xtask setup`"
    )]
    NoLinker {
        /// The LLVM major version the compiler writes.
        llvm: u32,
        /// The places looked at.
        looked: String,
    },
    /// An override points at something that does not work.
    #[error(
        "{variable}={value} cannot be used: {why}\ncorrect {variable}, or unset it to let weir look by itself"
    )]
    Override {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {doing} {}: {source}\ncheck the directory's permissions and free space", path.display())]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The inner cargo could not be started.
    #[error("cannot run {}: {source}\nrun `cargo xtask setup`", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The inner cargo ran and failed; its own output says why.
    #[error(
        "building the BPF programs failed ({status}; rustc {rustc}, linker {linker}); the reason is above\n\
         if it is not an error in the source, run `cargo xtask setup` to renew the tools"
    )]
    Build {
        /// How cargo ended.
        status: String,
        /// The compiler.
        rustc: String,
        /// The linker.
        linker: String,
    },
}
