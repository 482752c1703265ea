//! From options to packets being wrapped, and back to nothing.
//!
//! Owns: the order of things, the loop. Invariant: what fails before the program is attached leaves nothing behind, and
//! whatever ends the loop, the program is taken off again.

use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use weir_abi::iptunnel::DropReason;
use weir_kernel::bpf::{self, LoadOptions, Program, XdpMode};
use weir_kernel::net::{Error as NetError, Link, Rtnl, XdpFlag};

use super::args::{Mode, Options};
use super::mac::Follower;
use super::signals::{Wake, Waker};
use super::stats::Report;
use super::tables::Tables;
use crate::advice::Advise as _;

/// The embedded object, and its program.
const OBJECT: &str = "iptunnel";
const PROGRAM: &str = "xdp_tx_iptunnel";

/// Seconds between reports.
const INTERVAL: u64 = 2;

/// There is no such interface.
#[derive(Debug)]
pub(super) struct InvalidInterface;

impl fmt::Display for InvalidInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invalid ifname")
    }
}

impl std::error::Error for InvalidInterface {}

/// Does what was asked for, until the time is over or a signal says so.
pub(super) fn run(name: &str, options: &Options) -> anyhow::Result<()> {
    let mut waker = Waker::new()?;
    let rtnl = Rtnl::open()?;
    let link = interface(&rtnl, &options.interface)?;

    let mut loaded = bpf::load(OBJECT, &LoadOptions::default())?;
    let program = loaded.program(PROGRAM)?;
    let tables = Tables::of(&loaded)?;

    let (mac, follower) = match options.mac {
        Some(mac) => (mac, None),
        None => match Follower::find(&rtnl, &mut waker, &link, options.destination)? {
            Some(follower) => (follower.mac(), Some(follower)),
            None => return Ok(()),
        },
    };
    if let Some(follower) = &follower {
        waker.watch(follower.filter())?;
    }
    tables.insert(options.keys(), &options.tunnel(mac))?;
    tables.set_mtu(link.mtu)?;
    attach(&rtnl, &link, &program, options)?;

    let mut session = Session { options, rtnl: &rtnl, link, tables, follower, told_too_big: false };
    let ended = session.forward(&mut waker);
    let detached = detach(name, &rtnl, &session.link, &program, options.mode);
    ended.and(detached)
}

/// A name first, then an index, as the sample has it.
fn interface(rtnl: &Rtnl, text: &str) -> anyhow::Result<Link> {
    let invalid = |error| match error {
        NetError::NoSuchLink { .. } | NetError::InvalidName { .. } => InvalidInterface.into(),
        other => anyhow::Error::from(other),
    };
    match rtnl.find_link(text) {
        Ok(Some(link)) => Ok(link),
        Ok(None) | Err(NetError::InvalidName { .. }) => match text.parse() {
            Ok(index) if index > 0 => rtnl.link_by_index(index).map_err(invalid),
            _ => Err(InvalidInterface.into()),
        },
        Err(other) => Err(other.into()),
    }
}

fn flag(mode: Mode) -> XdpFlag {
    match mode {
        Mode::Any => XdpFlag::Any,
        Mode::Native => XdpFlag::Driver,
        Mode::Generic => XdpFlag::Skb,
    }
}

fn attach(rtnl: &Rtnl, link: &Link, program: &Program, options: &Options) -> anyhow::Result<()> {
    let name = &link.name;
    let Err(error) = rtnl.attach_xdp(link.index, program.as_fd(), flag(options.mode), options.force) else {
        if options.mode == Mode::Any
            && bpf::query(link.index)?.is_some_and(|attached| attached.mode == Some(XdpMode::Generic))
        {
            eprintln!("warning: {name}'s driver has no native XDP: running in generic mode, which is slower");
        }
        return Ok(());
    };
    // The sample's message, where it has it.
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "link set xdp fd failed").and_then(|()| stdout.flush());
    let other = bpf::query(link.index).ok().flatten();
    match (error.errno(), other) {
        (Some(Errno::EBUSY | Errno::EEXIST), Some(other)) => {
            let mode = other.mode.map_or_else(|| "offloaded".to_owned(), |mode| mode.to_string());
            let cause = anyhow!(
                "cannot attach to {name}: XDP program \"{}\" (id {}, {mode}) is there",
                other.program_name,
                other.program_id
            );
            Err(cause).advise(if options.force {
                "it is held by a bpf_link, or runs in the other mode: stop whatever attached it, or try -S or -N"
            } else {
                "stop whatever attached it, or replace it with -F"
            })
        }
        (Some(Errno::EOPNOTSUPP), None) if options.mode == Mode::Native => Err(error)
            .with_context(|| format!("{name} has no native XDP"))
            .advise("leave out -N, or use generic mode with -S"),
        _ => Err(error).with_context(|| format!("cannot attach to {name}")).advise(
            "run as root; lower the interface's MTU (1500 fits every driver), or use generic mode with -S",
        ),
    }
}

