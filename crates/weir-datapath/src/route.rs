//! The long way: what becomes of any packet.
//!
//! Owns the order of the questions. May not touch packet bytes by itself. Invariant: every packet gets exactly one reason,
//! and is counted under it; a packet that is passed is byte-identical, unless it came wrapped and was unwrapped.
use crate::encap::Kind;
use crate::icmp::{self, Message};
use crate::layers::{Broken, Layers, Link, MAX_OFFSET, Part};
use crate::outcome::PackedOutcome;
use crate::parse::is_sender_v4;
use crate::process::control;
use crate::select::Hints;
use crate::server_id::{self, Place};
use crate::unwrap::Unwrapped;
use crate::{Action, Choice, Flow, Frame, Outcome, Tables, classify, encap, fragment, reply, select};
use weir_abi::{Control, Family, Features, NoBackend, Reason, Service, ServiceKey};
use weir_wire::{EtherType, IpProtocol, Tcp, Udp};

/// Decides, does and counts. `bytes`: the frame's length as it came in. A function of its own in BPF, for the sake of its
/// stack.
#[inline(never)]
pub(crate) fn route<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    bytes: u64,
    unwrapped: Unwrapped,
) -> u64 {
    let outcome = match unwrapped {
        Unwrapped::Refused => Outcome::unforwarded(Reason::UnwrapRefused),
        _ => decide(frame, tables, bytes).unwrap_or_else(Outcome::unforwarded),
    };
    let outcome = match (unwrapped, outcome) {
        (Unwrapped::Done, Outcome { action: Action::Pass, reason }) if reason != Reason::Local => {
            Outcome { action: Action::Pass, reason: Reason::Unwrapped }
        }
        _ => outcome,
    };
    tables.count(outcome.reason, bytes);
    PackedOutcome::new(outcome).word()
}

#[inline(always)]
fn decide<F: Frame, T: Tables>(frame: &mut F, tables: &T, bytes: u64) -> Result<Outcome, Reason> {
    let link = Link::read(frame).ok_or(Reason::Malformed)?;
    let layers = match link.ether_type {
        EtherType::IPV4 => Layers::read_v4(frame, link.len()),
        EtherType::IPV6 => Layers::read_v6(frame, link.len()),
        _ => return Err(Reason::NotIp),
    };
    let broken = match layers {
        Err(Broken::NoHeader) => return Err(Reason::Malformed),
        Err(broken) => Some(broken),
        Ok(_) => None,
    };
    let control = control(tables).map_err(|reason| match broken {
        Some(Broken::Truncated(..)) => Reason::Malformed,
        _ => reason,
    })?;
    let way = Way { tables, control, link, bytes };
    match layers {
        Ok(layers) => way.whole(frame, &layers),
        Err(Broken::Unsupported(family, address)) => {
            Err(way.at_vip(family, address, Reason::VipUnsupported, Reason::NotService))
        }
        Err(Broken::Truncated(family, address)) => {
            Err(way.at_vip(family, address, Reason::VipTruncated, Reason::Malformed))
        }
        Err(Broken::NoHeader) => Err(Reason::Malformed),
    }
}

/// What is known of every packet on its way.
struct Way<'t, T: Tables> {
    tables: &'t T,
    control: Control<T::Words>,
    link: Link,
    bytes: u64,
}

