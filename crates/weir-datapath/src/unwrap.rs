//! Packets that come to the director already wrapped.
//!
//! Owns: taking the outer header off packets to the addresses that are listed for it, and only there. May not touch:
//! what becomes of the packet inside. Invariant: a packet that is not wrapped, or not for a listed address, is unchanged;
//! what comes out is an IP packet whose header lies within the outer one's payload.
use crate::decap::ecn_on_exit;
use crate::layers::{MAX_OFFSET, Parsed, Part, Reading};
use crate::link::Link;
use crate::process::control;
use crate::{Frame, Tables, classify};
use weir_abi::{Family, ServiceKey, Traits};
use weir_wire::{EtherType, IpProtocol, Ipv4, Ipv6, Udp};

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unwrapped {
    /// Nothing: it is not a wrapped packet for this director.
    NotWrapped,
    /// The outer header is off.
    Done,
    /// Nothing: what is inside is no packet, or must not go on.
    Refused,
}

impl Unwrapped {
    /// From what [`unwrap_listed`] returns.
    #[inline(always)]
    pub(crate) fn from_word(word: u64) -> Self {
        match word {
            0 => Self::NotWrapped,
            1 => Self::Done,
            _ => Self::Refused,
        }
    }
    #[inline(always)]
    fn word(self) -> u64 {
        match self {
            Self::NotWrapped => 0,
            Self::Done => 1,
            Self::Refused => 2,
        }
    }
}

/// Takes the outer header off a packet that is wrapped and for a listed address. A function of its own in BPF, for the
/// sake of its stack.
#[inline(never)]
pub(crate) fn unwrap_listed<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> u64 {
    match find(frame, tables) {
        None => Unwrapped::NotWrapped,
        Some(wrapped) => match strip(frame, &wrapped) {
            Some(()) => Unwrapped::Done,
            None => Unwrapped::Refused,
        },
    }
    .word()
}

/// A wrapped packet for a listed address.
struct Wrapped {
    link: Link,
    /// DSCP and ECN of the outer header.
    tos: u8,
    /// Where the packet inside begins, from the start of the frame.
    inner_at: usize,
    /// Bytes that are there for it.
    room: usize,
    /// What the outer header says it is; GUE does not.
    inner: Option<Family>,
}

#[inline(always)]
fn find<F: Frame, T: Tables>(frame: &F, tables: &T) -> Option<Wrapped> {
    let mut parsed = Parsed::nothing();
    if parsed.read(frame) != Reading::Whole || parsed.layers.part != Part::Whole {
        return None;
    }
    let Parsed { link, layers } = parsed;
    let (port, between, inner) = match layers.protocol {
        IpProtocol::IPV4 => (0, 0, Some(Family::V4)),
        IpProtocol::IPV6 => (0, 0, Some(Family::V6)),
        IpProtocol::UDP => {
            let udp = frame.at::<Udp>(layers.transport & MAX_OFFSET)?;
            (u16::from_ne_bytes(udp.ports.destination), Udp::LEN, None)
        }
        _ => return None,
    };
    let key = ServiceKey {
        vip: layers.destination,
        family: layers.family(),
        protocol: layers.protocol.0,
        port,
        prefix_len: 0,
    };
    let listed = classify::find(tables, &control(tables).ok()?, &key)?;
    if !listed.traits().has(Traits::DECAPSULATE) {
        return None;
    }
    Some(Wrapped {
        link,
        tos: layers.tos,
        inner_at: layers.transport + between,
        room: layers.payload.checked_sub(between)?,
        inner,
    })
}

/// `None`: what is inside is refused, and nothing was changed but perhaps its congestion mark.
#[inline(always)]
fn strip<F: Frame>(frame: &mut F, wrapped: &Wrapped) -> Option<()> {
    let at = wrapped.inner_at & MAX_OFFSET;
    let version = match wrapped.inner {
        Some(Family::V4) => 4,
        Some(Family::V6) => 6,
        // Two bytes: see `server_id`.
        None => frame.at::<[u8; 2]>(at)?[0] >> 4,
    };
    let ether_type = if version == 4 {
        let ip = frame.at_mut::<Ipv4>(at)?;
        let len = ip.total_len() as usize;
        if ip.version() != 4 || ip.header_len() < Ipv4::LEN || len < ip.header_len() || len > wrapped.room {
            return None;
        }
        let tos = ecn_on_exit(ip.tos, wrapped.tos)?;
        if tos != ip.tos {
            ip.set_tos(tos);
        }
        EtherType::IPV4
    } else {
        let ip = frame.at_mut::<Ipv6>(at)?;
        if ip.version() != 6 || Ipv6::LEN + ip.payload_len() as usize > wrapped.room {
            return None;
        }
        let class = ecn_on_exit(ip.traffic_class(), wrapped.tos)?;
        if class != ip.traffic_class() {
            ip.set_traffic_class(class);
        }
        EtherType::IPV6
    };
    frame.shrink_head(at - (wrapped.link.len() & 0x1f)).ok()?;
    wrapped.link.write(frame, ether_type).ok()
}
