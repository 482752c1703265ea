//! What must not be in a BPF object.
//!
//! Owns: building the objects apart from any crate that embeds them, and reading them as ELF. May not touch:
//! the kernel; whether the verifier accepts them is for weir-kernel's tests.
//! Invariant: an object that passes has no way to panic, and everything was inlined but what is listed here.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind, SymbolKind};
use weir_bpf_build::{Request, Toolchain, bins, build};

use crate::{console, setup, workspace::Workspace};

/// Functions that programs may call rather than inline: their paths, as they stand in mangled names. A call costs stack and
/// hides bounds from the verifier, so each needs a reason. These are the stages of the director's long way and the answers
/// it ends with, which together would need more stack than there is (docs/adr/0015-two-ways.md).
const CALLS_ALLOWED: [&str; 7] = [
    "13weir_datapath6unwrap13unwrap_listed",
    "13weir_datapath5route4read",
    "13weir_datapath5route6choose",
    "13weir_datapath5route4send",
    "13weir_datapath5reply4echo",
    "13weir_datapath5reply7too_big",
    "13weir_datapath5reply11unreachable",
];

/// Parts of the names of functions that only a panic calls.
const PANICS: [&str; 4] = ["panic", "begin_unwind", "unwrap_failed", "expect_failed"];

/// Bytes of an instruction.
const INSTRUCTION: u8 = 8;
/// The instruction `call`; with 1 as its source register it calls a BPF function.
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;

/// Builds the objects and checks each.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<String> {
    setup::for_building()?;
    let bins = bins(&workspace.root)?;
    let target_dir = workspace.target.join("bpf");
    let out_dir = target_dir.join("checked");
    let request =
        Request { workspace_root: &workspace.root, bins: &bins, target_dir: &target_dir, out_dir: &out_dir };
    let built = build(&request)?;
    let mut problems = Vec::new();
    let mut lines = Vec::new();
    for path in &built.objects {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let contents = Contents::read(&bytes).with_context(|| format!("{name} is not a BPF object"))?;
        problems.extend(contents.problems().into_iter().map(|problem| format!("{name}: {problem}")));
        lines.push(format!("{name} {} instructions", contents.instructions));
    }
    if !problems.is_empty() {
        bail!("the BPF objects contain what they must not:\n  {}", problems.join("\n  "));
    }
    Ok(format!("check-bpf: {}", lines.join(", ")))
}

/// Compiles the BPF crate with every warning an error, by clippy where the toolchain has one.
pub(crate) fn lint(workspace: &Workspace, log: &Path) -> anyhow::Result<console::Finished> {
    let toolchain = Toolchain::find()?;
    let target_dir = workspace.target.join("bpf");
    // Clippy must be of the very compiler that builds `core`; a nightly's lints differ from one day to the next.
    let stable_clippy = !toolchain.rustc.release.contains('-')
        && ["bin/cargo-clippy", "bin/clippy-driver", "bin/cargo"]
            .iter()
            .all(|program| toolchain.rustc.sysroot.join(program).is_file())
        && toolchain.rustc.cargo.is_some();
    let mut command =
        toolchain.cargo(if stable_clippy { "clippy" } else { "check" }, &workspace.root, &target_dir);
    if stable_clippy {
        command.arg("--").arg("-Dwarnings");
    } else {
        let flags = command.get_envs().find(|(name, _)| *name == "CARGO_ENCODED_RUSTFLAGS");
        let mut flags = flags.and_then(|(_, value)| value).unwrap_or_default().to_owned();
        flags.push("\u{1f}-Dwarnings");
        command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    console::watch("bpf lint", command, Duration::from_secs(1200), Some(log))
}

/// What matters of an object.
#[derive(Debug, Default)]
struct Contents {
    symbols: Vec<String>,
    /// Functions that are called from some other function.
    called: BTreeSet<String>,
    instructions: usize,
}

impl Contents {
    fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let file = object::File::parse(bytes).map_err(|error| anyhow!("{error}"))?;
        if file.architecture() != object::Architecture::Bpf {
            bail!("it is for {:?}", file.architecture());
        }
        let mut contents = Self::default();
        contents.symbols.extend(file.symbols().filter_map(|symbol| Some(symbol.name().ok()?.to_owned())));
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            let code = section.data().map_err(|error| anyhow!("{error}"))?;
            // `.text` holds functions that are called, or merely kept; everything else is a program.
            if section.name() != Ok(".text") {
                contents.instructions += code.len() / usize::from(INSTRUCTION);
            }
            for (index, instruction) in code.chunks_exact(usize::from(INSTRUCTION)).enumerate() {
                if instruction[0] == CALL && instruction[1] >> 4 == PSEUDO_CALL {
                    let immediate: [u8; 4] =
                        instruction[4..].try_into().context("an instruction of 8 bytes")?;
                    let offset = u64::try_from(index)? * u64::from(INSTRUCTION);
                    contents.called.insert(call_target(
                        &file,
                        &section,
                        offset,
                        i32::from_le_bytes(immediate),
                    )?);
                }
            }
        }
        Ok(contents)
    }

    fn problems(&self) -> Vec<String> {
        let panics = self.symbols.iter().filter(|name| PANICS.iter().any(|part| name.contains(part)));
        let calls = self.called.iter().filter(|name| !CALLS_ALLOWED.iter().any(|path| name.contains(path)));
        panics
            .map(|name| format!("can panic (it has {name}); check bounds and arithmetic where it comes from"))
            .chain(calls.map(|name| {
                format!(
                    "calls {name}; mark that #[inline(always)], or list it in xtask/src/bpf.rs with a reason"
                )
            }))
            .collect()
    }
}

