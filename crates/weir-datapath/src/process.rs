//! One packet, from bytes to outcome.
use crate::{Action, Frame, Outcome, Parsed, Tables, classify, encap, parse, select};
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
    if let Parsed::Pass(reason) = parsed {
        return Err(reason);
    }
    let Some(control) = tables.control() else { return Err(Reason::TableCorrupt) };
    // A control record that is not (yet) ours: nothing in the tables may be believed, so nothing is touched.
    if control.identity() != Control::<T::Words>::IDENTITY {
        return Err(Reason::NotService);
    }
    let packet = match parsed {
        Parsed::Flow(packet) => packet,
        Parsed::Other { vip, at_vip, elsewhere } => {
            let to_vip = classify::find(tables, &control, &vip).is_some();
            return Err(if to_vip { at_vip } else { elsewhere });
        }
        Parsed::Pass(reason) => return Err(reason),
    };
    let service = classify::classify(tables, &control, &packet.flow.key)?;
    let tcp = packet.flow.key.protocol == IpProtocol::TCP.0;
    let choice = select::select(tables, &control, &service, &packet.flow, packet.opens, tcp)?;
    encap::encapsulate(frame, &packet.inner, &choice)?;
    tables.count_backend(choice.id, bytes);
    Ok(Outcome { action: Action::Send { ifindex: choice.backend.ifindex() }, reason: choice.reason })
}
