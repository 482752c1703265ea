//! The lab's director: `weir run` in its host.
//!
//! Owns: starting it and waiting until it forwards, asking it how. May not touch: what it does.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::state::Name;
use super::{own_binary, process};
use crate::advice::Advise as _;

/// The name of the process.
pub(super) const LABEL: &str = "director";
/// Time the director has to load its programs and attach them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts it and waits until it says that it is ready.
pub(super) fn start(lab: &Name) -> anyhow::Result<()> {
    let log = process::log(lab, LABEL);
    let already = fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let mut command = Command::new(own_binary()?);
    command.arg("run").arg("--config").arg(lab.config());
    command.arg("--runtime-dir").arg(lab.host_dir(LABEL));
    let director = process::start(lab, LABEL, LABEL, command)?;
    let advice = format!("read {}", log.display());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read(&log).unwrap_or_default();
        let new = text.get(usize::try_from(already).unwrap_or(0)..).unwrap_or_default();
        if new.windows(5).any(|window| window == b"ready") {
            return Ok(());
        }
        if !director.is_alive() {
            return Err(anyhow::anyhow!("the director ended: {}", process::last_words(lab, LABEL)))
                .advise(advice);
        }
        if Instant::now() > deadline {
            return Err(anyhow::anyhow!(
                "the director is not ready after {} s: {}",
                PATIENCE.as_secs(),
                process::last_words(lab, LABEL)
            ))
            .advise(advice);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// What `weir status -o json` says of it.
pub(super) fn ask(lab: &Name) -> anyhow::Result<Value> {
    let mut command = Command::new(own_binary()?);
    command.args(["status", "-o", "json", "--runtime-dir"]).arg(lab.host_dir(LABEL));
    let output = command.output().context("cannot run `weir status`")?;
    if !output.status.success() {
        bail!("`weir status` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("`weir status -o json` printed something else")
}

/// How the program is attached: `native` or `generic`; `None` if the director does not say.
pub(super) fn xdp_mode(lab: &Name) -> Option<String> {
    let status = ask(lab).ok()?;
    Some(status["interfaces"].as_array()?.first()?["xdp_mode"].as_str()?.to_owned())
}

/// How to reach a service, as a URL.
pub(super) fn url(vip: std::net::IpAddr, port: u16) -> String {
    match (vip, port) {
        (std::net::IpAddr::V4(vip), 80) => format!("http://{vip}/"),
        (std::net::IpAddr::V6(vip), 80) => format!("http://[{vip}]/"),
        (vip, port) => format!("http://{}/", SocketAddr::new(vip, port)),
    }
}
