//! Why the datapath did what it did. A reason is an index into the counters, so nothing can go uncounted.

/// What happens to a packet, without the details of where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Left to the kernel, byte-identical.
    Pass,
    /// Discarded.
    Drop,
    /// Wrapped and sent to a backend.
    Forward,
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
    #[doc = "Neither IPv4 nor IPv6 right behind the Ethernet header (ARP, or a VLAN tag)."]
    NotIp = 0, Pass, "not_ip";
    #[doc = "To an address and port that are no service."]
    NotService = 1, Pass, "not_service";
    #[doc = "To a VIP, but a protocol or port that is no service there."]
    VipOther = 2, Pass, "vip_other";
    #[doc = "To a VIP, with IPv6 extension headers; left to the kernel."]
    VipUnsupported = 3, Pass, "vip_unsupported";
    #[doc = "A fragment to a VIP; left to the kernel."]
    VipFragment = 4, Pass, "vip_fragment";
    #[doc = "Shorter than its headers claim, and to no VIP."]
    Malformed = 5, Pass, "malformed";
    #[doc = "To a VIP, shorter than its headers claim."]
    VipTruncated = 6, Drop, "vip_truncated";
    #[doc = "No backend can take the packet; dropped, as the service says."]
    NoBackendDrop = 7, Drop, "no_backend_drop";
    #[doc = "No backend can take the packet; passed to the kernel, as the service says."]
    NoBackendPass = 8, Pass, "no_backend_pass";
    #[doc = "Larger than the path to the backend once wrapped."]
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
}

impl Reason {
    /// The reason with this number.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }
}
