//! The long way: what becomes of any packet.
//!
//! Owns the order of the stages and of the questions. May not touch packet bytes by itself. Invariant: every packet gets
//! exactly one reason, and is counted under it; a packet that is passed is byte-identical, unless it came wrapped and was
//! unwrapped.
//!
//! `unwrap -> read -> choose -> send, or answer`: each stage is a function of its own in BPF, and hands on what it found in
//! a [`Scratch`] that is no stack's: stack is scarce (512 bytes for all functions that are under way at once), and of what
//! lies there the verifier remembers every value it could have, and follows each through all later stages.
use crate::encap::Kind;
use crate::icmp::{self, Message};
use crate::layers::{Layers, MAX_OFFSET, Parsed, Part, Reading};
use crate::outcome::PackedOutcome;
use crate::parse::is_sender_v4;
use crate::process::control;
use crate::select::Hints;
use crate::server_id::{self, Place};
use crate::unwrap::{Unwrapped, unwrap_listed};
use crate::{Action, Choice, Flow, Frame, Outcome, Tables, classify, encap, fragment, reply, select};
use weir_abi::{Address, Control, Family, Features, NoBackend, Reason, Service, ServiceKey};
use weir_wire::{IpProtocol, Tcp, Udp};

/// What the stages hand on about the packet they are at.
///
/// Plain data of which all zeros, and whatever an earlier packet left, is a valid value; each stage writes what it says it
/// has written before another reads it. So it need not be cleared for each packet, which a BPF compiler would do byte by
/// byte.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    parsed: Parsed,
    chosen: Chosen,
}

impl Scratch {
    /// About no packet yet: all zeros.
    pub fn nothing() -> Self {
        Self { parsed: Parsed::nothing(), chosen: Chosen { id: 0, reason: Reason::NotIp, hash: 0 } }
    }
}

/// The long way: decides, does and counts, whatever the packet is.
#[inline(always)]
pub fn general<F: Frame, T: Tables>(frame: &mut F, tables: &T, scratch: &mut Scratch) -> PackedOutcome {
    let bytes = frame.len() as u64;
    let unwrapped = match control(tables) {
        Ok(control) if control.features().has(Features::DECAPSULATE) => {
            Unwrapped::from_word(unwrap_listed(frame, tables))
        }
        _ => Unwrapped::NotWrapped,
    };
    let outcome = match unwrapped {
        Unwrapped::Refused => Outcome::unforwarded(Reason::UnwrapRefused),
        _ => stages(frame, tables, scratch, bytes),
    };
    let outcome = match (unwrapped, outcome) {
        (Unwrapped::Done, Outcome { action: Action::Pass, reason }) if reason != Reason::Local => {
            Outcome { action: Action::Pass, reason: Reason::Unwrapped }
        }
        _ => outcome,
    };
    tables.count(outcome.reason, bytes);
    PackedOutcome::new(outcome)
}

#[inline(always)]
fn stages<F: Frame, T: Tables>(frame: &mut F, tables: &T, scratch: &mut Scratch, bytes: u64) -> Outcome {
    let reading = read(frame, scratch);
    let mut step = Step::from_word(choose(frame, tables, scratch, reading));
    if step.kind() == Step::SEND {
        step = Step::from_word(send(frame, tables, scratch, bytes));
    }
    let Scratch { parsed, chosen } = scratch;
    // An answer would come from the MAC address the frame was sent to, and that must be one station's.
    if parsed.link.ethernet.to_group() {
        match step.kind() {
            Step::ECHO => return Outcome::unforwarded(Reason::VipOther),
            Step::UNREACHABLE => return Outcome::unforwarded(Reason::NoBackendDrop),
            Step::TOO_BIG => return Outcome::unforwarded(Reason::TooBig),
            _ => {}
        }
    }
    match step.kind() {
        Step::SENT => Outcome { action: Action::Send { ifindex: step.number() }, reason: chosen.reason },
        Step::ECHO => answered(reply::echo(frame, parsed), Reason::EchoReply, Reason::VipTruncated),
        Step::UNREACHABLE => {
            answered(reply::unreachable(frame, parsed), Reason::UnreachableReply, Reason::NoBackendDrop)
        }
        Step::TOO_BIG => {
            let mtu = step.number() as usize;
            answered(reply::too_big(frame, parsed, mtu), Reason::TooBigReply, Reason::TooBig)
        }
        _ => step.unforwarded(),
    }
}

