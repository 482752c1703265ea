//! One packet, from bytes to outcome.
//!
//! There are two ways. [`plain`] is the short one, for nearly all packets: IPv4 or IPv6 without tags, fragments or
//! extension headers, TCP or UDP, of a service without [traits](weir_abi::Traits). It gives up on anything else, with
//! nothing changed, and [`general`] does the whole of the work from the beginning. So what few packets need costs the
//! others nothing.
//!
//! In the short way, the way of each address family is instantiated by itself, and every refusal leaves it at once with
//! one small number: where paths merge, a BPF compiler with ten registers keeps all the values of both on the stack, in
//! front of every branch. The long way is a function of its own in BPF, for the sake of its stack.
use crate::parse::{self, Packet};
use crate::{Action, Frame, Outcome, Scratch, Tables, classify, encap, general, select};
use weir_abi::{Control, Features, NoBackend, Reason};
use weir_wire::{EtherType, IpProtocol};

/// Decides what happens to a frame, rewrites it accordingly and counts it.
///
/// BPF programs call the two ways by themselves.
pub fn process<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    if let Some(outcome) = plain(frame, tables) {
        return outcome;
    }
    let packed = general(frame, tables, &mut Scratch::nothing());
    packed.outcome().unwrap_or(Outcome::unforwarded(Reason::TableCorrupt))
}

/// How the short way ends early.
pub(crate) enum Exit {
    /// The packet is passed.
    Pass(Reason),
    /// The packet is dropped, or passed, as the reason says.
    For(Reason),
    /// The long way begins.
    General,
}

impl From<Reason> for Exit {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self::For(reason)
    }
}

/// The short way. `None`: nothing was counted, and the frame is as it was; it is for [`general`].
#[inline(always)]
pub fn plain<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Option<Outcome> {
    let bytes = frame.len() as u64;
    let outcome = match parse::ether_type(frame) {
        Some(EtherType::IPV4) => {
            let packet = parse::parse_ipv4(frame)?;
            balance(frame, tables, &packet, bytes)
        }
        Some(EtherType::IPV6) => {
            let packet = parse::parse_ipv6(frame)?;
            balance(frame, tables, &packet, bytes)
        }
        Some(other) if other.is_vlan() => return None,
        Some(_) => Err(Exit::Pass(Reason::NotIp)),
        None => Err(Exit::Pass(Reason::Malformed)),
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(Exit::Pass(reason)) => Outcome { action: Action::Pass, reason },
        Err(Exit::For(reason)) => Outcome::unforwarded(reason),
        Err(Exit::General) => return None,
    };
    tables.count(outcome.reason, bytes);
    Some(outcome)
}

/// The control record, if it is there and ours: otherwise nothing in the tables may be believed.
#[inline(always)]
pub(crate) fn control<T: Tables>(tables: &T) -> Result<Control<T::Words>, Reason> {
    match tables.control() {
        Some(control) if control.identity() == Control::<T::Words>::IDENTITY => Ok(control),
        _ => Err(Reason::NotService),
    }
}

#[inline(always)]
fn balance<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    bytes: u64,
) -> Result<Outcome, Exit> {
    let control = control(tables).map_err(Exit::Pass)?;
    let service = match classify::classify(tables, &control, &packet.flow.key) {
        Ok(service) => service,
        Err(Reason::NotService) if control.features().has(Features::PREFIXES) => return Err(Exit::General),
        Err(reason) => return Err(Exit::Pass(reason)),
    };
    if service.traits().0 != 0 {
        return Err(Exit::General);
    }
    let tcp = packet.flow.key.protocol == IpProtocol::TCP.0;
    let ready = |backend: &_| encap::is_plain(&control, packet.inner.family, backend);
    let choice = match select::plain(tables, &control, &service, &packet.flow, packet.opens, tcp, ready) {
        Ok(choice) => choice,
        Err(Exit::For(Reason::NoBackendDrop)) if service.policy().no_backend() == NoBackend::Unreachable => {
            return Err(Exit::General);
        }
        Err(exit) => return Err(exit),
    };
    encap::encapsulate(frame, &control, &packet.inner, &choice)?;
    tables.count_backend(choice.id, bytes);
    Ok(Outcome { action: Action::Send { ifindex: choice.backend.egress().ifindex() }, reason: choice.reason })
}
