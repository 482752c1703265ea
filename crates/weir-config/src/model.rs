//! What a valid configuration says, in the words the rest of weir uses.
//!
//! Owns: the types and the meaning of each field. May not touch: TOML, files, the kernel.
//! Invariant: a value of these types exists only if [`crate::parse`] accepted it, so nobody downstream checks
//! again. (`#[non_exhaustive]` keeps other crates from building one by hand.)

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::Warning;
use crate::prefix::Prefix;
use crate::sources::Sources;
use crate::words::{
    Advertise, Encapsulation, GueChecksum, HashBy, NoBackend, Protocol, Scheduler, ServerIdScheme, State,
    Tracking, XdpMode,
};

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
    /// How the program is attached; nothing is with `program_array`.
    pub xdp_mode: XdpMode,
    /// Where a root program calls the program, which is attached to no interface then.
    pub program_array: Option<ProgramArray>,
    /// Entries of the flow table, 8 bytes each: a power of two, 8192 to 2^28.
    pub flow_table_entries: u32,
    /// The ring size of services that give none. (Each [`Service::ring_slots`] already has it applied.)
    pub ring_slots: RingSlots,
    /// An absolute path to a file that [`crate::parse_hash_key`] understands; `None`: a random key.
    pub hash_key_file: Option<PathBuf>,
    /// Source of outer IPv4 headers; `None`: the address the kernel's route prefers.
    pub source_ipv4: Option<Source<Ipv4Addr>>,
    /// Source of outer IPv6 headers; `None`: the address the kernel's route prefers.
    pub source_ipv6: Option<Source<Ipv6Addr>>,
    /// The UDP port that GUE packets are sent to, and come to `decapsulate`; not 0.
    pub gue_port: u16,
    /// The checksum of the UDP header of GUE over IPv6.
    pub gue_ipv6_checksum: GueChecksum,
    /// Whether echo requests to VIPs are answered here.
    pub answer_ping: bool,
    /// Whether a client is told when its packet does not fit once wrapped.
    pub send_too_big: bool,
    /// The most ICMP errors made in a second by each CPU, up to 1,000,000; 0: none.
    pub icmp_rate: u32,
    /// Addresses of this machine to which wrapped packets come, to be unwrapped; up to 64, no duplicates, no VIPs.
    pub decapsulate: Vec<IpAddr>,
    /// Fragmented packets that can be followed at once: a power of two, 8 to 2^24.
    pub fragment_table_entries: u32,
}

/// A position of a program array that a root program of somebody else's calls.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgramArray {
    /// An absolute path: where the array is pinned.
    pub path: PathBuf,
    /// 0 to 63.
    pub position: u32,
    /// Where packets go on that are passed, a higher position; `None`: to the kernel.
    pub next: Option<u32>,
}

/// The source of outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<A> {
    /// One address.
    Fixed(A),
    /// Another one for each flow, so that the real servers' receive queues share the load: the network's bits, and the
    /// flow's below. In IPv6 no more than the low 64 bits are the flow's.
    Spread {
        /// No bit beyond the prefix is set.
        network: A,
        /// 8 to 31 in IPv4, 16 to 127 in IPv6.
        prefix_len: u8,
    },
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
    /// How packets travel to backends that do not say otherwise. (Each [`Backend::encapsulation`] has it applied.)
    pub encapsulation: Encapsulation,
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// What of a packet chooses the slot in the ring.
    pub hash: HashBy,
    /// How many leading bits of the client's address count, 1 to 32 or 128; `None` where `hash` takes more of a packet
    /// than that address and the destination port, or less.
    pub source_prefix: Option<u8>,
    /// Whether the flow table remembers clients (as far as `source_prefix` tells them apart) instead of flows; only with
    /// [`HashBy::Source`].
    pub persistence: bool,
    /// Whether flows are remembered; always, with persistence and where backends take turns.
    pub tracking: Tracking,
    /// The most flows of this service that may enter the flow table in a second, 64 to 100,000,000; `None`: no limit.
    pub new_flow_budget: Option<u32>,
    /// Where packets carry the id of the backend they belong to.
    pub server_ids: ServerIds,
    /// Clients that may come, as written. They are part of `sources`.
    pub allow: Vec<Prefix>,
    /// Clients that may not, likewise.
    pub deny: Vec<Prefix>,
    /// An absolute path to a file with more of them. [`crate::load`] has read it; [`crate::parse`] reads no file.
    pub sources_file: Option<PathBuf>,
    /// What becomes of which clients: `allow`, `deny`, the backends' sources and the file's, in one.
    pub sources: Sources,
    /// Size of the ring: the service's own, else the director's.
    pub ring_slots: RingSlots,
    /// What becomes of a packet when no backend can take it.
    pub no_backend: NoBackend,
    /// How long a flow may be silent before its entry is forgotten: 10 s to 4 h, whole seconds.
    pub idle_timeout: Duration,
    /// How long a backend taken out of the file keeps its flows: 0 (let go at once) to 24 h, whole seconds.
    pub drain: Duration,
    /// In the file's order; may be empty. Names, addresses, server ids and sources are unique within the service; if
    /// there are any, one at least has a weight, or all have server ids or sources.
    pub backends: Vec<Backend>,
}

