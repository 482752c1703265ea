//! Weir's director with a configuration in its tables.
//!
//! Owns: a state directory for one suite, the way to every backend, what is read from the counters. May not touch: what
//! packets should become. Invariant: nothing is attached to an interface, and nothing stays behind.

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, anyhow};
use nix::mount::{MntFlags, umount2};
use weir_abi::{Count, Reason};
use weir_config::{Backend, Config, Encapsulation, Service, Source};
use weir_kernel::bpf::{Director, Options, Sizes, StateDir, test_run};
use weir_plan::{Desired, NextHop, Observed, Planner};

use crate::{
    compare::Made,
    packet::{ETHERNET, UDP},
    tables::Tables,
};

/// The interface that test packets come in by, as the kernel has it: the loopback.
const LOOPBACK: u32 = 1;

/// What the configuration does not say of the way to the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ways {
    /// The director's own MAC address: where the suite's frames are sent.
    pub(crate) source_mac: [u8; 6],
    /// The longest frame that is forwarded, before it is wrapped.
    pub(crate) longest: u16,
}

/// A director without interfaces.
pub(crate) struct Balancer {
    director: Director,
    /// Unmounts what the director's pins are in, after it.
    _place: Place,
}

impl Balancer {
    /// Loads the program and fills its tables as the daemon would. `key`: of the hash.
    pub(crate) fn new(config: &Config, ways: Ways, key: u64) -> anyhow::Result<Self> {
        let place = Place::new()?;
        let options = Options { sizes: Sizes::default(), hash_key: Some([key, !key]) };
        let director = Director::load_or_adopt(&place.state, &options).context("cannot load the director")?;
        let desired =
            Desired::new(config, 0, director.tick(), |service, backend| ways.to(config, service, backend));
        let mut tables = Tables(&director);
        let observed = Observed::read(&tables)?;
        for step in Planner::default().plan(&observed, &desired)? {
            step.apply(&mut tables)?;
        }
        let rest = Planner::default().plan(&Observed::read(&tables)?, &desired)?;
        if !rest.is_empty() {
            return Err(anyhow!("{} steps are left after all have been done", rest.len()));
        }
        Ok(Self { director, _place: place })
    }

    /// Sends a packet through the program.
    pub(crate) fn run(&self, packet: &[u8]) -> anyhow::Result<Made> {
        let before = self.director.reasons()?;
        let run = test_run(self.director.program(), packet, None, 1)?;
        let reason = risen(&before, &self.director.reasons()?)?;
        let reason = Reason::from_index(reason).context("a counter without a reason rose")?;
        Ok(Made { rc: run.retval, packet: run.packet, reason: reason.label() })
    }
}

/// The one counter that a packet raised.
pub(crate) fn risen(before: &[Count], after: &[Count]) -> anyhow::Result<u32> {
    let rise = |(before, after): (&Count, &Count)| after.packets.wrapping_sub(before.packets);
    let risen: Vec<(u32, u64)> =
        (0..).zip(before.iter().zip(after).map(rise)).filter(|(_, n)| *n > 0).collect();
    match risen[..] {
        [(reason, 1)] => Ok(reason),
        _ => Err(anyhow!("a packet was counted {} times", risen.iter().map(|(_, n)| n).sum::<u64>())),
    }
}

impl Ways {
    fn to(self, config: &Config, service: &Service, backend: &Backend) -> weir_plan::Path {
        if backend.local {
            return weir_plan::Path::Known(NextHop::LOCAL);
        }
        let gue = service.encapsulation == Encapsulation::Gue;
        let (source, spread) = match backend.address {
            IpAddr::V4(_) => source(config.director.source_ipv4),
            IpAddr::V6(_) => source(config.director.source_ipv6),
        };
        let (Some(source), Some(mac)) = (source, backend.mac) else { return weir_plan::Path::None };
        let outer = if backend.address.is_ipv4() { 20 } else { 40 } + if gue { UDP } else { 0 };
        weir_plan::Path::Known(NextHop {
            mac,
            source_mac: self.source_mac,
            ifindex: LOOPBACK,
            vlan: 0,
            // A packet fits if it does before it is wrapped.
            mtu: self.longest - ETHERNET as u16 + outer as u16,
            source,
            spread: spread && !gue,
        })
    }
}

fn source<A: Into<IpAddr>>(configured: Option<Source<A>>) -> (Option<IpAddr>, bool) {
    match configured {
        Some(Source::Fixed(address)) => (Some(address.into()), false),
        Some(Source::Spread { network, .. }) => (Some(network.into()), true),
        None => (None, false),
    }
}

/// A state directory that goes when this does.
struct Place {
    path: PathBuf,
    state: StateDir,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("weir-replay-{}-{number}", process::id()));
        let state = StateDir::open(&path).context("this needs root, to mount a bpffs and load programs")?;
        Ok(Self { path, state })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.path, self.state.bpf());
    }
}

fn remove(path: &Path, bpf: &Path) {
    let unmounted = umount2(bpf, MntFlags::MNT_DETACH).map_err(Into::into);
    if let Err(error) = unmounted.and_then(|()| fs::remove_dir_all(path)) {
        eprintln!("cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_counted_once() {
        let counts = |packets: [u64; 3]| packets.map(|packets| Count { packets, bytes: 0 });
        assert_eq!(risen(&counts([1, 2, 3]), &counts([1, 3, 3])).expect("once"), 1);
        assert!(risen(&counts([1, 2, 3]), &counts([1, 2, 3])).is_err());
        assert!(risen(&counts([1, 2, 3]), &counts([2, 3, 3])).is_err());
        assert!(risen(&counts([1, 2, 3]), &counts([1, 2, 5])).is_err());
    }
}