/// Takes the program off the interface, if it is still there. The sentences are the sample's.
fn detach(name: &str, rtnl: &Rtnl, link: &Link, program: &Program, mode: Mode) -> anyhow::Result<()> {
    if rtnl.detach_xdp(link.index, program.as_fd(), flag(mode))? {
        return Ok(());
    }
    let sentence = match bpf::query(link.index) {
        Ok(Some(_)) => "program on interface changed, not removing",
        Ok(None) | Err(_) => "couldn't find a prog id on a given iface",
    };
    // Where nobody reads it any more there is nobody to tell.
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "{sentence}").and_then(|()| stdout.flush());
    tracing::debug!(name, interface = %link.name, "{sentence}");
    Ok(())
}

/// The program at work.
struct Session<'a> {
    options: &'a Options,
    rtnl: &'a Rtnl,
    link: Link,
    tables: Tables,
    follower: Option<Follower<'a>>,
    told_too_big: bool,
}

impl Session<'_> {
    /// Reports every two seconds until the end.
    fn forward(&mut self, waker: &mut Waker) -> anyhow::Result<()> {
        let mut report = Report::new();
        let mut last = Instant::now();
        let end = match self.options.seconds {
            0 => None,
            seconds => Some(last + Duration::from_secs(seconds.into())),
        };
        loop {
            let next = last + Duration::from_secs(INTERVAL);
            match waker.wait(end.map_or(next, |end| end.min(next)))? {
                Wake::Stop => return Ok(()),
                Wake::Network => self.follow()?,
                Wake::Time => {
                    let now = Instant::now();
                    // The last interval may be a short one.
                    let seconds = if now >= next { INTERVAL } else { (now - last).as_secs() };
                    let mut stdout = io::stdout().lock();
                    for line in report.lines(&self.tables.wrapped()?, seconds) {
                        writeln!(stdout, "{line}").context("cannot write the report")?;
                    }
                    stdout.flush().context("cannot write the report")?;
                    self.tell_drops()?;
                    if end.is_some_and(|end| now >= end) {
                        return Ok(());
                    }
                    last = next;
                    self.follow()?;
                }
            }
        }
    }

    /// Brings the MTU and the next hop's address up to date.
    fn follow(&mut self) -> anyhow::Result<()> {
        let link = match self.rtnl.link_by_index(self.link.index) {
            Ok(link) => link,
            Err(NetError::NoSuchLink { .. }) => {
                return Err(anyhow!("the interface {} is gone", self.link.name))
                    .advise("start again when it is back");
            }
            Err(other) => return Err(other.into()),
        };
        if link.mtu != self.link.mtu {
            self.tables.set_mtu(link.mtu)?;
        }
        self.link = link;
        if let Some(follower) = &mut self.follower
            && let Some(mac) = follower.refresh()
        {
            self.tables.replace(self.options.keys(), &self.options.tunnel(mac))?;
        }
        Ok(())
    }

    /// Says once that packets are too big, and what to do.
    fn tell_drops(&mut self) -> anyhow::Result<()> {
        let count = self.tables.dropped(DropReason::TooBig)?;
        if count > 0 && !self.told_too_big {
            self.told_too_big = true;
            let (name, mtu, outer) = (&self.link.name, self.link.mtu, self.options.outer_len());
            eprintln!(
                "warning: packets are dropped ({count} so far): with {outer} bytes of outer header they are larger than {name}'s MTU of {mtu}"
            );
            eprintln!(
                "help: raise the MTU of {name} and of the path beyond it to {}, or have the real server announce a smaller MSS (`ip route … advmss`)",
                mtu + outer
            );
        }
        Ok(())
    }
}
