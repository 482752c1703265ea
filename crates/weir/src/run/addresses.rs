//! VIPs that the director holds itself (`advertise = "address"`).
//!
//! Owns: adding and removing them, and the list of those weir added. May not touch: addresses that were there before.
//! Invariant: an address is on the list (a file in the runtime directory, so that it survives a crash) before it is on
//! the interface, and comes off it only after it is gone.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use weir_config::{Advertise, Config};
use weir_kernel::net::{NewAddress, Rtnl};

/// An address on an interface.
type Held = (String, IpAddr);

/// The VIPs weir added.
#[derive(Debug)]
pub(super) struct Addresses {
    file: PathBuf,
    held: BTreeSet<Held>,
}

/// The addresses a configuration wants held: on the first interface.
fn wanted(config: &Config) -> BTreeSet<Held> {
    let Some(interface) = config.director.interfaces.first() else { return BTreeSet::new() };
    let advertised = config.services.iter().filter(|service| service.advertise == Advertise::Address);
    advertised.map(|service| (interface.as_str().to_owned(), service.key.vip)).collect()
}

impl Addresses {
    /// Reads the list an earlier run left in `runtime_dir`.
    pub(super) fn open(runtime_dir: &Path) -> anyhow::Result<Self> {
        let file = runtime_dir.join("addresses");
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other.with_context(|| format!("cannot read {}", file.display()))?,
        };
        // A line that cannot be read was cut short by a crash, before its address was added.
        let held = text.lines().filter_map(|line| {
            let (interface, address) = line.split_once(' ')?;
            Some((interface.to_owned(), address.parse().ok()?))
        });
        Ok(Self { held: held.collect(), file })
    }

    /// Makes the addresses on the interfaces those that `config` wants, as far as it can be done; the first error.
    pub(super) fn sync(&mut self, rtnl: &Rtnl, config: &Config) -> anyhow::Result<()> {
        self.release(rtnl, config).and(self.hold(rtnl, config))
    }

    /// Removes what `config` does not want any more, as far as it can be done; the first error.
    pub(super) fn release(&mut self, rtnl: &Rtnl, config: &Config) -> anyhow::Result<()> {
        let gone: Vec<_> = self.held.difference(&wanted(config)).cloned().collect();
        let removed: Vec<_> = gone.iter().map(|held| self.remove(rtnl, held)).collect();
        removed.into_iter().collect()
    }

    /// Adds what `config` wants, as far as it can be done; the first error. One VIP that cannot be had takes no other
    /// with it.
    fn hold(&mut self, rtnl: &Rtnl, config: &Config) -> anyhow::Result<()> {
        let wanted = wanted(config);
        let Some((interface, _)) = wanted.first() else { return Ok(()) };
        let link = rtnl.link_by_name(interface)?;
        // Asked once: with thousands of VIPs, asking for each would take seconds.
        let there: BTreeSet<IpAddr> =
            rtnl.addresses(Some(link.index))?.into_iter().map(|address| address.ip).collect();
        let missing = wanted.iter().filter(|(_, ip)| !there.contains(ip));
        let added: Vec<_> = missing.map(|held| self.add(rtnl, link.index, held)).collect();
        added.into_iter().collect()
    }

    /// Removes every address weir added, as far as it can be done; the first error.
    pub(super) fn remove_all(&mut self, rtnl: &Rtnl) -> anyhow::Result<()> {
        let removed: Vec<_> = self.held.clone().iter().map(|held| self.remove(rtnl, held)).collect();
        if self.held.is_empty() && self.file.exists() {
            fs::remove_file(&self.file).with_context(|| format!("cannot remove {}", self.file.display()))?;
        }
        removed.into_iter().collect()
    }

    /// Addresses held on an interface.
    pub(super) fn on(&self, interface: &str) -> Vec<String> {
        self.held.iter().filter(|(name, _)| name == interface).map(|(_, ip)| ip.to_string()).collect()
    }

    /// Adds an address that is not there. (One that was there before weir is not weir's, and stays when weir goes.)
    fn add(&mut self, rtnl: &Rtnl, ifindex: u32, held: &Held) -> anyhow::Result<()> {
        // Deprecated: packets of the director's own, those it wraps among them, must not come from the VIP.
        let address = NewAddress::new(ifindex, held.1, host_prefix(held.1)).nodad().deprecated();
        let known = self.held.contains(held);
        if !known {
            self.held.insert(held.clone());
            self.write()?;
        }
        let added = rtnl.ensure_address(&address);
        if added.is_err() && !known {
            self.held.remove(held);
            self.write()?;
        }
        if added.with_context(|| format!("cannot hold the VIP {} on {}", held.1, held.0))? {
            tracing::info!(vip = %held.1, interface = held.0, "holding the VIP as an address");
        }
        Ok(())
    }

    fn remove(&mut self, rtnl: &Rtnl, held: &Held) -> anyhow::Result<()> {
        if let Some(link) = rtnl.find_link(&held.0)? {
            rtnl.ensure_no_address(link.index, held.1, host_prefix(held.1))?;
        }
        self.held.remove(held);
        self.write()
    }

    /// Replaces the list as a whole: whoever reads it finds the old or the new one.
    fn write(&self) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        let written = fs::File::create(&new)
            .and_then(|mut file| {
                self.held.iter().try_for_each(|(interface, ip)| writeln!(file, "{interface} {ip}"))
            })
            .and_then(|()| fs::rename(&new, &self.file));
        written.with_context(|| format!("cannot write {}", self.file.display()))
    }
}

fn host_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}
