//! bpf-linker, built against an LLVM that is already on the machine.
//!
//! Owns: weir's tool cache. May not touch: `~/.cargo/bin` and whatever linker the user has there.
//! Invariant: the linker's LLVM is kept beside it, so that updating the toolchain does not break the linker.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use weir_bpf_build::{Error, LINKER_VERSION, LLVM_MAJORS, Linker, Rustc, link_root, tools_dir};

use crate::console;

/// Smaller files called libLLVM are linker scripts that name the real one.
const SMALLEST_LIBRARY: u64 = 1 << 20;

/// A linker for the bitcode of `rustc`, built if there is none.
pub(super) fn ensure(rustc: &Rustc) -> anyhow::Result<()> {
    match Linker::find(rustc.llvm) {
        Ok(_) => return Ok(()),
        Err(Error::NoLinker { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let library = libraries(rustc)
        .into_iter()
        .find(|library| LLVM_MAJORS.contains(&library.major) && library.major >= rustc.llvm);
    let Some(library) = library else {
        bail!(
            "bpf-linker {LINKER_VERSION} cannot be built: no LLVM from {} to {} as a shared library was found\n\
             rustup's stable toolchain has one: run `rustup toolchain install stable`, or set WEIR_BPF_LINKER \
             to a bpf-linker of your own",
            rustc.llvm.max(*LLVM_MAJORS.start()),
            LLVM_MAJORS.end(),
        );
    };
    let tools = tools_dir().context("there is no home directory for weir's tool cache; set WEIR_TOOLS")?;
    build(&tools, &library)?;
    Linker::find(rustc.llvm)?;
    Ok(())
}

/// An LLVM on this machine.
#[derive(Debug, PartialEq, Eq)]
struct Library {
    path: PathBuf,
    major: u32,
}

impl Library {
    /// From a file name such as `libLLVM.so.22.1-rust-1.95.0-stable`, which is also what the dynamic linker
    /// calls it.
    fn named(path: &Path) -> Option<Self> {
        let version = path.file_name()?.to_str()?.strip_prefix("libLLVM.so.")?;
        let major = version.split(['.', '-']).next()?.parse().ok()?;
        Some(Self { path: path.to_owned(), major })
    }
}

/// Every LLVM in the toolchains and in the system, the compiler's own first.
fn libraries(rustc: &Rustc) -> Vec<Library> {
    let mut directories = vec![rustc.sysroot.join("lib")];
    let subdirectories = |path: &Path| -> Vec<PathBuf> {
        let mut found: Vec<_> =
            fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    let rustup = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".rustup")));
    if let Some(rustup) = rustup {
        directories
            .extend(subdirectories(&rustup.join("toolchains")).iter().rev().map(|path| path.join("lib")));
    }
    directories.extend(["/usr/lib64".into(), format!("/usr/lib/{}-linux-gnu", env::consts::ARCH).into()]);
    directories
        .iter()
        .flat_map(|directory| subdirectories(directory))
        .filter(|path| fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() >= SMALLEST_LIBRARY))
        .filter_map(|path| Library::named(&path))
        .collect()
}

fn build(tools: &Path, library: &Library) -> anyhow::Result<()> {
    let root = link_root(tools, library.major);
    let directory = root.join("lib");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    keep(library, &directory)
        .with_context(|| format!("cannot put {} into the tool cache", library.path.display()))?;

    let work = tools.join(format!("build-{}", std::process::id()));
    let mut flags = vec!["-L".to_owned(), directory.display().to_string()];
    flags.push(format!("-Clink-arg=-Wl,-rpath,{}", directory.display()));
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{}", library.major)])
        .arg("--root")
        .arg(&root)
        .arg("--target-dir")
        .arg(&work)
        .current_dir(tools)
        .env("LLVM_PREFIX", &root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    let label = format!(
        "setup: building bpf-linker {LINKER_VERSION} with LLVM {} (one to three minutes)",
        library.major
    );
    let built = console::step(&label, command, Duration::from_secs(1800));
    let cleaned = fs::remove_dir_all(&work);
    built?;
    cleaned.with_context(|| format!("cannot remove {}", work.display()))
}

/// Puts the library beside the linker: the same file where the file system allows it, else a copy.
fn keep(library: &Library, directory: &Path) -> anyhow::Result<()> {
    let name = library.path.file_name().context("it has no name")?;
    let kept = directory.join(name);
    let source = library.path.canonicalize()?;
    remove(&kept)?;
    if fs::hard_link(&source, &kept).is_err() {
        fs::copy(&source, &kept)?;
    }
    let link = directory.join("libLLVM.so");
    remove(&link)?;
    symlink(name, &link)?;
    Ok(())
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_in_the_name() {
        let major = |name: &str| Library::named(Path::new(name)).map(|library| library.major);
        assert_eq!(major("/t/lib/libLLVM.so.22.1-rust-1.95.0-stable"), Some(22));
        assert_eq!(major("/usr/lib/libLLVM.so.23"), Some(23));
        assert_eq!(major("/t/lib/libLLVM-22-rust-1.95.0-stable.so"), None, "a linker script");
        assert_eq!(major("/t/lib/libLLVM.so"), None);
    }
}
