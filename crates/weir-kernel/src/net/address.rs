//! Addresses of links: list, add, remove; with variants that accept what is already so.
//!
//! Owns the RTM_*ADDR messages.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo},
};
use nix::errno::Errno;

use super::{error::Error, netlink::Rtnl};

/// How far an address is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Everywhere.
    #[default]
    Global,
    /// On this link only.
    Link,
    /// On this machine only.
    Host,
    /// Any other number (site scope is 200).
    Other(u8),
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Index of the link that has it.
    pub ifindex: u32,
    /// The address itself.
    pub ip: IpAddr,
    /// Length of the on-link prefix in bits.
    pub prefix_len: u8,
    /// How far it is valid.
    pub scope: Scope,
    /// Duplicate address detection is still running, so that it cannot be used yet.
    pub tentative: bool,
    /// Duplicate address detection found another owner.
    pub dad_failed: bool,
    /// Not to be chosen for new connections.
    pub deprecated: bool,
}

/// An address to be added or ensured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewAddress {
    /// Index of the link.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of the on-link prefix in bits.
    pub prefix_len: u8,
    /// How far it is valid.
    pub scope: Scope,
    /// IPv6: usable at once, without duplicate address detection. Has no meaning for IPv4.
    pub nodad: bool,
    /// Not to be chosen as the source of this machine's own packets (IPv6; IPv4 only notes it).
    pub deprecated: bool,
}

impl NewAddress {
    /// A global address with duplicate address detection as the kernel does it.
    pub fn new(ifindex: u32, ip: IpAddr, prefix_len: u8) -> Self {
        Self { ifindex, ip, prefix_len, scope: Scope::Global, nodad: false, deprecated: false }
    }

    /// Skips IPv6 duplicate address detection.
    #[must_use]
    pub fn nodad(mut self) -> Self {
        self.nodad = true;
        self
    }

    /// Keeps the kernel from choosing it as a source.
    #[must_use]
    pub fn deprecated(mut self) -> Self {
        self.deprecated = true;
        self
    }

    /// Sets the scope.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }
}

impl Rtnl {
    /// Addresses of both families, of one link or of all.
    pub fn addresses(&self, ifindex: Option<u32>) -> Result<Vec<Address>, Error> {
        let mut request = AddressMessage::default();
        request.header.index = ifindex.unwrap_or(0);
        let found =
            self.dump(&RouteNetlinkMessage::GetAddress(request), format_args!("list addresses"), |reply| {
                match reply {
                    RouteNetlinkMessage::NewAddress(message) => decode(&message),
                    _ => None,
                }
            })?;
        // Kernels before 4.20 do not filter.
        Ok(found.into_iter().filter(|address| ifindex.is_none_or(|index| index == address.ifindex)).collect())
    }

    /// Adds an address; an error if the link has it already. An IPv6 address becomes local (see
    /// [`super::RouteKind::Local`]) a moment after the kernel has accepted it, even with `nodad`.
    pub fn add_address(&self, address: &NewAddress) -> Result<(), Error> {
        let mut request = message(address.ifindex, address.ip, address.prefix_len);
        request.header.scope = match address.scope {
            Scope::Global => AddressScope::Universe,
            Scope::Link => AddressScope::Link,
            Scope::Host => AddressScope::Host,
            Scope::Other(number) => number.into(),
        };
        if address.nodad {
            request.header.flags = AddressHeaderFlags::Nodad;
        }
        if address.deprecated {
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX; // for ever
            request.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        self.change(
            RouteNetlinkMessage::NewAddress(request),
            NLM_F_CREATE | NLM_F_EXCL,
            format_args!("add address {}/{} to link {}", address.ip, address.prefix_len, address.ifindex),
        )
    }

    /// Removes an address; an error if the link does not have it.
    pub fn del_address(&self, ifindex: u32, ip: IpAddr, prefix_len: u8) -> Result<(), Error> {
        self.change(
            RouteNetlinkMessage::DelAddress(message(ifindex, ip, prefix_len)),
            0,
            format_args!("remove address {ip}/{prefix_len} from link {ifindex}"),
        )
    }

    /// Adds an address unless the link has it; returns whether it was added. The scope of one that is there is left as
    /// it is; one with another prefix length is a [`Error::Conflict`] where the kernel refuses a second one (IPv6).
    pub fn ensure_address(&self, address: &NewAddress) -> Result<bool, Error> {
        match self.add_address(address) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::EEXIST) => {
                let found =
                    self.addresses(Some(address.ifindex))?.into_iter().find(|found| found.ip == address.ip);
                match found {
                    Some(found) if found.prefix_len != address.prefix_len => Err(Error::Conflict {
                        doing: format!("add address {}/{}", address.ip, address.prefix_len),
                        found: format!("{}/{} on link {}", found.ip, found.prefix_len, found.ifindex),
                    }),
                    _ => Ok(false),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Removes an address if the link has it; returns whether it was removed.
    pub fn ensure_no_address(&self, ifindex: u32, ip: IpAddr, prefix_len: u8) -> Result<bool, Error> {
        match self.del_address(ifindex, ip, prefix_len) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.errno(), Some(Errno::EADDRNOTAVAIL | Errno::ENODEV)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The netlink number of an address's family.
pub(super) fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn message(ifindex: u32, ip: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.index = ifindex;
    message.header.prefix_len = prefix_len;
    // On anything but a point-to-point link the two are the same.
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

pub(super) fn decode(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut address = None;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    Some(Address {
        ifindex: message.header.index,
        // IFA_ADDRESS is the peer's on point-to-point links; IPv6 leaves IFA_LOCAL out where they are equal.
        ip: local.or(address)?,
        prefix_len: message.header.prefix_len,
        scope: match message.header.scope {
            AddressScope::Universe => Scope::Global,
            AddressScope::Link => Scope::Link,
            AddressScope::Host => Scope::Host,
            other => Scope::Other(other.into()),
        },
        tentative: flags.contains(AddressFlags::Tentative),
        dad_failed: flags.contains(AddressFlags::Dadfailed),
        deprecated: flags.contains(AddressFlags::Deprecated),
    })
}
