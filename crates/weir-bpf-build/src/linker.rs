//! Finding bpf-linker.
//!
//! Owns: where weir's tool cache is and how it is laid out. May not touch: the compiler.
//! Invariant: a [`Linker`] from the tool cache has been run once, so its LLVM library still loads.

use std::{
    env,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::Error;

/// The version of bpf-linker that weir is built and tested with.
pub const LINKER_VERSION: &str = "0.13.0";

/// The LLVM major versions that [`LINKER_VERSION`] can be built against.
pub const LLVM_MAJORS: RangeInclusive<u32> = 21..=23;

/// A bpf-linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker {
    /// The program.
    pub path: PathBuf,
    /// What it calls its version, such as `0.13.0`.
    pub version: String,
}

impl Linker {
    /// A linker for bitcode of LLVM `llvm`: `WEIR_BPF_LINKER`, then the tool cache (same LLVM first, then
    /// newer ones), then `PATH`.
    ///
    /// A linker does not say which LLVM it was built with. The override is trusted; one from `PATH` must be of
    /// [`LINKER_VERSION`] or newer, which is by default built with an LLVM as new as it knows.
    pub fn find(llvm: u32) -> Result<Self, Error> {
        if let Some(value) = env::var_os("WEIR_BPF_LINKER") {
            let path = PathBuf::from(value);
            return Self::at(&path).map_err(|why| Error::Override {
                variable: "WEIR_BPF_LINKER",
                value: path.display().to_string(),
                why,
            });
        }
        let tools = tools_dir();
        let cached = tools.iter().flat_map(|tools| {
            (llvm..=*LLVM_MAJORS.end()).map(|llvm| link_root(tools, llvm).join("bin/bpf-linker"))
        });
        let path = env::var_os("PATH").unwrap_or_default();
        let on_path = env::split_paths(&path).map(|directory| directory.join("bpf-linker"));
        let recent = |path: PathBuf| Self::at(&path).ok().filter(Self::is_recent);
        cached.filter_map(|path| Self::at(&path).ok()).chain(on_path.filter_map(recent)).next().ok_or_else(
            || {
                let looked = match &tools {
                    Some(tools) => format!("{} or in PATH", tools.display()),
                    None => "PATH".to_owned(),
                };
                Error::NoLinker { llvm, looked }
            },
        )
    }

    fn is_recent(&self) -> bool {
        numbers(&self.version) >= numbers(LINKER_VERSION)
    }

    /// The linker at `path`, or why it does not run.
    pub fn at(path: &Path) -> Result<Self, String> {
        if !path.is_file() {
            return Err("there is no such file".to_owned());
        }
        let output = Command::new(path)
            .arg("--version")
            .env_remove("LD_LIBRARY_PATH")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("it cannot be run: {error}"))?;
        if !output.status.success() {
            return Err(format!("`--version` failed ({}); its LLVM library may be gone", output.status));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let version = said.trim().strip_prefix("bpf-linker ").ok_or("it does not say it is bpf-linker")?;
        Ok(Self { path: path.to_owned(), version: version.to_owned() })
    }
}

/// Major, minor and patch, for comparing.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Weir's tool cache: `WEIR_TOOLS`, `$XDG_CACHE_HOME/weir` or `~/.cache/weir`; none without a home.
pub fn tools_dir() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("WEIR_TOOLS")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("weir")))
        .or_else(|| Some(set("HOME")?.join(".cache/weir")))
}

/// Where in the tool cache the linker built against LLVM `llvm` lives: the program in `bin`, its LLVM in
/// `lib`.
pub fn link_root(tools: &Path, llvm: u32) -> PathBuf {
    tools.join(format!("bpf-linker-{LINKER_VERSION}-llvm{llvm}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_linkers_of_different_llvms_apart() {
        let tools = Path::new("/cache");
        assert_ne!(link_root(tools, 21), link_root(tools, 22));
        assert!(link_root(tools, 22).starts_with(tools));
    }

    #[test]
    fn versions_compare_as_numbers() {
        let linker = |version: &str| Linker { path: PathBuf::new(), version: version.into() };
        assert!(linker("0.13.0").is_recent() && linker("0.100.0").is_recent() && linker("1.0.0").is_recent());
        assert!(!linker("0.9.15").is_recent());
    }

    #[test]
    fn a_program_that_fails_is_not_a_linker() {
        assert!(Linker::at(Path::new("/bin/false")).expect_err("it fails").contains("--version"));
        assert!(
            Linker::at(Path::new("/nonexistent/bpf-linker"))
                .expect_err("it is not there")
                .contains("no such")
        );
    }
}
