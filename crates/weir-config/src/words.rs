//! The words of the file, and what each stands for.
//!
//! Owns: the enumerations of the configuration and the words other balancers have for the same. May not touch: which
//! words go together. Invariant: a word is one variant's, and is shown as it is written.

use std::fmt;

/// An enumeration that the file has words for.
pub(crate) trait Word: Copy + 'static {
    /// Every variant with its word in the file.
    const WORDS: &'static [(&'static str, Self)];
    /// Words that others use, and the word here that means the same.
    const KNOWN_AS: &'static [(&'static str, &'static str)];
}

/// Declares an enumeration together with the word each variant has in the file.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $word:literal $(known as [$($other:literal),+])?,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl Word for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant),)+];
            const KNOWN_AS: &'static [(&'static str, &'static str)] = &[$($($(($other, $word),)+)?)+];
        }

        impl $name {
            /// The word for it in the file, the command line and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// How the XDP program is attached.
    XdpMode {
        /// In the driver; where the driver cannot, in the network stack, with a loud word about it.
        Auto = "auto",
        /// In the driver, or not at all.
        Native = "native",
        /// In the network stack: slower, works on every interface.
        Generic = "generic",
    }
}

words! {
    /// A transport protocol that can be balanced.
    Protocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

impl Protocol {
    /// The number in an IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

words! {
    /// How packets for the VIP come to the director.
    Advertise {
        /// Something else sees to it: a router's route, most often.
        None = "none",
        /// The director holds the VIP as a host address (/32, /128) and answers ARP and neighbour solicitations.
        Address = "address",
    }
}

words! {
    /// Whether the UDP header around a packet in IPv6 carries a checksum.
    GueChecksum {
        /// It covers the whole packet, as RFC 8200 asks for.
        Computed = "computed" known as ["on", "full", "true"],
        /// It is zero, as RFC 6935 and RFC 6936 allow for tunnels: the receiver must have been told to take it.
        Zero = "zero" known as ["off", "none", "false", "no"],
    }
}

words! {
    /// How a packet travels to a backend.
    Encapsulation {
        /// IP in IP: any of the four pairs of families, as those of VIP and backend say.
        Ipip = "ipip" known as ["tun", "tunnel", "tunneling", "ip6ip6", "ip6tnl", "sit"],
        /// Generic UDP Encapsulation, version 1: IP straight after UDP. The flow is in the source port.
        Gue = "gue" known as ["fou", "udp"],
        /// None: only the MAC addresses are rewritten, so the backend must be on the same link.
        L2 = "l2" known as ["dr", "dsr", "direct", "gatewaying", "mac"],
    }
}

words! {
    /// How a backend is chosen for a new flow.
    Scheduler {
        /// By a weighted Maglev ring.
        Maglev = "maglev" known as ["mh", "consistent", "ring"],
        /// In turn, weights other than 0 being all the same.
        Rr = "rr" known as ["round-robin", "roundrobin", "round_robin"],
        /// In turn, as often as weights say.
        Wrr = "wrr" known as ["weighted-round-robin", "weighted", "weighted_round_robin"],
    }
}

words! {
    /// What of a packet chooses its slot in the ring.
    HashBy {
        /// The flow: protocol, both addresses and both ports.
        Flow = "flow" known as ["5-tuple", "five-tuple", "tuple"],
        /// The client's address alone.
        Source = "source" known as ["sh", "src", "source-address", "source-ip", "client"],
        /// The client's address and the destination port.
        SourceAndPort = "source-and-port" known as ["source-port", "src-dport"],
        /// The destination port alone.
        Port = "port" known as ["dport", "destination-port"],
        /// Source and destination port.
        Ports = "ports" known as ["src-dst-port", "sport-dport", "source-and-destination-port"],
    }
}

words! {
    /// Whether flows are remembered.
    Tracking {
        /// The flow table remembers where each flow went.
        Always = "always" known as ["on", "true", "yes", "lru"],
        /// Each packet goes where the ring says at that moment.
        Never = "never" known as ["off", "false", "no", "none", "stateless", "ops"],
    }
}

words! {
    /// Where a packet carries the id of its backend: the word alone, see [`crate::ServerIds`].
    ServerIdScheme {
        /// Nowhere.
        None = "none" known as ["off", "false", "no"],
        /// In a QUIC connection id, as Katran lays it out.
        Quic = "quic" known as ["katran", "quic-cid", "cid"],
        /// In a QUIC connection id, as QUIC-LB lays it out in plain text.
        QuicLb = "quic-lb" known as ["quic_lb", "quiclb", "ietf"],
        /// At the beginning of a UDP payload.
        UdpStable = "udp-stable" known as ["udp", "udp_stable", "stable"],
        /// In a TCP option.
        TcpOption = "tcp-option" known as ["tcp", "tpr", "tcp_option", "tcp-server-id"],
    }
}

words! {
    /// What an administrator wants of a backend.
    State {
        /// It takes what its weight and sources give it.
        Up = "up" known as ["enabled", "active", "on"],
        /// It gets nothing; its flows move to others.
        Down = "down" known as ["disabled", "maintenance", "off"],
    }
}

words! {
    /// What becomes of a packet that no backend can take.
    NoBackend {
        /// It is dropped and counted.
        Drop = "drop",
        /// It goes to the director's own network stack.
        Pass = "pass",
        /// Its sender is told by an ICMP error; what may not be answered, or too often, is dropped.
        Unreachable = "unreachable" known as ["reject", "icmp", "refuse"],
    }
}
