//! Links: list, create, change and remove network interfaces.
//!
//! Owns the RTM_*LINK messages. Every call names the link by index or by name in the socket's own namespace.

use std::{
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoData, InfoKind, InfoVeth, InfoVlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
        LinkLayerType, LinkMessage, VlanProtocol,
    },
};
use nix::errno::Errno;

use super::{error::Error, mac::MacAddress, netlink::Rtnl};

/// The kernel's IFNAMSIZ without the final zero.
const NAME_BYTES: usize = 15;

/// A network interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique within the namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// The driver's kind for virtual links ("veth", "bridge", "tun"); `None` for hardware.
    pub kind: Option<String>,
    /// Largest layer-3 packet in bytes.
    pub mtu: u32,
    /// Ethernet address; `None` where the link has none (loopback, tun, IP tunnels).
    pub mac: Option<MacAddress>,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier (the other end is up too).
    pub running: bool,
    /// Whether this is the loopback link.
    pub loopback: bool,
    /// Index of the bridge or bond that this link is a port of.
    pub master: Option<u32>,
    /// Index of the related link: a veth's other end, a VLAN's parent. It is counted in [`Link::netns_id`]'s namespace.
    pub iflink: Option<u32>,
    /// The namespace (kernel's local id) that `iflink` is in; `None` is this one.
    pub netns_id: Option<i32>,
    /// The tag that frames sent here get, where the link is a VLAN on another one ([`Link::iflink`]).
    pub vlan: Option<VlanTag>,
}

/// A VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanTag {
    /// VLAN id, 1 to 4094.
    pub id: u16,
    /// Whether it is a customer's tag (802.1Q, Ethernet type 0x8100), rather than a provider's (802.1ad).
    pub is_8021q: bool,
}

/// One end of a veth pair to be created.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    name: &'a str,
    netns: Option<BorrowedFd<'a>>,
    mac: Option<MacAddress>,
    mtu: Option<u32>,
}

impl<'a> VethEnd<'a> {
    /// An end with this name in the socket's namespace.
    pub fn new(name: &'a str) -> Self {
        Self { name, netns: None, mac: None, mtu: None }
    }

    /// Creates the end in another namespace from the start.
    #[must_use]
    pub fn in_netns(mut self, netns: BorrowedFd<'a>) -> Self {
        self.netns = Some(netns);
        self
    }

    /// Gives the end this address instead of a random one.
    #[must_use]
    pub fn mac(mut self, mac: MacAddress) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Gives the end this MTU in bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    fn attributes(&self) -> Result<Vec<LinkAttribute>, Error> {
        let mut attributes = vec![name_attribute(self.name)?];
        attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes.extend(self.netns.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
        Ok(attributes)
    }
}

impl Rtnl {
    /// Every link in the namespace.
    pub fn links(&self) -> Result<Vec<Link>, Error> {
        let request = message(0, vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]);
        self.dump(&RouteNetlinkMessage::GetLink(request), format_args!("list links"), |reply| match reply {
            RouteNetlinkMessage::NewLink(message) => Some(decode(message)),
            _ => None,
        })
    }

    /// The link with this name, or [`Error::NoSuchLink`].
    pub fn link_by_name(&self, name: &str) -> Result<Link, Error> {
        let request = message(0, vec![name_attribute(name)?]);
        self.get_link(request, format_args!("{name}"))
    }

    /// The link with this index, or [`Error::NoSuchLink`].
    pub fn link_by_index(&self, index: u32) -> Result<Link, Error> {
        self.get_link(message(index, Vec::new()), format_args!("{index}"))
    }

