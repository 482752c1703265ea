//! Finding a Rust compiler that can build `core` for the BPF target.
//!
//! Owns: the order of the candidates and what makes one usable. May not touch: the linker.
//! Invariant: a [`Rustc`] has been run once and its library source exists.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, LLVM_MAJORS};

/// The oldest compiler (major, minor) that builds weir's BPF crate.
pub const MIN_RUSTC: (u32, u32) = (1, 89);

/// A compiler together with the source of its library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rustc {
    /// The compiler itself, never rustup's proxy.
    pub path: PathBuf,
    /// The cargo of the same toolchain, where it has one.
    pub cargo: Option<PathBuf>,
    /// The root of the toolchain: libraries are in its `lib`.
    pub sysroot: PathBuf,
    /// What the compiler calls its version, such as `1.96.0`.
    pub release: String,
    /// The major version of the LLVM whose bitcode it writes.
    pub llvm: u32,
}

/// What `rustc -vV` says, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    release: String,
    number: (u32, u32),
    llvm: u32,
}

impl Rustc {
    /// The first usable compiler: `WEIR_BPF_RUSTC`; the active toolchain; rustup's nightlies; rustup's
    /// others; the system's own (Debian's `rustc-web` with `rust-web-src`).
    ///
    /// The active toolchain comes first because `bpf-linker` is built with it, so that their LLVMs match.
    /// Stable compilers do: they are run with `RUSTC_BOOTSTRAP=1`, as nothing but `-Z build-std` is asked.
    pub fn find() -> Result<Self, Error> {
        if let Some(value) = env::var_os("WEIR_BPF_RUSTC") {
            let path = PathBuf::from(&value);
            return Self::at(&path).map_err(|why| Error::Override {
                variable: "WEIR_BPF_RUSTC",
                value: path.display().to_string(),
                why,
            });
        }
        let mut looked = Vec::new();
        for path in candidates() {
            match Self::at(&path) {
                Ok(found) => return Ok(found),
                Err(why) => looked.push(format!("{}: {why}", path.display())),
            }
        }
        if looked.is_empty() {
            looked.push("none installed".to_owned());
        }
        Err(Error::NoRustc { looked: looked.join("; ") })
    }

    /// The compiler at `path`, or what it lacks.
    pub fn at(path: &Path) -> Result<Self, String> {
        // Cheapest first: most candidates fail for want of the source, without being run.
        let root = path.parent().and_then(Path::parent).ok_or("not the path of a compiler")?;
        let source = root.join("lib/rustlib/src/rust/library/core/Cargo.toml");
        if !source.is_file() {
            return Err("no library source".to_owned());
        }
        let version = Version::ask(path)?;
        if version.number < MIN_RUSTC {
            return Err(format!("version {} is older than {}.{}", version.release, MIN_RUSTC.0, MIN_RUSTC.1));
        }
        let newest = *LLVM_MAJORS.end();
        if version.llvm > newest {
            return Err(format!("its LLVM {} is newer than {newest}, which bpf-linker knows", version.llvm));
        }
        let cargo = root.join("bin/cargo");
        Ok(Self {
            path: path.to_owned(),
            cargo: (cargo.is_file() && !is_system(root)).then_some(cargo),
            sysroot: root.to_owned(),
            release: version.release,
            llvm: version.llvm,
        })
    }
}

/// A distribution's cargo may be far older than its rustc (Debian packages them apart).
fn is_system(root: &Path) -> bool {
    root == Path::new("/usr")
}

impl Version {
    fn ask(rustc: &Path) -> Result<Self, String> {
        let output = Command::new(rustc)
            .arg("-vV")
            .env_remove("LD_LIBRARY_PATH")
            .output()
            .map_err(|error| format!("cannot be run: {error}"))?;
        if !output.status.success() {
            return Err(format!("`rustc -vV` failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| "`rustc -vV` made no sense".into())
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let release = field("release:")?.to_owned();
        let mut parts = release.split(['.', '-']);
        let number = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
        Some(Self { release, number, llvm })
    }
}

/// Every compiler worth looking at, best first, without repetitions.
fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut push = |path: PathBuf| {
        if path.is_file() && !found.contains(&path) {
            found.push(path);
        }
    };
    if let Some(sysroot) = active_sysroot() {
        push(sysroot.join("bin/rustc"));
    }
    let mut toolchains: Vec<PathBuf> = rustup_home()
        .and_then(|home| std::fs::read_dir(home.join("toolchains")).ok())
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    toolchains.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (!name.starts_with("nightly"), name)
    });
    for toolchain in toolchains {
        push(toolchain.join("bin/rustc"));
    }
    push(PathBuf::from("/usr/bin/rustc"));
    found
}

/// Where the compiler that cargo uses now (or the one in `PATH`) is installed.
fn active_sysroot() -> Option<PathBuf> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn rustup_home() -> Option<PathBuf> {
    match env::var_os("RUSTUP_HOME") {
        Some(home) => Some(home.into()),
        None => Some(PathBuf::from(env::var_os("HOME")?).join(".rustup")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_stable_and_nightly() {
        let text = "rustc 1.97.0-nightly (abc 2026-05-01)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        let expected = Version { release: "1.97.0-nightly".into(), number: (1, 97), llvm: 22 };
        assert_eq!(Version::parse(text), Some(expected));
        assert_eq!(
            Version::parse("release: 1.96.0\nLLVM version: 23.0\n").map(|v| (v.number, v.llvm)),
            Some(((1, 96), 23))
        );
        assert_eq!(Version::parse("release: 1.96.0\n"), None, "a compiler without LLVM cannot be used");
    }

    #[test]
    fn a_compiler_without_source_is_not_usable() {
        let root = env::temp_dir().join(format!("weir-bpf-build-{}", std::process::id()));
        std::fs::create_dir_all(root.join("bin")).expect("temporary directory");
        let why = Rustc::at(&root.join("bin/rustc")).expect_err("there is no source");
        std::fs::remove_dir_all(&root).expect("temporary directory");
        assert_eq!(why, "no library source");
    }
}