#[inline(always)]
fn answered(done: bool, reason: Reason, otherwise: Reason) -> Outcome {
    if done { Outcome { action: Action::Reply, reason } } else { Outcome::unforwarded(otherwise) }
}

/// What a stage leads to, in one word: what (bits 0-7), and a number (32-63).
#[derive(Clone, Copy)]
struct Step(u64);

impl Step {
    /// The packet is passed or dropped; the number is the reason.
    const END: u64 = 0;
    /// A backend is chosen.
    const SEND: u64 = 1;
    /// An echo request is answered.
    const ECHO: u64 = 2;
    /// The sender is told that nobody is there.
    const UNREACHABLE: u64 = 3;
    /// The sender is told that its packet is too big; the number is what fits.
    const TOO_BIG: u64 = 4;
    /// It is on its way; the number is the interface.
    const SENT: u64 = 5;

    #[inline(always)]
    const fn new(kind: u64, number: u32) -> Self {
        Self(kind | (number as u64) << 32)
    }
    /// Passed or dropped, as the reason says.
    #[inline(always)]
    fn end(reason: Reason) -> Self {
        let passes = matches!(reason.verdict(), weir_abi::Verdict::Pass);
        Self(Self::END | u64::from(passes) << 8 | (reason as u64) << 32)
    }
    #[inline(always)]
    fn from_word(word: u64) -> Self {
        Self(word)
    }
    #[inline(always)]
    fn kind(self) -> u64 {
        self.0 & 0xff
    }
    #[inline(always)]
    fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }
    /// The outcome of [`Step::end`].
    #[inline(always)]
    fn unforwarded(self) -> Outcome {
        let action = if self.0 >> 8 & 1 == 1 { Action::Pass } else { Action::Drop };
        let reason = Reason::from_index(self.number());
        Outcome { action, reason: reason.unwrap_or(Reason::TableCorrupt) }
    }
}

/// What was chosen. Only right where a stage says so.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    id: u32,
    reason: Reason,
    hash: u64,
}

impl Chosen {
    #[inline(always)]
    fn put<W>(&mut self, choice: &Choice<W>) -> Step {
        (self.id, self.reason, self.hash) = (choice.id, choice.reason, choice.hash);
        Step::new(Step::SEND, 0)
    }
}

/// Reads the packet: a [`Reading`].
#[inline(never)]
fn read<F: Frame>(frame: &F, scratch: &mut Scratch) -> u64 {
    scratch.parsed.read(frame) as u64
}

/// Decides what becomes of the packet: a [`Step`].
#[inline(never)]
fn choose<F: Frame, T: Tables>(frame: &F, tables: &T, scratch: &mut Scratch, reading: u64) -> u64 {
    let Scratch { parsed, chosen } = scratch;
    decide(frame, tables, &parsed.layers, Reading::from_word(reading), chosen).unwrap_or_else(Step::end).0
}

#[inline(always)]
fn decide<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    layers: &Layers,
    reading: Reading,
    chosen: &mut Chosen,
) -> Result<Step, Reason> {
    match reading {
        Reading::NotIp => return Err(Reason::NotIp),
        Reading::NoHeader => return Err(Reason::Malformed),
        Reading::Whole | Reading::Truncated | Reading::Unsupported => {}
    }
    let elsewhere = if reading == Reading::Truncated { Reason::Malformed } else { Reason::NotService };
    let control = control(tables).map_err(|_| elsewhere)?;
    let vip = classify::find_vip(tables, &control, layers.family(), layers.destination).ok_or(elsewhere)?;
    match reading {
        Reading::Truncated => return Err(Reason::VipTruncated),
        Reading::Unsupported => return Err(Reason::VipUnsupported),
        _ => {}
    }
    let way = Way { tables, control, vip };
    let is_transport = matches!(layers.protocol, IpProtocol::TCP | IpProtocol::UDP);
    if layers.part == Part::Later {
        // Of IPv6, the first fragment may begin with further extension headers.
        let follows = is_transport || !icmp::is_icmp(layers) && layers.family() == Family::V6;
        return if follows { way.follow(layers, chosen) } else { Err(Reason::VipOther) };
    }
    if is_transport {
        return way.transport(frame, layers, chosen);
    }
    if !icmp::is_icmp(layers) || layers.part != Part::Whole {
        return Err(Reason::VipOther);
    }
    match icmp::message(frame, layers).ok_or(Reason::VipTruncated)? {
        Message::Echo => way.echo(layers),
        Message::Error => way.error(frame, layers, chosen),
        Message::Other => Err(Reason::VipOther),
    }
}