    /// The link with this name, if there is one.
    pub fn find_link(&self, name: &str) -> Result<Option<Link>, Error> {
        match self.link_by_name(name) {
            Ok(link) => Ok(Some(link)),
            Err(Error::NoSuchLink { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the link administratively up.
    pub fn set_up(&self, index: u32) -> Result<(), Error> {
        self.set_up_flag(index, true)
    }

    /// Sets the link administratively down.
    pub fn set_down(&self, index: u32) -> Result<(), Error> {
        self.set_up_flag(index, false)
    }

    /// Sets the MTU in bytes.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), Error> {
        self.set_link(index, LinkAttribute::Mtu(mtu), format_args!("set the MTU of link {index} to {mtu}"))
    }

    /// Sets the Ethernet address.
    pub fn set_mac(&self, index: u32, mac: MacAddress) -> Result<(), Error> {
        self.set_link(
            index,
            LinkAttribute::Address(mac.0.to_vec()),
            format_args!("set the address of link {index} to {mac}"),
        )
    }

    /// Renames the link; most kernels ask that it be down.
    pub fn rename(&self, index: u32, name: &str) -> Result<(), Error> {
        self.set_link(index, name_attribute(name)?, format_args!("rename link {index} to {name}"))
    }

    /// Moves the link into another namespace, where it may get another index.
    pub fn move_to_netns(&self, index: u32, netns: BorrowedFd<'_>) -> Result<(), Error> {
        self.set_link(
            index,
            LinkAttribute::NetNsFd(netns.as_raw_fd()),
            format_args!("move link {index} to another network namespace"),
        )
    }

    /// Makes the link a port of a bridge (or bond); `None` takes it out again.
    pub fn set_master(&self, index: u32, master: Option<u32>) -> Result<(), Error> {
        let doing = match master {
            Some(master) => format!("make link {index} a port of link {master}"),
            None => format!("take link {index} out of its bridge"),
        };
        self.set_link(index, LinkAttribute::Controller(master.unwrap_or(0)), format_args!("{doing}"))
    }

    /// Removes a virtual link, and a veth's other end with it.
    pub fn delete_link(&self, index: u32) -> Result<(), Error> {
        self.change(
            RouteNetlinkMessage::DelLink(message(index, Vec::new())),
            0,
            format_args!("delete link {index}"),
        )
    }

    /// Creates a veth pair. Both ends are down.
    pub fn create_veth(&self, one: VethEnd<'_>, other: VethEnd<'_>) -> Result<(), Error> {
        let peer = message(0, other.attributes()?);
        let mut attributes = one.attributes()?;
        attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.create(attributes, format_args!("create veth pair {} and {}", one.name, other.name))
    }

    /// Creates a bridge and returns it. It is down.
    pub fn create_bridge(&self, name: &str) -> Result<Link, Error> {
        self.create_simple(name, InfoKind::Bridge)
    }

    /// Creates a dummy link and returns it. It is down. Kernels without the dummy driver say so.
    pub fn create_dummy(&self, name: &str) -> Result<Link, Error> {
        self.create_simple(name, InfoKind::Dummy)
    }

    fn create_simple(&self, name: &str, kind: InfoKind) -> Result<Link, Error> {
        let doing = format!("create {kind} link {name}");
        let attributes = vec![name_attribute(name)?, LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
        self.create(attributes, format_args!("{doing}"))?;
        self.link_by_name(name)
    }

    fn create(&self, attributes: Vec<LinkAttribute>, doing: fmt::Arguments<'_>) -> Result<(), Error> {
        self.change(RouteNetlinkMessage::NewLink(message(0, attributes)), NLM_F_CREATE | NLM_F_EXCL, doing)
    }

    fn set_link(&self, index: u32, attribute: LinkAttribute, doing: fmt::Arguments<'_>) -> Result<(), Error> {
        self.change(RouteNetlinkMessage::SetLink(message(index, vec![attribute])), 0, doing)
    }

    fn set_up_flag(&self, index: u32, up: bool) -> Result<(), Error> {
        let mut request = message(index, Vec::new());
        request.header.change_mask = LinkFlags::Up;
        if up {
            request.header.flags = LinkFlags::Up;
        }
        let state = if up { "up" } else { "down" };
        self.change(RouteNetlinkMessage::SetLink(request), 0, format_args!("set link {index} {state}"))
    }

    fn get_link(&self, request: LinkMessage, which: fmt::Arguments<'_>) -> Result<Link, Error> {
        let missing = || Error::NoSuchLink { link: which.to_string() };
        match self.get(RouteNetlinkMessage::GetLink(request), format_args!("look up link {which}")) {
            Ok(Some(RouteNetlinkMessage::NewLink(message))) => Ok(decode(message)),
            Ok(_) => Err(missing()),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Err(missing()),
            Err(error) => Err(error),
        }
    }
}

fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn name_attribute(name: &str) -> Result<LinkAttribute, Error> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > NAME_BYTES {
        "it is longer than 15 bytes"
    } else if name == "."
        || name == ".."
        || name.bytes().any(|byte| byte == b'/' || byte == b':' || byte <= b' ')
    {
        "it has a slash, colon, blank or control character, or is a dot name"
    } else {
        return Ok(LinkAttribute::IfName(name.to_owned()));
    };
    Err(Error::InvalidName { what: "link name", name: name.to_owned(), reason })
}

pub(super) fn decode(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        mtu: 0,
        mac: None,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        master: None,
        iflink: None,
        netns_id: None,
        vlan: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) if ethernet => link.mac = MacAddress::from_slice(&bytes),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.iflink = Some(index),
            LinkAttribute::LinkNetNsId(id) if id >= 0 => link.netns_id = Some(id),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vlan(info)) => link.vlan = vlan_tag(&info),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn vlan_tag(info: &[InfoVlan]) -> Option<VlanTag> {
    let id = info.iter().find_map(|info| if let InfoVlan::Id(id) = info { Some(*id) } else { None })?;
    // The kernel always says which; it is 802.1Q unless another was asked for.
    let other = |info: &InfoVlan| matches!(info, InfoVlan::Protocol(protocol) if *protocol != VlanProtocol::Ieee8021Q);
    Some(VlanTag { id, is_8021q: !info.iter().any(other) })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};

    use super::*;

    /// An attribute: length, type, payload, padded to four bytes.
    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let len = 4 + payload.len() as u16;
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// Link 5, as the kernel tells of a VLAN on link 2 with this id and this tag's Ethernet type.
    fn vlan(id: u16, ether_type: u16) -> Link {
        const IFLA_IFNAME: u16 = 3;
        const IFLA_LINK: u16 = 5;
        const IFLA_LINKINFO: u16 = 18;
        const IFLA_INFO_KIND: u16 = 1;
        const IFLA_INFO_DATA: u16 = 2;
        const IFLA_VLAN_ID: u16 = 1;
        const IFLA_VLAN_PROTOCOL: u16 = 5;
        let data = [
            attribute(IFLA_VLAN_PROTOCOL, &ether_type.to_be_bytes()),
            attribute(IFLA_VLAN_ID, &id.to_ne_bytes()),
        ];
        let info = [attribute(IFLA_INFO_KIND, b"vlan\0"), attribute(IFLA_INFO_DATA, &data.concat())];
        let mut link = vec![0; 16];
        link[2..4].copy_from_slice(&1_u16.to_ne_bytes());
        link[4..8].copy_from_slice(&5_u32.to_ne_bytes());
        link.extend(attribute(IFLA_IFNAME, b"eth0.7\0"));
        link.extend(attribute(IFLA_LINK, &2_u32.to_ne_bytes()));
        link.extend(attribute(IFLA_LINKINFO, &info.concat()));
        // RTM_NEWLINK, no flags.
        let mut bytes = (16 + link.len() as u32).to_ne_bytes().to_vec();
        bytes.extend([16, 0, 0, 0]);
        bytes.extend([0; 8]);
        bytes.extend(link);
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).expect("well-formed").payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => decode(message),
            other => panic!("{other:?} is no link"),
        }
    }

    #[test]
    fn a_vlan_has_a_tag_and_a_parent() {
        let link = vlan(7, 0x8100);
        assert_eq!(
            (link.name.as_str(), link.kind.as_deref(), link.iflink),
            ("eth0.7", Some("vlan"), Some(2))
        );
        assert_eq!(link.vlan, Some(VlanTag { id: 7, is_8021q: true }));
        assert_eq!(vlan(4094, 0x88a8).vlan, Some(VlanTag { id: 4094, is_8021q: false }));
    }
}
