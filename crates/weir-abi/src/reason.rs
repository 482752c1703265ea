//! Why the datapath did what it did. A reason is an index into the counters, so nothing can go uncounted.

/// What happens to a packet, without the details of where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Left to the kernel, byte-identical.
    Pass,
    /// Discarded.
    Drop,
    /// Sent on to a backend.
    Forward,
    /// Answered to where it came from.
    Reply,
}

/// Packets and bytes under one reason or backend; bytes are those of the frame as it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of frames as received, Ethernet header included.
    pub bytes: u64,
}

macro_rules! reasons {
    ($(#[doc = $doc:literal] $name:ident = $number:literal, $verdict:ident, $label:literal;)*) => {
        /// Why a packet got its verdict. Every packet has exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason { $(#[doc = $doc] $name = $number,)* }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// Number of reasons = length of the counter array.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The verdict that goes with the reason.
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict,)* }
            }
            /// Name in metrics and reports.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
            /// One sentence for people.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$name => $doc,)* }
            }
        }
    };
}

reasons! {
    #[doc = "Neither IPv4 nor IPv6 (ARP, for example), or behind more than two VLAN tags."]
    NotIp = 0, Pass, "not_ip";
    #[doc = "To an address and port that are no service."]
    NotService = 1, Pass, "not_service";
    #[doc = "To a VIP, but a protocol or port that is no service there."]
    VipOther = 2, Pass, "vip_other";
    #[doc = "To a VIP, with IPv6 extension headers that are too many, too long or unknown; left to the kernel."]
    VipUnsupported = 3, Pass, "vip_unsupported";
    #[doc = "A later fragment to a VIP of a packet whose first fragment was not seen."]
    FragmentOrphan = 4, Drop, "fragment_orphan";
    #[doc = "Shorter than its headers claim, and to no VIP."]
    Malformed = 5, Pass, "malformed";
    #[doc = "To a VIP, shorter than its headers claim."]
    VipTruncated = 6, Drop, "vip_truncated";
    #[doc = "No backend can take the packet; dropped, as the service says."]
    NoBackendDrop = 7, Drop, "no_backend_drop";
    #[doc = "No backend can take the packet; passed to the kernel, as the service says."]
    NoBackendPass = 8, Pass, "no_backend_pass";
    #[doc = "Larger than the path to the backend once wrapped, and nobody could be told."]
    TooBig = 9, Drop, "too_big";
    #[doc = "No room in front of the packet for the outer header."]
    NoHeadroom = 10, Drop, "no_headroom";
    #[doc = "The tables contradict themselves (a ring names no backend, a backend no encapsulation)."]
    TableCorrupt = 11, Drop, "table_corrupt";
    #[doc = "Forwarded to the backend the flow table remembers."]
    FlowHit = 12, Forward, "flow_hit";
    #[doc = "Forwarded by the ring: first packet of a flow."]
    RingNew = 13, Forward, "ring_new";
    #[doc = "Forwarded by the ring: in the middle of a TCP connection the flow table does not know."]
    RingMiss = 14, Forward, "ring_miss";
    #[doc = "Forwarded by the ring: the remembered backend is down."]
    RingRehome = 15, Forward, "ring_rehome";
    #[doc = "Forwarded by the ring and not remembered: the service does not track, or its budget of new flows is spent."]
    RingUntracked = 16, Forward, "ring_untracked";
    #[doc = "Forwarded to the backend whose server id the packet carries."]
    ServerId = 17, Forward, "server_id";
    #[doc = "Forwarded to the backend that the source list names."]
    SourceRoute = 18, Forward, "source_route";
    #[doc = "A later fragment, forwarded to where its first fragment went."]
    FragmentFollowed = 19, Forward, "fragment_followed";
    #[doc = "An ICMP error about a flow, forwarded to the flow's backend."]
    IcmpForwarded = 20, Forward, "icmp_forwarded";
    #[doc = "Left to the kernel, because the chosen backend is this machine."]
    Local = 21, Pass, "local";
    #[doc = "From a source the service does not allow."]
    SourceDenied = 22, Drop, "source_denied";
    #[doc = "To a service from an address no machine can have: multicast, broadcast, loopback, unspecified."]
    BadSource = 23, Drop, "bad_source";
    #[doc = "To a service, with no hops left."]
    NoHopsLeft = 24, Drop, "no_hops_left";
    #[doc = "An echo request to a VIP, answered."]
    EchoReply = 25, Reply, "echo_reply";
    #[doc = "Larger than the path to the backend once wrapped; its sender was told the size that fits."]
    TooBigReply = 26, Reply, "too_big_reply";
    #[doc = "No backend can take the packet; its sender was told so, as the service says."]
    UnreachableReply = 27, Reply, "unreachable_reply";
    #[doc = "Came wrapped to an address that takes such packets; unwrapped, and what was inside is for no service."]
    Unwrapped = 28, Pass, "unwrapped";
    #[doc = "Came wrapped to an address that takes such packets; what is inside is no packet, or bears a congestion mark it must not."]
    UnwrapRefused = 29, Drop, "unwrap_refused";
}

impl Reason {
    /// The reason with this number.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }
}