/// What is known of a packet to a VIP on its way.
struct Way<'t, T: Tables> {
    tables: &'t T,
    control: Control<T::Words>,
    /// The VIP's key, see [`classify::find_vip`].
    vip: ServiceKey,
}

impl<T: Tables> Way<'_, T> {
    /// A later fragment.
    #[inline(always)]
    fn follow(&self, layers: &Layers, chosen: &mut Chosen) -> Result<Step, Reason> {
        let (memory, hash) = fragment::memory(self.tables, &self.control, layers);
        let id = fragment::recall(self.tables, &memory).ok_or(Reason::FragmentOrphan)?;
        let backend = self.tables.backend(id).ok_or(Reason::TableCorrupt)?;
        if !backend.is_alive() {
            return Err(Reason::FragmentOrphan);
        }
        may_send(layers)?;
        Ok(chosen.put(&Choice { id, backend, reason: Reason::FragmentFollowed, hash }))
    }

    /// TCP or UDP, whole or a first fragment.
    #[inline(always)]
    fn transport<F: Frame>(&self, frame: &F, layers: &Layers, chosen: &mut Chosen) -> Result<Step, Reason> {
        let at = layers.transport & MAX_OFFSET;
        let (ports, opens) = if layers.protocol == IpProtocol::TCP {
            let tcp = frame.at::<Tcp>(at).ok_or(Reason::VipTruncated)?;
            let header_len = tcp.header_len();
            if layers.payload < Tcp::LEN || header_len < Tcp::LEN || header_len > layers.payload {
                return Err(Reason::VipTruncated);
            }
            (tcp.ports, tcp.opens())
        } else {
            let udp = frame.at::<Udp>(at).ok_or(Reason::VipTruncated)?;
            let len = udp.length() as usize;
            // A first fragment holds less than all of it.
            let too_long = layers.part == Part::Whole && len > layers.payload;
            if layers.payload < Udp::LEN || len < Udp::LEN || too_long {
                return Err(Reason::VipTruncated);
            }
            (udp.ports, false)
        };
        let key = ServiceKey {
            vip: layers.destination,
            family: layers.family(),
            protocol: layers.protocol.0,
            port: u16::from_ne_bytes(ports.destination),
            prefix_len: 0,
        };
        let flow = Flow { source: layers.source, source_port: u16::from_ne_bytes(ports.source), key };
        let service = self.service(&flow)?;
        may_send(layers)?;
        let place = Place { transport: layers.transport, payload: layers.payload };
        let (scheme, quic_lb) = (service.traits().server_ids(), service.policy().quic_lb());
        let server_id = server_id::find(frame, scheme, quic_lb, place);
        let hints = Hints { opens, own: true, server_id };
        match select::general(self.tables, &self.control, &service, &flow, &hints) {
            Ok(choice) => Ok(chosen.put(&choice)),
            Err(Reason::NoBackendDrop) if service.policy().no_backend() == NoBackend::Unreachable => {
                // An IPv4 header with options is longer than what is quoted.
                let with_options = layers.family() == Family::V4 && layers.extended;
                let may = !with_options && may_answer(self.tables, &self.control);
                if may { Ok(Step::new(Step::UNREACHABLE, 0)) } else { Err(Reason::NoBackendDrop) }
            }
            Err(reason) => Err(reason),
        }
    }

    /// The service of a flow to the VIP.
    #[inline(always)]
    fn service(&self, flow: &Flow) -> Result<Service<T::Words>, Reason> {
        let key = ServiceKey { protocol: flow.key.protocol, port: flow.key.port, ..self.vip };
        if let Some(service) = classify::find(self.tables, &self.control, &key) {
            return Ok(service);
        }
        classify::find(self.tables, &self.control, &ServiceKey { port: 0, ..key }).ok_or(Reason::VipOther)
    }

    #[inline(always)]
    fn echo(&self, layers: &Layers) -> Result<Step, Reason> {
        // Options would have to be reversed or filled in on the way back (RFC 1122, section 3.2.2.6).
        let with_options = layers.family() == Family::V4 && layers.extended;
        if with_options || !self.control.features().has(Features::ANSWER_ECHO) {
            return Err(Reason::VipOther);
        }
        may_send(layers)?;
        Ok(Step::new(Step::ECHO, 0))
    }

    /// An ICMP error.
    #[inline(always)]
    fn error<F: Frame>(&self, frame: &F, layers: &Layers, chosen: &mut Chosen) -> Result<Step, Reason> {
        let quoted = icmp::quoted(frame, layers).ok_or(Reason::VipOther)?;
        let service = self.service(&quoted.flow)?;
        may_send(layers)?;
        let place = Place { transport: quoted.transport, payload: quoted.payload };
        let (scheme, quic_lb) = (service.traits().server_ids(), service.policy().quic_lb());
        let server_id = server_id::find_quoted(frame, scheme, quic_lb, place);
        let hints = Hints { opens: false, own: false, server_id };
        let choice = select::general(self.tables, &self.control, &service, &quoted.flow, &hints)?;
        Ok(chosen.put(&Choice { reason: Reason::IcmpForwarded, ..choice }))
    }
}