/// `[[service.backend]]`: a real server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backend {
    /// As written, else the address as text.
    pub name: String,
    /// Where packets are sent; of the VIP's family with [`Encapsulation::L2`]. Not where a `local` backend is.
    pub address: IpAddr,
    /// Share of new flows relative to the service's other backends; 0 takes none and keeps those it has.
    pub weight: u16,
    /// How packets travel to it: its own, else the service's. A `local` backend gets them as they are.
    pub encapsulation: Encapsulation,
    /// Whether it gets anything at all.
    pub state: State,
    /// The ids by which packets name it, in the range of [`Service::server_ids`]; none unless that says where they are.
    pub server_ids: Vec<u32>,
    /// Clients whose packets all go to it, as written. They are part of [`Service::sources`].
    pub sources: Vec<Prefix>,
    /// A pinned next-hop MAC address in wire order; `None`: the neighbour table is asked.
    pub mac: Option<[u8; 6]>,
    /// A pinned next-hop address, of the same family as `address`; `None`: the route is asked.
    pub via: Option<IpAddr>,
    /// A pinned VLAN to send into, 1 to 4094; `None`: as the route's interface says.
    pub vlan: Option<u16>,
    /// It is this machine: packets are left to its network stack. Then there is no `mac`, `via` and `vlan`.
    pub local: bool,
}

/// Where a packet carries the id of the backend it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerIds {
    /// Nowhere.
    None,
    /// In a QUIC connection id, after the two bits of its version: 16 bits (version 1), 24 (version 2) or 32 (version 3), as
    /// Katran has it. Of a UDP service.
    Quic,
    /// In a QUIC connection id in plain text, as QUIC-LB (draft-ietf-quic-load-balancers) has it. Of a UDP service.
    QuicLb {
        /// The configuration's number, 0 to 6, that is in the first byte's three high bits.
        rotation: u8,
        /// Bytes of an id, 1 to 4.
        id_length: u8,
    },
    /// At the payload's beginning: 0x52, then 24 bits as in a QUIC connection id of version 2. Of a UDP service.
    UdpStable,
    /// In a TCP option of kind 0xb7 and length 6. Of a TCP service.
    TcpOption,
}

impl ServerIds {
    /// The word for it in the file.
    pub fn scheme(self) -> ServerIdScheme {
        match self {
            Self::None => ServerIdScheme::None,
            Self::Quic => ServerIdScheme::Quic,
            Self::QuicLb { .. } => ServerIdScheme::QuicLb,
            Self::UdpStable => ServerIdScheme::UdpStable,
            Self::TcpOption => ServerIdScheme::TcpOption,
        }
    }

    /// The highest id there can be; `None` if there are none.
    pub fn highest(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Quic | Self::TcpOption => Some(u32::MAX),
            Self::QuicLb { id_length, .. } => Some(u32::MAX >> (32 - 8 * u32::from(id_length))),
            Self::UdpStable => Some(0xff_ffff),
        }
    }
}

/// What a packet must carry to belong to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ServiceKey {
    /// The virtual address clients talk to, or the first of them.
    pub vip: IpAddr,
    /// The leading bits of `vip` that count, 8 to 31 or 16 to 127; `None`: all, it is one address.
    pub prefix_len: Option<u8>,
    /// In host byte order; 0 is every port that has no service of its own.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

impl ServiceKey {
    /// The addresses of the service.
    pub fn vips(&self) -> Prefix {
        self.prefix_len.map_or_else(|| Prefix::single(self.vip), |len| Prefix::of(self.vip, len))
    }
}

/// `192.0.2.10:80/tcp`, `[2001:db8::1]:*/udp`, `198.51.100.0/24:80/tcp`.
impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vip {
            IpAddr::V4(_) => write!(f, "{}:", self.vips())?,
            IpAddr::V6(_) => write!(f, "[{}]:", self.vips())?,
        }
        match self.port {
            0 => write!(f, "*/{}", self.protocol),
            port => write!(f, "{port}/{}", self.protocol),
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
