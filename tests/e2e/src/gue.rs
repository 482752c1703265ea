//! GUE made by hand: an ordinary UDP datagram whose payload is an IP packet.
//!
//! Owns: the hidden commands `gue-send` (on the director), `datagram-echo` (on a real server) and `datagram-receive` (on
//! the client), and the exchange that runs them. May not touch: weir. Invariant: an exchange succeeds only if each
//! datagram came back to the client, once, unchanged, and from the VIP.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::load::own_path;
use crate::network::Lab;
use crate::stream::Running;
use crate::weir::{PATIENCE, collect};

/// The port of the echo service at a VIP.
const ECHO_PORT: u16 = 7;
/// The client's port, which is free on every host.
const CLIENT_PORT: u16 = 40_000;
/// How long to wait for the next datagram.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// How the packet stands in the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Variant {
    /// Behind a header of four bytes.
    #[value(name = "0")]
    Zero,
    /// At once.
    #[value(name = "1")]
    One,
}

/// Options of the hidden command `gue-send`.
#[derive(Debug, clap::Args)]
pub(crate) struct SendArgs {
    /// The real server and its GUE port.
    #[arg(long)]
    to: SocketAddr,
    /// Who the datagrams inside are from.
    #[arg(long)]
    client: IpAddr,
    /// Whom they are to.
    #[arg(long)]
    vip: IpAddr,
    #[arg(long)]
    count: u16,
    #[arg(long, value_enum)]
    variant: Variant,
}

/// Sends datagrams in GUE.
pub(crate) fn send(args: &SendArgs) -> anyhow::Result<()> {
    let any = if args.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    for number in 0..args.count {
        let inner = packet(args.client, args.vip, &payload(number))?;
        let header: &[u8] = match args.variant {
            Variant::One => &[],
            Variant::Zero if args.vip.is_ipv4() => &[0, 4, 0, 0],
            Variant::Zero => &[0, 41, 0, 0],
        };
        socket.send_to(&[header, &inner].concat(), args.to)?;
    }
    Ok(())
}

/// Of every length up to nearly the MTU.
fn payload(number: u16) -> Vec<u8> {
    let len = 2 + usize::from(number) * 131 % 1300;
    let mut bytes: Vec<u8> = (0..len).map(|at| (at as u8) ^ number as u8).collect();
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// An IP packet with a UDP datagram from the client to the echo service.
fn packet(client: IpAddr, vip: IpAddr, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = (8 + payload.len()) as u16;
    let mut udp = [CLIENT_PORT, ECHO_PORT, length, 0].map(u16::to_be_bytes).concat();
    udp.extend(payload);
    let (mut header, addresses) = match (client, vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
            header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            (header, [client.octets(), vip.octets()].concat())
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
            header[4..6].copy_from_slice(&length.to_be_bytes());
            (header, [client.octets(), vip.octets()].concat())
        }
        _ => anyhow::bail!("{client} and {vip} are of two families"),
    };
    let pseudo = [&addresses[..], &[0, 17], &length.to_be_bytes()].concat();
    let sum = checksum(&[&pseudo, &udp]);
    udp[6..8].copy_from_slice(&if sum == 0 { u16::MAX } else { sum }.to_be_bytes());
    if vip.is_ipv4() {
        let sum = checksum(&[&header, &addresses]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    Ok([header, addresses, udp].concat())
}

/// RFC 1071. All parts but the last have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Options of the hidden command `datagram-echo`.
#[derive(Debug, clap::Args)]
pub(crate) struct EchoArgs {
    #[arg(long)]
    vip: IpAddr,
}

/// Sends back what comes, from the VIP, until it is killed.
pub(crate) fn echo(args: &EchoArgs) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((args.vip, ECHO_PORT)).context("cannot listen")?;
    println!("ready");
    let mut bytes = vec![0; 1 << 16];
    loop {
        let (len, from) = socket.recv_from(&mut bytes)?;
        socket.send_to(&bytes[..len], from)?;
    }
}

/// Options of the hidden command `datagram-receive`.
#[derive(Debug, clap::Args)]
pub(crate) struct ReceiveArgs {
    #[arg(long)]
    client: IpAddr,
    #[arg(long)]
    vip: IpAddr,
    #[arg(long)]
    count: u16,
}

/// Waits for so many datagrams; an error if one is missing, comes twice, was changed or is from someone else.
pub(crate) fn receive(args: &ReceiveArgs) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((args.client, CLIENT_PORT)).context("cannot listen")?;
    socket.set_read_timeout(Some(SILENCE_LIMIT))?;
    println!("ready");
    let mut missing: BTreeSet<u16> = (0..args.count).collect();
    let mut bytes = [0; 2048];
    while !missing.is_empty() {
        let (len, from) =
            socket.recv_from(&mut bytes).with_context(|| format!("no answer to {missing:?}"))?;
        ensure!(from == SocketAddr::new(args.vip, ECHO_PORT), "an answer from {from}");
        ensure!(len >= 2, "an answer of {len} bytes");
        let number = u16::from_be_bytes([bytes[0], bytes[1]]);
        ensure!(bytes[..len] == payload(number), "the answer to {number} was changed");
        ensure!(missing.remove(&number), "answer {number} came twice");
    }
    Ok(())
}

/// Datagrams from a client to a VIP, in GUE.
pub(crate) struct Exchange<'a> {
    /// The client's address.
    pub(crate) client: &'a str,
    /// The VIP.
    pub(crate) vip: &'a str,
    /// Who unwraps them, and its GUE port.
    pub(crate) to: SocketAddr,
    pub(crate) variant: Variant,
    pub(crate) count: u16,
    /// The host that wraps them.
    pub(crate) sender: &'a str,
}

impl Exchange<'_> {
    /// Has them sent to who answers on `host`, and waits for all answers at the client.
    pub(crate) fn run(&self, lab: &Lab, host: &str) -> anyhow::Result<()> {
        let (count, to) = (self.count.to_string(), self.to.to_string());
        let variant = if self.variant == Variant::Zero { "0" } else { "1" };
        let ends = ["--client", self.client, "--vip", self.vip, "--count", &count];
        let _server = Running::start(lab, host, &["datagram-echo", "--vip", self.vip])?;
        let mut client = Running::start(lab, "client", &[&["datagram-receive"], &ends[..]].concat())?;
        let own = own_path()?;
        let send = [own.as_str(), "gue-send", "--to", &to, "--variant", variant];
        lab.exec(self.sender, &[&send, &ends[..]].concat())?.success()?;
        collect(client.take()?, "the client".to_owned(), PATIENCE)?.success().map(drop)
    }
}
