//! Packet fixtures: tables, packets in, and for each what must come out.
use crate::packet::{Builder, frame};
use crate::{How, Image, ServiceSpec, outer};
use std::net::IpAddr;
use weir_abi::{NoBackend, Reason};
use weir_datapath::Action;
use weir_wire::{EtherType, IpProtocol, tcp_flags};

/// What must happen to a packet.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Passed, byte-identical.
    Passed,
    /// Dropped.
    Dropped,
    /// Passed, but not as it came: these are its bytes.
    PassedAs(Vec<u8>),
    /// Sent to one of these backends.
    Sent {
        /// To whom.
        backends: Vec<IpAddr>,
        /// In what.
        how: How,
        /// The IP packet that is sent; `None`: as it came.
        inner: Option<Vec<u8>>,
    },
    /// Answered with this frame.
    Replied(Vec<u8>),
}

/// One packet.
#[derive(Clone, Debug)]
pub struct Step {
    /// The frame.
    pub input: Vec<u8>,
    /// The one reason it must be counted under.
    pub reason: Reason,
    /// What must come out.
    pub expected: Expected,
}

impl Step {
    /// Whether this happened to the packet; `ifindex` is the interface to the backends. Sending by the interface it came
    /// in by may be called either a reply or sending.
    pub fn check(&self, action: Action, bytes: &[u8], ifindex: u32) -> Result<(), String> {
        let action = if action == Action::Reply { Action::Send { ifindex } } else { action };
        let same = |what: &str, expected: &[u8]| {
            if bytes == expected {
                return Ok(());
            }
            let differs = bytes.iter().zip(expected).position(|(a, b)| a != b);
            let at = differs.unwrap_or(bytes.len().min(expected.len()));
            Err(format!("{what}, differs at byte {at}:\n  expected {expected:02x?}\n  got      {bytes:02x?}"))
        };
        let (expected, outcome) = match &self.expected {
            Expected::Passed => (Action::Pass, same("passed, but not byte-identical", &self.input)),
            Expected::PassedAs(packet) => (Action::Pass, same("passed otherwise", packet)),
            Expected::Dropped => (Action::Drop, Ok(())),
            Expected::Replied(packet) => (Action::Send { ifindex }, same("answered otherwise", packet)),
            Expected::Sent { backends, how, inner } => {
                let inner = inner.as_deref().unwrap_or_else(|| outer::untagged(&self.input).1);
                let mut problems = Vec::new();
                let sent = backends.iter().any(|backend| {
                    outer::check_sent(inner, bytes, *backend, how).map_err(|p| problems.push(p)).is_ok()
                });
                (Action::Send { ifindex }, if sent { Ok(()) } else { Err(problems.join("\n")) })
            }
        };
        if action != expected {
            return Err(format!("the action is {action:?}, not {expected:?}: {:02x?}", bytes));
        }
        outcome
    }
}

/// Packets sent in order through fresh tables.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Name, a sentence.
    pub name: &'static str,
    /// The tables.
    pub image: Image,
    /// The packets.
    pub steps: Vec<Step>,
}

const VIP4: &str = "192.0.2.10";
const VIP6: &str = "2001:db8:1::10";
const RS4: &str = "10.0.0.11";
const RS6: &str = "2001:db8::11";
const CLIENT4: &str = "198.51.100.7";
const CLIENT6: &str = "2001:db8:7::7";

fn passed(input: Vec<u8>, reason: Reason) -> Step {
    Step { input, reason, expected: Expected::Passed }
}
fn dropped(input: Vec<u8>, reason: Reason) -> Step {
    Step { input, reason, expected: Expected::Dropped }
}
fn wrapped(input: Vec<u8>, reason: Reason, backends: &[&str]) -> Step {
    let backends = backends.iter().map(|text| text.parse().expect("a literal address")).collect();
    Step { input, reason, expected: Expected::Sent { backends, how: How::default(), inner: None } }
}
fn v4() -> Builder {
    Builder::new(CLIENT4, VIP4)
}
fn v6() -> Builder {
    Builder::new(CLIENT6, VIP6)
}
/// A packet with one byte changed.
fn with_byte(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    packet[at] = byte;
    packet
}
/// A packet cut off after `len` bytes.
fn cut(packet: &[u8], len: usize) -> Vec<u8> {
    packet[..len].to_vec()
}