impl<T: Tables> Way<'_, T> {
    #[inline(always)]
    fn at_vip(
        &self,
        family: Family,
        address: weir_abi::Address,
        there: Reason,
        elsewhere: Reason,
    ) -> Reason {
        let vip = classify::find_vip(self.tables, &self.control, family, address);
        if vip.is_some() { there } else { elsewhere }
    }

    /// A packet whose headers make sense.
    #[inline(always)]
    fn whole<F: Frame>(&self, frame: &mut F, layers: &Layers) -> Result<Outcome, Reason> {
        let vip = classify::find_vip(self.tables, &self.control, layers.family, layers.destination)
            .ok_or(Reason::NotService)?;
        let is_transport = matches!(layers.protocol, IpProtocol::TCP | IpProtocol::UDP);
        if layers.part == Part::Later {
            // Of IPv6, the first fragment may begin with further extension headers.
            return if is_transport || !icmp::is_icmp(layers) && layers.family == Family::V6 {
                self.follow(frame, layers)
            } else {
                Err(Reason::VipOther)
            };
        }
        if is_transport {
            return self.transport(frame, layers, &vip);
        }
        if !icmp::is_icmp(layers) || layers.part != Part::Whole {
            return Err(Reason::VipOther);
        }
        match icmp::message(frame, layers).ok_or(Reason::VipTruncated)? {
            Message::Echo => self.echo(frame, layers),
            Message::Error => self.error(frame, layers, &vip),
            Message::Other => Err(Reason::VipOther),
        }
    }

    /// A later fragment.
    #[inline(always)]
    fn follow<F: Frame>(&self, frame: &mut F, layers: &Layers) -> Result<Outcome, Reason> {
        let memory = fragment::memory(self.tables, &self.control, layers);
        let id = fragment::recall(self.tables, &memory).ok_or(Reason::FragmentOrphan)?;
        let backend = self.tables.backend(id).ok_or(Reason::TableCorrupt)?;
        if !backend.is_alive() {
            return Err(Reason::FragmentOrphan);
        }
        let hash = memory.bucket as u64 | (memory.tag as u64) << 34;
        self.send(frame, layers, &Choice { id, backend, reason: Reason::FragmentFollowed, hash })
    }

    /// TCP or UDP, whole or a first fragment.
    #[inline(always)]
    fn transport<F: Frame>(
        &self,
        frame: &mut F,
        layers: &Layers,
        vip: &ServiceKey,
    ) -> Result<Outcome, Reason> {
        let at = layers.transport & MAX_OFFSET;
        let tcp = layers.protocol == IpProtocol::TCP;
        let (ports, opens) = if tcp {
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
            family: layers.family,
            protocol: layers.protocol.0,
            port: u16::from_ne_bytes(ports.destination),
            prefix_len: 0,
        };
        let flow = Flow { source: layers.source, source_port: u16::from_ne_bytes(ports.source), key };
        let service = self.service(&flow, vip)?;
        may_send(layers)?;
        let place = Place { transport: layers.transport, payload: layers.payload };
        let (scheme, quic_lb) = (service.traits().server_ids(), service.policy().quic_lb());
        let server_id = server_id::find(frame, scheme, quic_lb, place);
        let hints = Hints { opens, own: true, server_id };
        match select::general(self.tables, &self.control, &service, &flow, &hints) {
            Ok(choice) => self.send(frame, layers, &choice),
            Err(Reason::NoBackendDrop) if service.policy().no_backend() == NoBackend::Unreachable => {
                self.unreachable(frame, layers)
            }
            Err(reason) => Err(reason),
        }
    }

    /// The service of a flow to a VIP.
    #[inline(always)]
    fn service(&self, flow: &Flow, vip: &ServiceKey) -> Result<Service<T::Words>, Reason> {
        let key = ServiceKey { protocol: flow.key.protocol, port: flow.key.port, ..*vip };
        if let Some(service) = classify::find(self.tables, &self.control, &key) {
            return Ok(service);
        }
        classify::find(self.tables, &self.control, &ServiceKey { port: 0, ..key }).ok_or(Reason::VipOther)
    }

    #[inline(always)]
    fn echo<F: Frame>(&self, frame: &mut F, layers: &Layers) -> Result<Outcome, Reason> {
        // Options would have to be reversed or filled in on the way back (RFC 1122, section 3.2.2.6).
        let with_options = layers.family == Family::V4 && layers.extended;
        if with_options || !self.control.features().has(Features::ANSWER_ECHO) {
            return Err(Reason::VipOther);
        }
        may_send(layers)?;
        answered(reply::echo(frame, &self.link, layers), Reason::EchoReply, Reason::VipTruncated)
    }

    /// An ICMP error.
    #[inline(always)]
    fn error<F: Frame>(
        &self,
        frame: &mut F,
        layers: &Layers,
        vip: &ServiceKey,
    ) -> Result<Outcome, Reason> {
        let quoted = icmp::quoted(frame, layers).ok_or(Reason::VipOther)?;
        let service = self.service(&quoted.flow, vip)?;
        may_send(layers)?;
        let place = Place { transport: quoted.transport, payload: quoted.payload };
        let (scheme, quic_lb) = (service.traits().server_ids(), service.policy().quic_lb());
        let server_id = server_id::find_quoted(frame, scheme, quic_lb, place);
        let hints = Hints { opens: false, own: false, server_id };
        let choice = select::general(self.tables, &self.control, &service, &quoted.flow, &hints)?;
        self.send(frame, layers, &Choice { reason: Reason::IcmpForwarded, ..choice })
    }

    /// On its way to a backend that is chosen.
    #[inline(always)]
    fn send<F: Frame>(
        &self,
        frame: &mut F,
        layers: &Layers,
        choice: &Choice<T::Words>,
    ) -> Result<Outcome, Reason> {
        if layers.part == Part::First {
            let memory = fragment::memory(self.tables, &self.control, layers);
            fragment::remember(self.tables, &memory, choice.id);
        }
        let kind = Kind::of_choice(choice);
        if kind.is_local() {
            self.tables.count_backend(choice.id, self.bytes);
            return Ok(Outcome { action: Action::Pass, reason: Reason::Local });
        }
        let overhead = kind.overhead(layers.family).ok_or(Reason::TableCorrupt)?;
        let mtu = choice.backend.next_hop().rest() as usize;
        if layers.len + overhead > mtu {
            return self.too_big(frame, layers, mtu.saturating_sub(overhead));
        }
        encap::general(frame, &self.link, layers, &self.control, choice)?;
        self.tables.count_backend(choice.id, self.bytes);
        let ifindex = choice.backend.egress().ifindex();
        Ok(Outcome { action: Action::Send { ifindex }, reason: choice.reason })
    }

    #[inline(always)]
    fn too_big<F: Frame>(&self, frame: &mut F, layers: &Layers, mtu: usize) -> Result<Outcome, Reason> {
        let wanted = self.control.features().has(Features::SEND_TOO_BIG);
        if !wanted || !icmp::may_answer(layers) || !self.may_answer_now() {
            return Err(Reason::TooBig);
        }
        answered(reply::too_big(frame, &self.link, layers, mtu), Reason::TooBigReply, Reason::TooBig)
    }

    #[inline(always)]
    fn unreachable<F: Frame>(&self, frame: &mut F, layers: &Layers) -> Result<Outcome, Reason> {
        // An IPv4 header with options is longer than what is quoted.
        let with_options = layers.family == Family::V4 && layers.extended;
        if with_options || !icmp::may_answer(layers) || !self.may_answer_now() {
            return Err(Reason::NoBackendDrop);
        }
        let told = reply::unreachable(frame, &self.link, layers);
        answered(told, Reason::UnreachableReply, Reason::NoBackendDrop)
    }

    /// Whether this CPU may send another ICMP error in this tick.
    #[inline(always)]
    fn may_answer_now(&self) -> bool {
        let now = (self.tables.jiffies() >> self.control.tick_shift()) as u32;
        match self.tables.limiter() {
            Some(limiter) => limiter.take(now, self.control.features().error_budget()),
            None => false,
        }
    }
}

#[inline(always)]
fn answered(done: bool, reason: Reason, otherwise: Reason) -> Result<Outcome, Reason> {
    if done { Ok(Outcome { action: Action::Reply, reason }) } else { Err(otherwise) }
}

/// Whether a packet may have been sent by a machine, and may go on.
#[inline(always)]
fn may_send(layers: &Layers) -> Result<(), Reason> {
    let is_sender = match layers.family {
        Family::V4 => is_sender_v4((layers.source.0[0] as u32).to_ne_bytes()),
        // As in the short way: multicast, and ::/64 with the unspecified, loopback and IPv4-mapped addresses.
        Family::V6 => layers.source.0[0].to_ne_bytes()[0] != 0xff && layers.source.0[0] != 0,
    };
    if !is_sender {
        return Err(Reason::BadSource);
    }
    if layers.hops == 0 { Err(Reason::NoHopsLeft) } else { Ok(()) }
}
