//! A Rust compiler with the source of its library, for `-Z build-std`.
//!
//! Owns: the order of attempts: the cheapest and closest to the compiler in use first. May not touch: the
//! user's default toolchain.

use std::{process::Command, time::Duration};

use anyhow::bail;
use weir_bpf_build::Rustc;

use super::packages;
use crate::{console, workspace::which};

/// Debian's compiler that follows the browsers, hence is recent, and its library source.
const DEBIAN: [&str; 2] = ["rustc-web", "rust-web-src"];

/// How much of the reason for a failed attempt is shown, in characters.
const WHY: usize = 80;

/// A usable compiler, installed if there is none.
pub(super) fn ensure() -> anyhow::Result<Rustc> {
    let lacking = match Rustc::find() {
        Ok(rustc) => return Ok(rustc),
        Err(error @ weir_bpf_build::Error::NoRustc { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    if which("rustup").is_some() {
        // The stable toolchain in use will do: nothing but building `core` is asked of it.
        let attempts: [(&str, &[&str], u64); 3] = [
            ("rustup component add rust-src", &["component", "add", "rust-src"], 180),
            (
                "rustup component add rust-src --toolchain nightly",
                &["component", "add", "rust-src", "--toolchain", "nightly"],
                180,
            ),
            (
                "rustup toolchain install nightly",
                &[
                    "toolchain",
                    "install",
                    "nightly",
                    "--profile",
                    "minimal",
                    "--component",
                    "rust-src",
                    "--no-self-update",
                ],
                600,
            ),
        ];
        for (label, arguments, limit) in attempts {
            if label.contains("--toolchain nightly") && !has_nightly() {
                continue;
            }
            let mut command = Command::new("rustup");
            command.args(arguments);
            if try_quietly(label, command, limit)?
                && let Ok(rustc) = Rustc::find()
            {
                return Ok(rustc);
            }
        }
    }
    if which("apt-get").is_some() {
        packages::become_root_once()?;
        if !DEBIAN.iter().all(|package| packages::available(package)) {
            packages::update()?;
        }
        if DEBIAN.iter().all(|package| packages::available(package)) {
            packages::install_packages(&DEBIAN)?;
            return Ok(Rustc::find()?);
        }
    }
    bail!("{lacking}")
}

/// One attempt of several: a failure is one line, not an error.
fn try_quietly(label: &str, command: Command, limit: u64) -> anyhow::Result<bool> {
    eprintln!("setup: {label} …");
    let finished = console::watch(label, command, Duration::from_secs(limit), None)?;
    if finished.success() {
        eprintln!("setup: {label}: done in {:.1} s", finished.took.as_secs_f64());
    } else {
        let last = finished.tail.iter().rev().find(|line| !line.trim().is_empty());
        let why: String = last.map_or("", |line| line.trim()).chars().take(WHY).collect();
        eprintln!("setup: {label}: not possible here ({}: {why}); trying something else", finished.ending());
    }
    Ok(finished.success())
}

fn has_nightly() -> bool {
    let listed = Command::new("rustup").args(["toolchain", "list"]).output();
    listed.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).lines().any(|line| line.starts_with("nightly-"))
    })
}
