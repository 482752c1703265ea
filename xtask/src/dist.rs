//! The binary that is handed out: one file that needs nothing of the machine it is copied to.
//!
//! Owns: how static programs are linked, and the proof that they are. May not touch: what is in it.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, bail};
use object::{Object as _, ObjectKind, elf, read::elf::ElfFile64, read::elf::FileHeader as _};

use crate::{run::succeed, setup, workspace::Workspace};

/// Builds `weir` optimized, stripped and linked statically; returns where it is and what it weighs.
pub(crate) fn build(workspace: &Workspace) -> anyhow::Result<String> {
    let built = static_program(workspace, "weir", "dist")?;
    let size = fs::metadata(&built).with_context(|| format!("cannot read {}", built.display()))?.len();
    let handed_out: PathBuf = workspace.target.join("dist");
    fs::create_dir_all(&handed_out).with_context(|| format!("cannot create {}", handed_out.display()))?;
    let handed_out = handed_out.join("weir");
    fs::copy(&built, &handed_out).with_context(|| format!("cannot copy to {}", handed_out.display()))?;
    Ok(format!("dist: {} is static, {} MiB", handed_out.display(), size.div_ceil(1 << 20)))
}

/// Builds the program of `package` in `profile`, linked statically, and makes sure that it is; returns where it is.
pub(crate) fn static_program(workspace: &Workspace, package: &str, profile: &str) -> anyhow::Result<PathBuf> {
    setup::for_building()?;
    let target = host_target()?;
    let mut command = workspace.cargo("build");
    // With a target named, the flags are for weir alone and not for the build scripts, which must stay dynamic.
    command.args(["--package", package, "--profile", profile, "--target", &target]);
    command.env("RUSTFLAGS", "-Ctarget-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    succeed(command)?;

    let built = workspace.target.join(&target).join(profile).join(package);
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if !is_static(&bytes)? {
        bail!("{} needs a dynamic linker; install the static C library (Debian: libc6-dev)", built.display());
    }
    Ok(built)
}

/// The target triple of the compiler in use.
fn host_target() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = std::process::Command::new(rustc).arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// Whether an ELF program starts without an interpreter (the dynamic linker).
fn is_static(program: &[u8]) -> anyhow::Result<bool> {
    let file = ElfFile64::<object::Endianness>::parse(program).context("not an ELF program")?;
    let endian = file.endian();
    let headers = file.elf_header().program_headers(endian, program).context("no program headers")?;
    let interpreted = headers.iter().any(|header| header.p_type.get(endian) == elf::PT_INTERP);
    Ok(!interpreted && matches!(file.kind(), ObjectKind::Executable | ObjectKind::Dynamic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_is_seen_to_be_dynamic() {
        let program = fs::read(std::env::current_exe().expect("a path")).expect("readable");
        assert_eq!(is_static(&program).expect("an ELF program"), cfg!(target_feature = "crt-static"));
    }
}
