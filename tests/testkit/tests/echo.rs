//! Answers to echo requests whose checksum is one of the two zeros, on the host and in the kernel.
//!
//! Privileged: without root the second half fails; `cargo xtask test` runs it with what it needs.
use weir_abi::Reason;
use weir_datapath::process;
use weir_testkit::outer::plain_checksum;
use weir_testkit::packet::{Builder, CLIENT_MAC};
use weir_testkit::verified::{Kernel, LOOPBACK};
use weir_testkit::{
    Expected, Fixture, Image, MemoryFrame, MemoryTables, ServiceSpec, Step, image::DIRECTOR_MAC,
};

/// An IPv4 request with this behind its checksum, and the answer, whose checksum may be either zero unless its message is
/// nothing but zeros.
fn step(rest: [u8; 4], payload: &[u8]) -> Step {
    let mut client = Builder::new("198.51.100.7", "192.0.2.10");
    client.payload = payload.to_vec();
    let input = client.icmp(8, 0, rest);
    let mut director = Builder::new("192.0.2.10", "198.51.100.7");
    director.payload = payload.to_vec();
    let mut reply = director.icmp(0, 0, rest);
    reply[..6].copy_from_slice(&CLIENT_MAC);
    reply[6..12].copy_from_slice(&DIRECTOR_MAC);
    reply[22] = 64;
    reply[24..26].fill(0);
    let header = plain_checksum(&reply[14..34]);
    reply[24..26].copy_from_slice(&header.to_be_bytes());
    if reply[36..38] == [0, 0] {
        reply[36..38].fill(0xff);
    }
    assert_eq!(plain_checksum(&reply[34..]), 0, "what is expected is right");
    Step { input, reason: Reason::EchoReply, expected: Expected::Replied(reply) }
}

fn fixture() -> Fixture {
    let steps = vec![
        step([0; 4], &[]),
        step([0; 4], &[0; 56]),
        step([0xff, 0xff, 0, 0], &[]),
        step([0xff, 0xfe, 0, 0], &[0, 1]),
        step([0, 7, 0, 1], b"ping"),
    ];
    let image = Image::new(vec![ServiceSpec::tcp("192.0.2.10", &["10.0.0.11"])], LOOPBACK);
    Fixture { name: "echo requests of zeros are answered with a right checksum", image, steps }
}

#[test]
fn a_message_of_zeros_has_a_right_checksum() {
    let fixture = fixture();
    let tables = MemoryTables::new(&fixture.image);
    for (number, step) in fixture.steps.iter().enumerate() {
        let mut frame = MemoryFrame::new(&step.input);
        let outcome = process(&mut frame, &&tables);
        assert_eq!(outcome.reason, step.reason);
        assert_eq!(step.check(outcome.action, frame.bytes(), LOOPBACK), Ok(()), "packet {number}");
    }
}

#[test]
fn in_the_kernel_too() {
    Kernel::new().expect("loading the director needs root").hold(&fixture());
}
