//! The lab's real servers: a web server and weir's agent in each.
//!
//! Owns: what is run there, and waiting for it. May not touch: what the agent does.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use weir_kernel::net::Netns;

use super::layout::{HTTP, Layout, PORT};
use super::state::Name;
use super::{own_binary, process, web};
use crate::advice::Advise as _;

/// Time a web server has to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the web server and waits until it answers.
pub(super) fn start_web(lab: &Name, host: &str) -> anyhow::Result<()> {
    let process = process::start(lab, host, host, web::command(lab, host, &own_binary()?)?)?;
    let netns = Netns::open(&lab.namespace(host))?;
    let address = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), HTTP);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let connected = netns.run_in(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))?;
        match connected {
            Ok(_) => return Ok(()),
            Err(_) if !process.is_alive() => {
                bail!("the web server of {host} ended: {}", process::last_words(lab, host));
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("the web server of {host} does not answer"));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Sets up the agent, which stays when the command is done.
pub(super) fn set_up_agent(lab: &Name, layout: &Layout, host: &str) -> anyhow::Result<()> {
    let mut command = Command::new(own_binary()?);
    command.args(["real", "up", "--interface", PORT]);
    command.arg("--state-dir").arg(lab.host_dir(host));
    for service in &layout.services {
        command.arg("--vip").arg(service.vip.to_string());
    }
    for director in layout.addresses("director") {
        command.arg("--from").arg(director.to_string());
    }
    let netns = Netns::open(&lab.namespace(host))?;
    let output = netns.run_in(|| command.output())?.context("cannot run `weir real up`")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start)).map(str::trim);
        let cause = line("error:").unwrap_or_else(|| text.trim()).to_owned();
        return Err(anyhow!("{cause}").context(format!("cannot set up the agent of {host}")))
            .advise(line("help:").unwrap_or("run it by hand in a lab made with --no-agents to see more"));
    }
    Ok(())
}