/// The name of the function that the instruction `offset` bytes into `section` calls.
///
/// Immediates count instructions from the one after the call, or from one before the section they point into.
fn call_target(
    file: &object::File<'_>,
    section: &object::Section<'_, '_>,
    offset: u64,
    immediate: i32,
) -> anyhow::Result<String> {
    let bytes = (i64::from(immediate) + 1) * i64::from(INSTRUCTION);
    let relocation = section.relocations().find(|(at, _)| *at == offset);
    if let Some(RelocationTarget::Symbol(symbol)) = relocation.map(|(_, relocation)| relocation.target()) {
        let symbol = file.symbol_by_index(symbol).map_err(|error| anyhow!("{error}"))?;
        return Ok(match symbol.kind() {
            SymbolKind::Section => function_at(file, symbol.section_index(), bytes),
            _ => symbol.name().unwrap_or_default().to_owned(),
        });
    }
    Ok(function_at(file, Some(section.index()), i64::try_from(offset)? + bytes))
}

/// The name of the function that begins `address` bytes into a section.
fn function_at(file: &object::File<'_>, section: Option<object::SectionIndex>, address: i64) -> String {
    let is_it = |symbol: &object::Symbol<'_, '_>| {
        symbol.kind() == SymbolKind::Text
            && symbol.section_index() == section
            && i64::try_from(symbol.address()) == Ok(address)
    };
    let symbol = file.symbols().find(is_it);
    symbol
        .and_then(|symbol| symbol.name().ok())
        .map_or_else(|| format!("a function at {address:#x}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(symbols: &[&str], called: &[&str]) -> Contents {
        Contents {
            symbols: symbols.iter().map(|&name| name.to_owned()).collect(),
            called: called.iter().map(|&name| name.to_owned()).collect(),
            instructions: 1,
        }
    }

    #[test]
    fn panics_and_calls_are_problems() {
        assert!(contents(&["director", "memcpy"], &[]).problems().is_empty(), "kept but never called");
        let panics = contents(&["director", "_ZN4core9panicking18panic_bounds_check17h0E"], &[]).problems();
        assert!(panics[0].contains("panic_bounds_check"), "{panics:?}");
        let calls = contents(&["director", "memset"], &["memset"]).problems();
        assert!(calls[0].starts_with("calls memset"), "{calls:?}");
    }

    #[test]
    fn another_machines_object_is_refused() {
        let own = fs::read("/proc/self/exe").expect("this program");
        assert!(Contents::read(&own).is_err());
    }
}
