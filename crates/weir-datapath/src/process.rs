//! One packet, from bytes to outcome.
use crate::{Action, Frame, Outcome, Tables, classify, encap, parse, parse::Kind, select};
use weir_abi::{Control, Reason};
use weir_wire::IpProtocol;

/// Decides what happens to a frame, rewrites it accordingly and counts it.
#[inline(always)]
pub fn process<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    let bytes = frame.len() as u64;
    let outcome = decide(frame, tables, bytes).unwrap_or_else(Outcome::unforwarded);
    tables.count(outcome.reason, bytes);
    outcome
}

#[inline(always)]
fn decide<F: Frame, T: Tables>(frame: &mut F, tables: &T, bytes: u64) -> Result<Outcome, Reason> {
    let parsed = parse::parse(frame);
    if matches!(parsed.kind, Kind::Stranger) {
        return Err(parsed.elsewhere);
    }
    let Some(control) = tables.control() else { return Err(Reason::TableCorrupt) };
    // A control record that is not (yet) ours: nothing in the tables may be believed, so nothing is touched.
    if control.identity() != Control::<T::Words>::IDENTITY {
        return Err(Reason::NotService);
    }
    let packet = &parsed.packet;
    if matches!(parsed.kind, Kind::Other) {
        let to_vip = classify::find(tables, &control, &packet.flow.key).is_some();
        return Err(if to_vip { parsed.at_vip } else { parsed.elsewhere });
    }
    let service = classify::classify(tables, &control, &packet.flow.key)?;
    let tcp = packet.flow.key.protocol == IpProtocol::TCP.0;
    let choice = select::select(tables, &control, &service, &packet.flow, packet.opens, tcp)?;
    encap::encapsulate(frame, &packet.inner, &choice)?;
    tables.count_backend(choice.id, bytes);
    Ok(Outcome { action: Action::Send { ifindex: choice.backend.ifindex() }, reason: choice.reason })
}
