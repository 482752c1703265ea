//! The next hop's MAC address where `-m` was left out.
//!
//! Owns: asking routes and neighbours, how long to wait for an answer, which changes are worth asking again. Does not
//! touch maps. Invariant: an address that was found stays in use until another one is known; the kernel keeps
//! fresh only the one in use, and none once the follower is gone.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use weir_kernel::net::{Change, Event, Link, MacAddress, NextHop, NextHopError, Rtnl, resolve_next_hop};

use super::signals::{Wake, Waker};
use crate::advice::Advise as _;

/// How long a neighbour may take to answer before the command gives up: three questions, one a second.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often to look meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// A next hop being followed.
pub(super) struct Follower<'a> {
    rtnl: &'a Rtnl,
    destination: IpAddr,
    ifindex: u32,
    interface: String,
    hop: Arc<Mutex<(IpAddr, MacAddress)>>,
    complaint: Option<String>,
}

impl<'a> Follower<'a> {
    /// Finds the next hop on the way to `destination`, which must lead out of `link`. `None`: told to stop meanwhile.
    pub(super) fn find(
        rtnl: &'a Rtnl,
        waker: &mut Waker,
        link: &Link,
        destination: IpAddr,
    ) -> anyhow::Result<Option<Self>> {
        let deadline = Instant::now() + PATIENCE;
        let hop = loop {
            match resolve_next_hop(rtnl, destination, None) {
                Ok(hop) => break hop,
                Err(NextHopError::NeighbourPending { .. } | NextHopError::NeighbourFailed { .. })
                    if Instant::now() < deadline =>
                {
                    if waker.wait(Instant::now() + LOOK)? == Wake::Stop {
                        return Ok(None);
                    }
                }
                Err(error) => {
                    if let NextHopError::NeighbourPending { ifindex, next_hop }
                    | NextHopError::NeighbourFailed { ifindex, next_hop } = &error
                    {
                        release(rtnl, *ifindex, *next_hop);
                    }
                    return Err(error)
                        .with_context(|| format!("cannot find the next hop to {destination}"))
                        .advise("make the tunnel's destination reachable, or give the next hop's MAC address with -m");
                }
            }
        };
        let follower = Self {
            rtnl,
            destination,
            ifindex: link.index,
            interface: link.name.clone(),
            hop: Arc::new(Mutex::new((hop.next_hop, hop.dst_mac))),
            complaint: None,
        };
        if let Err(error) = follower.check(&hop) {
            release(rtnl, hop.ifindex, hop.next_hop);
            return Err(error).advise(format!(
                "give the MAC address of a next hop on {} with -m, or another interface with -i",
                link.name
            ));
        }
        Ok(Some(follower))
    }

    /// The address to send to.
    pub(super) fn mac(&self) -> [u8; 6] {
        self.hop.lock().unwrap_or_else(PoisonError::into_inner).1.0
    }

    /// Says which events may mean another next hop. Those that asking brings about are not among them.
    pub(super) fn filter(&self) -> impl FnMut(&Event) -> bool + Send + 'static {
        let (hop, ifindex) = (Arc::clone(&self.hop), self.ifindex);
        move |event| match event {
            Event::Link(_, link) => link.index == ifindex,
            Event::Neighbour(change, neighbour) => {
                let (ip, mac) = *hop.lock().unwrap_or_else(PoisonError::into_inner);
                neighbour.ip == ip && (*change == Change::Gone || neighbour.usable_mac() != Some(mac))
            }
            _ => true,
        }
    }

    /// Looks again; the address if it is another one now. Where there is none any more, that is said once.
    pub(super) fn refresh(&mut self) -> Option<[u8; 6]> {
        let found = resolve_next_hop(self.rtnl, self.destination, None)
            .map_err(anyhow::Error::from)
            .and_then(|hop| self.check(&hop).map(|()| hop));
        match found {
            Ok(hop) => {
                self.complaint = None;
                let mut known = self.hop.lock().unwrap_or_else(PoisonError::into_inner);
                let before = std::mem::replace(&mut *known, (hop.next_hop, hop.dst_mac));
                // Events come in meanwhile, and the filter wants it.
                drop(known);
                if before.0 != hop.next_hop {
                    release(self.rtnl, self.ifindex, before.0);
                }
                (before.1 != hop.dst_mac).then_some(hop.dst_mac.0)
            }
            Err(error) => {
                let complaint = format!("{error:#}");
                if self.complaint.as_ref() != Some(&complaint) {
                    let mac = MacAddress(self.mac());
                    eprintln!("warning: the next hop to {} stays {mac}: {complaint}", self.destination);
                    self.complaint = Some(complaint);
                }
                None
            }
        }
    }

    fn check(&self, hop: &NextHop) -> anyhow::Result<()> {
        if hop.ifindex == self.ifindex {
            return Ok(());
        }
        let other = self
            .rtnl
            .link_by_index(hop.ifindex)
            .map_or_else(|_| "another interface".to_owned(), |link| link.name);
        bail!(anyhow!(
            "the way to {} leaves by {other}, and packets are sent out of {}, where they came in",
            self.destination,
            self.interface
        ))
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        let (ip, _) = *self.hop.lock().unwrap_or_else(PoisonError::into_inner);
        release(self.rtnl, self.ifindex, ip);
    }
}

/// The kernel need not keep the neighbour's address fresh for us any more.
fn release(rtnl: &Rtnl, ifindex: u32, ip: IpAddr) {
    // The entry may have gone with its interface, and one that is not kept fresh (a permanent one) is to stay as it is.
    if let Ok(Some(entry)) = rtnl.neighbour(ifindex, ip)
        && entry.managed
    {
        // May go this very moment; then there is nothing to release.
        let _ = rtnl.release_neighbour(ifindex, ip);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use weir_kernel::net::{Netns, NewAddress, VethEnd};

    use super::*;

    /// In a network namespace of its own: needs root.
    #[test]
    fn the_neighbour_is_kept_fresh_no_longer_than_it_is_followed() {
        let names = ["near", "far"].map(|end| format!("weir-follow-{end}-{}", std::process::id()));
        let [netns, other] =
            names.each_ref().map(|name| Netns::create(name).expect("making a network namespace needs root"));
        let tested = netns.run_in(|| {
            let rtnl = Rtnl::open().unwrap();
            rtnl.create_veth(VethEnd::new("near"), VethEnd::new("far").in_netns(other.as_fd())).unwrap();
            let near = rtnl.link_by_name("near").unwrap();
            for (rtnl, name, address) in
                [(&rtnl, "near", "10.9.0.1"), (&Rtnl::open_in(&other).unwrap(), "far", "10.9.0.2")]
            {
                let index = rtnl.link_by_name(name).unwrap().index;
                rtnl.set_up(index).unwrap();
                rtnl.add_address(&NewAddress::new(index, address.parse().unwrap(), 24)).unwrap();
            }
            let hop = "10.9.0.2".parse().unwrap();
            let managed = || rtnl.neighbour(near.index, hop).unwrap().is_some_and(|entry| entry.managed);
            let mut waker = Waker::new().unwrap();
            let follower = Follower::find(&rtnl, &mut waker, &near, hop).unwrap();
            let during = managed();
            drop(follower);
            (during, managed())
        });
        for name in &names {
            Netns::delete(name).unwrap();
        }
        assert_eq!(tested.unwrap(), (true, false));
    }
}
