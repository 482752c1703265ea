//! What a valid configuration says, in the words the rest of weir uses.
//!
//! Owns: the types and the meaning of each field. May not touch: TOML, files, the kernel.
//! Invariant: a value of these types exists only if [`crate::parse`] accepted it, so nobody downstream checks
//! again. (`#[non_exhaustive]` keeps other crates from building one by hand.)

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::Warning;

/// A whole configuration file, checked.
///
/// Two configurations are equal when they ask for the same thing: where it was written and what was warned about
/// does not count.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The machine that balances.
    pub director: Director,
    /// The services in the file's order; keys and names are unique.
    pub services: Vec<Service>,
    /// What is allowed but probably not meant, by position.
    pub warnings: Vec<Warning>,
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.director == other.director && self.services == other.services
    }
}

impl Eq for Config {}

/// `[director]`: what concerns the machine as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Director {
    /// Where packets for the VIPs arrive: 1 to 16, no duplicates.
    pub interfaces: Vec<InterfaceName>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// Entries of the flow table, 8 bytes each: a power of two, 8192 to 2^28.
    pub flow_table_entries: u32,
    /// The ring size of services that give none. (Each [`Service::ring_slots`] already has it applied.)
    pub ring_slots: RingSlots,
    /// An absolute path to a file that [`crate::parse_hash_key`] understands; `None`: a random key.
    pub hash_key_file: Option<PathBuf>,
    /// Source of outer IPv4 headers; `None`: the address the kernel's route prefers.
    pub source_ipv4: Option<Ipv4Addr>,
    /// Source of outer IPv6 headers; `None`: the address the kernel's route prefers.
    pub source_ipv6: Option<Ipv6Addr>,
}

/// `[[service]]`: a VIP, protocol and port, and who answers for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// Unique; as written, else the key as text (`192.0.2.10:80/tcp`).
    pub name: String,
    /// What packets are matched by; unique.
    pub key: ServiceKey,
    /// Whether the director holds the VIP itself. The same for all services of one VIP.
    pub advertise: Advertise,
    /// How packets travel to a backend.
    pub encapsulation: Encapsulation,
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// Size of the ring: the service's own, else the director's.
    pub ring_slots: RingSlots,
    /// What becomes of a packet when no backend can take it.
    pub no_backend: NoBackend,
    /// How long a flow may be silent before its entry is forgotten: 10 s to 4 h, whole seconds.
    pub idle_timeout: Duration,
    /// How long a backend taken out of the file keeps its flows: 0 (let go at once) to 24 h, whole seconds.
    pub drain: Duration,
    /// In the file's order; may be empty. Names and addresses are unique within the service; if there are any, one
    /// at least has a weight.
    pub backends: Vec<Backend>,
}

/// `[[service.backend]]`: a real server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backend {
    /// As written, else the address as text.
    pub name: String,
    /// Where encapsulated packets are sent. IPv6 if the VIP is.
    pub address: IpAddr,
    /// Share of new flows relative to the service's other backends; 0 takes none and keeps those it has.
    pub weight: u16,
    /// A pinned next-hop MAC address in wire order; `None`: the neighbour table is asked.
    pub mac: Option<[u8; 6]>,
    /// A pinned next-hop address, of the same family as `address`; `None`: the route is asked.
    pub via: Option<IpAddr>,
}

/// What a packet must carry to belong to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ServiceKey {
    /// The virtual address clients talk to.
    pub vip: IpAddr,
    /// In host byte order; 0 is every port that has no service of its own.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// `192.0.2.10:80/tcp`, `[2001:db8::1]:*/udp`.
impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.vip) {
            (0, IpAddr::V4(vip)) => write!(f, "{vip}:*/{}", self.protocol),
            (0, IpAddr::V6(vip)) => write!(f, "[{vip}]:*/{}", self.protocol),
            (port, vip) => write!(f, "{}/{}", SocketAddr::new(vip, port), self.protocol),
        }
    }
}

/// The name of a network interface as the kernel allows it: 1 to 15 bytes, no `/`, `:`, white space or NUL, not `.`
/// or `..`. That there is such an interface is not known here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// `None` if the kernel would not allow such a name.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let length_fits = (1..=15).contains(&name.len());
        let refused = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
        (length_fits && name != "." && name != ".." && !name.contains(refused)).then(|| Self(name.to_owned()))
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of slots of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingSlots {
    /// Chosen by the number and weights of the backends (`ring_slots = 0`).
    Automatic,
    /// A power of two, 256 to 1048576.
    Exactly(u32),
}

/// Declares an enumeration together with the word each variant has in the file.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every variant with its word in the file.
            pub(crate) const WORDS: &[(&str, Self)] = &[$(($word, Self::$variant),)+];

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
    /// How a packet travels to a backend.
    Encapsulation {
        /// IP in IP: IPv4-in-IPv4, IPv6-in-IPv6 or IPv4-in-IPv6, as the families of VIP and backend say.
        Ipip = "ipip",
    }
}

words! {
    /// How a backend is chosen for a new flow.
    Scheduler {
        /// By a weighted Maglev ring.
        Maglev = "maglev",
    }
}

words! {
    /// What becomes of a packet that no backend can take.
    NoBackend {
        /// It is dropped and counted.
        Drop = "drop",
        /// It goes to the director's own network stack.
        Pass = "pass",
    }
}
