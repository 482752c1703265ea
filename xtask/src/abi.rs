//! The bytes shared with the kernel must not change unless their version does.
//!
//! Owns: `crates/weir-abi/abi.lock`. May not touch: weir-abi itself; it is read as tokens.
//! Invariant: two releases with the same `ABI_VERSION` have the same tokens in weir-abi, so a pin left by one
//! can be used by the other.
//!
//! Comments, layout and tests do not count. Constants and functions do: the meaning of a bit is as much part
//! of the agreement as its place. That asks for a blessing more often than needed, never less.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, anyhow, bail};

use crate::{source, workspace::Workspace};

const SOURCES: &str = "crates/weir-abi/src";
const LOCK: &str = "crates/weir-abi/abi.lock";
const HEADER: &str = "\
# What weir shares with the kernel, as of the version below: a hash over the tokens of this crate, without
# comments and tests. CI refuses a change of the hash without one of `ABI_VERSION` in src/lib.rs.
#
# After a change: raise ABI_VERSION, then `cargo xtask check-abi --bless`. While the version is in no release,
# or where the bytes and their meaning stay the same (a rename, a new function):
# `cargo xtask check-abi --bless --unreleased`. This file is written by that command only.
";

/// A version and the hash of what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Abi {
    version: u32,
    hash: u64,
}

/// Compares the sources with the lock.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<String> {
    let now = Abi::of_sources(&workspace.root.join(SOURCES))?;
    let path = workspace.root.join(LOCK);
    let text = fs::read_to_string(&path)
        .map_err(|error| anyhow!("cannot read {LOCK}: {error}\nrun `cargo xtask check-abi --bless`"))?;
    let locked = Abi::parse(&text).with_context(|| format!("{LOCK} makes no sense; restore it from git"))?;
    compare(&locked, &now)?;
    Ok(format!("check-abi: version {} is what {LOCK} says", now.version))
}

/// Writes the lock, unless that would give one version two meanings.
pub(crate) fn bless(workspace: &Workspace, unreleased: bool) -> anyhow::Result<String> {
    let now = Abi::of_sources(&workspace.root.join(SOURCES))?;
    if !unreleased && let Some(committed) = committed(&workspace.root)? {
        may_follow(&committed, &now)?;
    }
    let path = workspace.root.join(LOCK);
    fs::write(&path, now.to_text()).with_context(|| format!("cannot write {LOCK}"))?;
    Ok(format!("check-abi: recorded version {} in {LOCK}", now.version))
}

fn compare(locked: &Abi, now: &Abi) -> anyhow::Result<()> {
    if locked.version == now.version && locked.hash != now.hash {
        bail!(
            "weir-abi changed but ABI_VERSION is still {}, so an old pin would be taken for a new one\n\
             raise ABI_VERSION in {SOURCES}/lib.rs and run `cargo xtask check-abi --bless`; if version {} is in no \
             release, or bytes and meaning are the same: `cargo xtask check-abi --bless --unreleased`",
            now.version,
            now.version
        );
    }
    if locked != now {
        bail!(
            "ABI_VERSION is {} and {LOCK} records {}\nrun `cargo xtask check-abi --bless` and commit the file",
            now.version,
            locked.version
        );
    }
    Ok(())
}

fn may_follow(committed: &Abi, now: &Abi) -> anyhow::Result<()> {
    if now.version < committed.version {
        bail!("ABI_VERSION went back from {} to {}; it only ever grows", committed.version, now.version);
    }
    if now.version == committed.version && now.hash != committed.hash {
        bail!(
            "weir-abi changed since the last commit but ABI_VERSION is still {}\nraise it in {SOURCES}/lib.rs; if \
             this version is in no release, or bytes and meaning are the same, add --unreleased",
            now.version
        );
    }
    Ok(())
}

/// The lock in git's `HEAD`; none before its first commit.
fn committed(root: &Path) -> anyhow::Result<Option<Abi>> {
    let output = Command::new("git")
        .args(["show", &format!("HEAD:{LOCK}")])
        .current_dir(root)
        .output()
        .context("cannot run git to see the committed lock")?;
    if !output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Abi::parse(&text).map(Some).with_context(|| format!("{LOCK} in HEAD makes no sense"))
}

impl Abi {
    fn of_sources(directory: &Path) -> anyhow::Result<Self> {
        let files = source::rust_files(directory)?;
        let mut text = String::new();
        for file in &files {
            text.push_str(&name_line(directory, file));
            text.push_str(&source::canonical(source::read(file)?));
        }
        let version = version(&text).with_context(|| {
            format!("{SOURCES} has no `pub const ABI_VERSION: u32 = N;` with a plain number")
        })?;
        Ok(Self { version, hash: fnv1a(text.as_bytes()) })
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='))?;
            Some(value.trim().trim_matches('"').to_owned())
        };
        let hash = u64::from_str_radix(&field("hash")?, 16).ok()?;
        Some(Self { version: field("version")?.parse().ok()?, hash })
    }

    fn to_text(&self) -> String {
        format!("{HEADER}version = {}\nhash = \"{:016x}\"\n", self.version, self.hash)
    }
}

fn name_line(directory: &Path, file: &Path) -> String {
    format!("file {}\n", file.strip_prefix(directory).unwrap_or(file).display())
}

/// The number in `pub const ABI_VERSION: u32 = N;`.
fn version(canonical: &str) -> Option<u32> {
    let (_, rest) = canonical.split_once("const\nABI_VERSION\n:\nu32\n=\n")?;
    rest.lines().next()?.parse().ok()
}

/// FNV-1a, 64 bits: enough to notice a change nobody made on purpose to collide.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Abi = Abi { version: 1, hash: 0xabc };

    #[test]
    fn the_lock_reads_back() {
        assert_eq!(Abi::parse(&ONE.to_text()), Some(ONE));
        assert_eq!(Abi::parse("version = 1\n"), None);
    }

    #[test]
    fn a_change_without_a_new_version_is_refused() {
        compare(&ONE, &ONE).expect("nothing changed");
        let changed = Abi { hash: 0xabd, ..ONE };
        assert!(compare(&ONE, &changed).expect_err("same version").to_string().contains("still 1"));
        assert!(may_follow(&ONE, &changed).is_err(), "blessing must not hide it");
        let raised = Abi { version: 2, ..changed };
        assert!(compare(&ONE, &raised).expect_err("not recorded yet").to_string().contains("--bless"));
        may_follow(&ONE, &raised).expect("a new version may be recorded");
        assert!(may_follow(&raised, &ONE).is_err(), "versions only grow");
    }

    #[test]
    fn the_sources_have_a_version_and_a_hash_that_follows_them() {
        let directory = std::env::temp_dir().join(format!("weir-abi-{}", std::process::id()));
        let of = |text: &str| {
            fs::create_dir_all(&directory).expect("temporary directory");
            fs::write(directory.join("lib.rs"), text).expect("temporary file");
            let abi = Abi::of_sources(&directory);
            fs::remove_dir_all(&directory).expect("temporary directory");
            abi
        };
        let first = of("pub const ABI_VERSION: u32 = 3; struct A(u8);").expect("a version");
        let commented =
            of("/// Doc.\npub const ABI_VERSION: u32 = 3;\n\n// why\nstruct A(u8);").expect("a version");
        let changed = of("pub const ABI_VERSION: u32 = 3; struct A(u16);").expect("a version");
        assert_eq!((first.version, &first), (3, &commented));
        assert_ne!(first.hash, changed.hash);
        assert!(of("struct A(u8);").is_err());
    }
}
