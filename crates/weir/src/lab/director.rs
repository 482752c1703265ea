//! The lab's director: `weir run` in its host.
//!
//! Owns: starting it and waiting until it forwards. May not touch: what it does.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use weir_kernel::bpf::query;
use weir_kernel::net::{Netns, Rtnl};

use super::layout::PORT;
use super::state::Name;
use super::{own_binary, process};
use crate::advice::Advise as _;

/// The name of the process.
pub(super) const LABEL: &str = "director";
/// Time the director has to load its programs and attach them.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it says when it forwards.
const READY: &[u8] = b"ready: forwarding";

/// Starts it and waits until it says that it is ready.
pub(super) fn start(lab: &Name) -> anyhow::Result<()> {
    let log = process::log(lab, LABEL);
    let already = fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let mut command = Command::new(own_binary()?);
    command.arg("run").arg("--config").arg(lab.config());
    command.arg("--runtime-dir").arg(lab.host_dir(LABEL));
    // It might keep the director from saying that it is ready.
    command.env_remove("WEIR_LOG");
    let director = process::start(lab, LABEL, LABEL, command)?;
    let advice = format!("read {}", log.display());
    let deadline = Instant::now() + PATIENCE;
    loop {
        if !director.is_alive() {
            return Err(anyhow::anyhow!("the director ended: {}", process::last_words(lab, LABEL)))
                .advise(advice);
        }
        let text = fs::read(&log).unwrap_or_default();
        let new = text.get(usize::try_from(already).unwrap_or(0)..).unwrap_or_default();
        if new.windows(READY.len()).any(|window| window == READY) {
            return Ok(());
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

/// How a program is attached to the director's interface, by what the kernel says: `native` or `generic`; `None` if none
/// is, or it cannot be told.
pub(super) fn xdp_mode(lab: &Name) -> Option<String> {
    let netns = Netns::open(&lab.namespace(LABEL)).ok()?;
    let attachment =
        netns.run_in(|| query(Rtnl::open().ok()?.link_by_name(PORT).ok()?.index).ok()).ok()??;
    Some(attachment?.mode?.to_string())
}

/// How to reach a service, as a URL.
pub(super) fn url(vip: std::net::IpAddr, port: u16) -> String {
    match (vip, port) {
        (std::net::IpAddr::V4(vip), 80) => format!("http://{vip}/"),
        (std::net::IpAddr::V6(vip), 80) => format!("http://[{vip}]/"),
        (vip, port) => format!("http://{}/", SocketAddr::new(vip, port)),
    }
}