/// All fixtures; `ifindex` is the interface the runner says packets come in by.
pub fn fixtures(ifindex: u32) -> Vec<Fixture> {
    let one = |specs: &[ServiceSpec]| Image::new(specs.to_vec(), ifindex);
    let tcp4 = ServiceSpec::tcp(VIP4, &[RS4]);
    let tcp6 = ServiceSpec::tcp(VIP6, &[RS6]);
    let udp4 = ServiceSpec { protocol: 17, port: 53, ..tcp4.clone() };
    let (syn, ack) = (tcp_flags::SYN, tcp_flags::ACK);
    let mut all = Vec::new();
    let mut add = |name, image, steps| all.push(Fixture { name, image, steps });

    add(
        "an IPv4 connection is wrapped in IPv4 and remembered",
        one(std::slice::from_ref(&tcp4)),
        vec![
            wrapped(v4().tcp(40000, 80, syn), Reason::RingNew, &[RS4]),
            wrapped(v4().tcp(40000, 80, ack), Reason::FlowHit, &[RS4]),
            wrapped(v4().payload(1000).tcp(40000, 80, ack), Reason::FlowHit, &[RS4]),
            wrapped(v4().tcp(40001, 80, ack), Reason::RingMiss, &[RS4]),
            wrapped(v4().tcp(40001, 80, ack), Reason::FlowHit, &[RS4]),
        ],
    );
    add(
        "an IPv6 connection is wrapped in IPv6",
        one(std::slice::from_ref(&tcp6)),
        vec![
            wrapped(v6().tcp(40000, 80, syn), Reason::RingNew, &[RS6]),
            wrapped(v6().payload(0).tcp(40000, 80, ack), Reason::FlowHit, &[RS6]),
        ],
    );
    add(
        "an IPv4 service with an IPv6 backend is wrapped in IPv6",
        one(&[ServiceSpec::tcp(VIP4, &[RS6])]),
        vec![
            wrapped(v4().tcp(40000, 80, syn), Reason::RingNew, &[RS6]),
            wrapped(v4().tos(0xff).tcp(40000, 80, ack), Reason::FlowHit, &[RS6]),
        ],
    );
    add(
        "DSCP and ECN are copied to the outer header",
        one(&[tcp4.clone(), tcp6.clone()]),
        vec![
            wrapped(v4().tos(0xb9).tcp(1, 80, syn), Reason::RingNew, &[RS4]),
            wrapped(v6().tos(0xb9).tcp(1, 80, syn), Reason::RingNew, &[RS6]),
        ],
    );
    add(
        "UDP is tracked from its first packet",
        one(std::slice::from_ref(&udp4)),
        vec![
            wrapped(v4().udp(5353, 53), Reason::RingNew, &[RS4]),
            wrapped(v4().udp(5353, 53), Reason::FlowHit, &[RS4]),
        ],
    );
    add(
        "flows spread over backends, each staying where it began",
        one(&[ServiceSpec::tcp(VIP4, &["10.0.0.11", "10.0.0.12", "10.0.0.13"])]),
        {
            let backends = ["10.0.0.11", "10.0.0.12", "10.0.0.13"];
            let first =
                (0..40).map(|port| wrapped(v4().tcp(2000 + port, 80, syn), Reason::RingNew, &backends));
            let later =
                (0..40).map(|port| wrapped(v4().tcp(2000 + port, 80, ack), Reason::FlowHit, &backends));
            first.chain(later).collect()
        },
    );
    add(
        "IPv4 options are carried inside",
        one(std::slice::from_ref(&tcp4)),
        vec![
            wrapped(v4().options(&[0x94, 4, 0, 0]).tcp(40000, 80, syn), Reason::RingNew, &[RS4]),
            wrapped(v4().options(&[1; 40]).tcp(40000, 80, ack), Reason::FlowHit, &[RS4]),
        ],
    );
    add(
        "a service on every port takes what no other service of its VIP takes",
        one(&[
            tcp4.clone(),
            ServiceSpec { port: 0, backends: vec!["10.0.0.99".parse().expect("literal")], ..tcp4.clone() },
        ]),
        vec![
            wrapped(v4().tcp(1, 80, syn), Reason::RingNew, &[RS4]),
            wrapped(v4().tcp(1, 81, syn), Reason::RingNew, &["10.0.0.99"]),
            wrapped(v4().tcp(1, 65535, syn), Reason::RingNew, &["10.0.0.99"]),
            passed(v4().udp(1, 80), Reason::VipOther),
        ],
    );
    add(
        "traffic of others passes untouched",
        one(&[tcp4.clone(), tcp6.clone()]),
        vec![
            passed(Builder::new(CLIENT4, "192.0.2.11").tcp(1, 80, syn), Reason::NotService),
            passed(Builder::new(CLIENT6, "2001:db8:1::11").tcp(1, 80, syn), Reason::NotService),
            passed(v4().tcp(1, 22, syn), Reason::VipOther),
            passed(v4().udp(1, 80), Reason::VipOther),
            passed(v4().ip(IpProtocol(47), &[0, 0, 8, 0]), Reason::VipOther),
            passed(v6().icmp(135, 0, [0; 4]), Reason::VipOther),
            passed(frame(EtherType::ARP, &[&[0; 28]]), Reason::NotIp),
            passed(frame(EtherType(0x88cc), &[&[0; 4]]), Reason::NotIp),
        ],
    );
    let tcp_packet = v4().payload(0).tcp(1, 80, syn);
    let tcp6_packet = v6().payload(0).tcp(1, 80, syn);
    let udp_packet = v4().payload(0).udp(1, 53);
    let stranger = Builder::new(CLIENT4, "192.0.2.11").payload(0).tcp(1, 80, syn);
    add(
        "packets shorter than their headers claim are dropped at a VIP and passed elsewhere",
        one(&[tcp4.clone(), tcp6.clone(), udp4.clone()]),
        vec![
            dropped(cut(&tcp_packet, 14 + 20 + 19), Reason::VipTruncated),
            dropped(cut(&tcp_packet, 14 + 20), Reason::VipTruncated),
            dropped(with_byte(tcp_packet.clone(), 14, 0x44), Reason::VipTruncated),
            dropped(with_byte(tcp_packet.clone(), 14, 0x46), Reason::VipTruncated),
            dropped(with_byte(tcp_packet.clone(), 14, 0x65), Reason::VipTruncated),
            dropped(with_byte(tcp_packet.clone(), 17, 19), Reason::VipTruncated),
            dropped(with_byte(tcp_packet.clone(), 17, 41), Reason::VipTruncated),
            dropped(with_byte(tcp_packet.clone(), 14 + 20 + 12, 0x40), Reason::VipTruncated),
            dropped(with_byte(tcp_packet.clone(), 14 + 20 + 12, 0x60), Reason::VipTruncated),
            dropped(with_byte(udp_packet.clone(), 14 + 20 + 5, 7), Reason::VipTruncated),
            dropped(with_byte(udp_packet, 14 + 20 + 5, 9), Reason::VipTruncated),
            dropped(cut(&tcp6_packet, 14 + 40 + 19), Reason::VipTruncated),
            dropped(with_byte(tcp6_packet.clone(), 19, 21), Reason::VipTruncated),
            dropped(with_byte(tcp6_packet, 14, 0x40), Reason::VipTruncated),
            passed(cut(&stranger, 14 + 20 + 19), Reason::Malformed),
            // Whose transport is nobody's business here.
            passed(with_byte(stranger, 14 + 20 + 12, 0x40), Reason::NotService),
            passed(cut(&tcp_packet, 14 + 19), Reason::Malformed),
            passed(frame(EtherType::IPV6, &[&[0x60; 39]]), Reason::Malformed),
            passed(frame(EtherType::IPV4, &[]), Reason::Malformed),
        ],
    );
    add(
        "bytes behind the IP packet (Ethernet padding) stay behind it",
        one(std::slice::from_ref(&tcp4)),
        vec![wrapped([v4().payload(0).tcp(1, 80, syn), vec![0; 6]].concat(), Reason::RingNew, &[RS4])],
    );
    let none = ServiceSpec { backends: Vec::new(), ..tcp4.clone() };
    add(
        "a service without backends drops",
        one(std::slice::from_ref(&none)),
        vec![dropped(v4().tcp(1, 80, syn), Reason::NoBackendDrop)],
    );
    add(
        "a service without backends passes where it says so",
        one(&[ServiceSpec { no_backend: NoBackend::Pass, ..none }]),
        vec![passed(v4().tcp(1, 80, syn), Reason::NoBackendPass)],
    );
    add(
        "what just fits once wrapped is sent",
        one(&[tcp4, tcp6]),
        vec![
            wrapped(v4().payload(1500 - 20 - 20 - 20).tcp(1, 80, ack), Reason::RingMiss, &[RS4]),
            wrapped(v6().payload(1500 - 40 - 40 - 20).tcp(1, 80, ack), Reason::RingMiss, &[RS6]),
        ],
    );
    all
}
