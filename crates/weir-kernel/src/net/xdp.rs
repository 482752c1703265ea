//! XDP programs attached over netlink: what anyone may replace, as `ip link set dev … xdp` does.
//!
//! Owns: attaching, replacing and taking away programs without a bpf_link. weir's own programs are attached by links
//! (`bpf::xdp`); this is for `weir iptunnel`, whose model attaches this way: a link can neither replace such a program nor
//! be replaced by one. Invariant: a program is only ever taken away by its own descriptor.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp},
};
use nix::errno::Errno;

use super::{Error, Rtnl};

const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1;
const XDP_FLAGS_REPLACE: u32 = 1 << 4;

/// Where in the kernel a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum XdpFlag {
    /// The kernel's choice: in the driver where the driver can, else generic.
    #[default]
    Any,
    /// In the driver.
    Driver,
    /// Generic, on socket buffers.
    Skb,
}

impl XdpFlag {
    fn bits(self) -> u32 {
        match self {
            Self::Any => 0,
            Self::Skb => 2,    // XDP_FLAGS_SKB_MODE
            Self::Driver => 4, // XDP_FLAGS_DRV_MODE
        }
    }
}

impl Rtnl {
    /// Attaches an XDP program to the link with this index. Another one there is replaced, or, without `replace`, is in
    /// the way ([`Error::errno`] is then `EBUSY`). A program that a bpf_link holds cannot be replaced.
    pub fn attach_xdp(
        &self,
        index: u32,
        program: BorrowedFd<'_>,
        flag: XdpFlag,
        replace: bool,
    ) -> Result<(), Error> {
        let flags = flag.bits() | if replace { 0 } else { XDP_FLAGS_UPDATE_IF_NOEXIST };
        self.set_xdp(
            index,
            vec![LinkXdp::Fd(program.as_raw_fd()), LinkXdp::Flags(flags)],
            "attach an XDP program to",
        )
    }

    /// Takes this very program away from the link. Returns whether it was there; another one is left where it is.
    pub fn detach_xdp(&self, index: u32, program: BorrowedFd<'_>, flag: XdpFlag) -> Result<bool, Error> {
        let expected = LinkXdp::ExpectedFd(program.as_raw_fd().cast_unsigned());
        let flags = LinkXdp::Flags(flag.bits() | XDP_FLAGS_REPLACE);
        match self.set_xdp(index, vec![LinkXdp::Fd(-1), expected, flags], "detach an XDP program from") {
            Ok(()) => Ok(true),
            // EEXIST: not the expected program. EBUSY: one that a link holds, and this one never was.
            Err(error) if matches!(error.errno(), Some(Errno::EEXIST | Errno::EBUSY | Errno::ENODEV)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn set_xdp(&self, index: u32, xdp: Vec<LinkXdp>, doing: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Xdp(xdp));
        self.change(RouteNetlinkMessage::SetLink(message), 0, format_args!("{doing} link {index}"))
    }
}