/// Sends the packet on its way to the backend that was chosen: a [`Step`].
#[inline(never)]
fn send<F: Frame, T: Tables>(frame: &mut F, tables: &T, scratch: &Scratch, bytes: u64) -> u64 {
    dispatch(frame, tables, &scratch.parsed, &scratch.chosen, bytes).unwrap_or_else(Step::end).0
}

#[inline(always)]
fn dispatch<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    parsed: &Parsed,
    chosen: &Chosen,
    bytes: u64,
) -> Result<Step, Reason> {
    let control = control(tables)?;
    let layers = &parsed.layers;
    let backend = tables.backend(chosen.id).ok_or(Reason::TableCorrupt)?;
    let choice = Choice { id: chosen.id, backend, reason: chosen.reason, hash: chosen.hash };
    if layers.part == Part::First {
        let (memory, _) = fragment::memory(tables, &control, layers);
        fragment::remember(tables, &memory, choice.id);
    }
    let kind = Kind::of_choice(&choice);
    if kind.is_local() {
        tables.count_backend(choice.id, bytes);
        return Err(Reason::Local);
    }
    let overhead = kind.overhead(layers.family()).ok_or(Reason::TableCorrupt)?;
    let mtu = choice.backend.next_hop().rest() as usize;
    if layers.len + overhead > mtu {
        let tell = control.features().has(Features::SEND_TOO_BIG)
            && icmp::may_answer(layers)
            && may_answer(tables, &control);
        let fits = mtu.saturating_sub(overhead) as u32;
        return if tell { Ok(Step::new(Step::TOO_BIG, fits)) } else { Err(Reason::TooBig) };
    }
    encap::general(frame, &parsed.link, layers, &control, &choice)?;
    tables.count_backend(choice.id, bytes);
    Ok(Step::new(Step::SENT, choice.backend.egress().ifindex()))
}

/// Whether this CPU may send another ICMP error in this tick.
#[inline(always)]
fn may_answer<T: Tables>(tables: &T, control: &Control<T::Words>) -> bool {
    let now = (tables.jiffies() >> control.tick_shift()) as u32;
    match tables.limiter() {
        Some(limiter) => limiter.take(now, control.features().error_budget()),
        None => false,
    }
}

/// Whether a packet may have been sent by a machine, and may go on.
#[inline(always)]
fn may_send(layers: &Layers) -> Result<(), Reason> {
    let Address([high, _]) = layers.source;
    let is_sender = match layers.family() {
        Family::V4 => is_sender_v4((high as u32).to_ne_bytes()),
        // As in the short way: multicast, and ::/64 with the unspecified, loopback and IPv4-mapped addresses.
        Family::V6 => high.to_ne_bytes()[0] != 0xff && high != 0,
    };
    if !is_sender {
        return Err(Reason::BadSource);
    }
    if layers.hops == 0 { Err(Reason::NoHopsLeft) } else { Ok(()) }
}
