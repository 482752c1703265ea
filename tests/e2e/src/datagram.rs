//! Datagrams to an echo service, of any size, fragmented by the kernel where they must be.
//!
//! Owns: the hidden command `datagram-ask` (on the client). Invariant: it succeeds only if every datagram came back
//! unchanged.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// How long to wait for an answer, and how often to ask.
const WAIT: Duration = Duration::from_millis(500);
const TRIES: u32 = 6;

/// Options of the hidden command `datagram-ask`.
#[derive(Debug, clap::Args)]
pub(crate) struct AskArgs {
    #[arg(long)]
    to: SocketAddr,
    /// Bytes of each datagram.
    #[arg(long)]
    size: usize,
    #[arg(long)]
    count: u16,
    /// The server id that datagrams begin with, as `server_ids = "udp-stable"` has it.
    #[arg(long)]
    server_id: Option<u32>,
}

/// Asks; each datagram is from a port of its own. Prints how many it took to send.
pub(crate) fn ask(args: &AskArgs) -> anyhow::Result<()> {
    let mut sent = 0;
    for number in 0..args.count {
        let any = if args.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(args.to)?;
        socket.set_read_timeout(Some(WAIT))?;
        let mut payload: Vec<u8> = (0..args.size).map(|at| (at ^ at >> 8) as u8 ^ number as u8).collect();
        if let Some(id) = args.server_id {
            let [_, id @ ..] = id.to_be_bytes();
            payload.splice(..5, [0x52, 0x80].into_iter().chain(id));
        }
        let answered = (0..TRIES).any(|_| {
            sent += 1;
            // An error is that of an earlier one (too big, refused), told now.
            let mut bytes = vec![0; args.size + 1];
            socket.send(&payload).is_ok() && socket.recv(&mut bytes).is_ok_and(|len| bytes[..len] == payload)
        });
        ensure!(answered, "datagram {number} did not come back, sent {TRIES} times");
    }
    let size = args.size;
    println!("{} datagrams of {size} bytes came back, {sent} were sent", args.count);
    Ok(())
}

/// Has `count` datagrams of `size` bytes sent to `to` by the client and waits for all answers; what it says.
pub(crate) fn exchange(
    lab: &crate::network::Lab,
    to: SocketAddr,
    size: usize,
    options: &[&str],
) -> anyhow::Result<String> {
    let own = crate::load::own_path()?;
    let (to, size) = (to.to_string(), size.to_string());
    let words = [own.as_str(), "datagram-ask", "--to", &to, "--size", &size, "--count", "10"];
    let out = lab.exec("client", &[&words, options].concat())?.success()?;
    Ok(out.stdout.lines().next().context("it says nothing")?.to_owned())
}
