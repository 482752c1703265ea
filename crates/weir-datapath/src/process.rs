//! One packet, from bytes to outcome.
//!
//! The way of each address family is instantiated by itself, and every refusal leaves it at once with one small number:
//! where paths merge, a BPF compiler with ten registers keeps all the values of both on the stack, in front of every
//! branch.
use crate::parse::{self, Packet, Refusal};
use crate::{Action, Frame, Outcome, Tables, classify, encap, select};
use weir_abi::{Control, Reason, ServiceKey};
use weir_wire::{EtherType, IpProtocol};

/// Decides what happens to a frame, rewrites it accordingly and counts it.
#[inline(always)]
pub fn process<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    let bytes = frame.len() as u64;
    let outcome = match parse::ether_type(frame) {
        Some(EtherType::IPV4) => match parse::parse_ipv4(frame) {
            Ok(packet) => balance(frame, tables, &packet, bytes),
            Err(refusal) => Err(refuse(tables, refusal, parse::ipv4_destination(frame))),
        },
        Some(EtherType::IPV6) => match parse::parse_ipv6(frame) {
            Ok(packet) => balance(frame, tables, &packet, bytes),
            Err(refusal) => Err(refuse(tables, refusal, parse::ipv6_destination(frame))),
        },
        Some(_) => Err(Reason::NotIp),
        None => Err(Reason::Malformed),
    };
    let outcome = outcome.unwrap_or_else(Outcome::unforwarded);
    tables.count(outcome.reason, bytes);
    outcome
}

/// The control record, if it is there and ours: otherwise nothing in the tables may be believed.
#[inline(always)]
fn control<T: Tables>(tables: &T) -> Result<Control<T::Words>, Reason> {
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
) -> Result<Outcome, Reason> {
    let control = control(tables)?;
    let service = classify::classify(tables, &control, &packet.flow.key)?;
    let tcp = packet.flow.key.protocol == IpProtocol::TCP.0;
    let choice = select::select(tables, &control, &service, &packet.flow, packet.opens, tcp)?;
    encap::encapsulate(frame, &packet.inner, &choice)?;
    tables.count_backend(choice.id, bytes);
    Ok(Outcome { action: Action::Send { ifindex: choice.backend.ifindex() }, reason: choice.reason })
}

/// The reason of an IP packet that cannot be balanced; `vip` is the key of the entry that would mark its destination as a
/// VIP, `None` where even the IP header is incomplete.
#[inline(always)]
fn refuse<T: Tables>(tables: &T, refusal: Refusal, vip: Option<ServiceKey>) -> Reason {
    let (Some(vip), Ok(control)) = (vip, control(tables)) else { return refusal.elsewhere() };
    if classify::find(tables, &control, &vip).is_some() { refusal.at_vip() } else { refusal.elsewhere() }
}
