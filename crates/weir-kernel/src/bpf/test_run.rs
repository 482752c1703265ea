//! Running a loaded program on a packet of one's own (BPF_PROG_TEST_RUN): for its answer, or to send what it makes.

use std::{io, os::fd::AsFd, time::Duration};

use super::{Error, sys};

/// Bytes that the output may be longer than the input: the headroom of a test packet.
const GROWTH: usize = 512;

/// What a test run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's return value: an `XDP_…` or `TC_ACT_…` number.
    pub retval: u32,
    /// The packet as the last run left it.
    pub packet: Vec<u8>,
    /// Mean time of one run by the kernel's clock, in whole nanoseconds.
    pub duration: Duration,
}

/// Runs `program` on `packet` `repeat` times (0 counts as 1). The packet is *not* reset between runs.
///
/// For an XDP program `ifindex` (with an rx queue 0 in this network namespace) becomes the ingress interface; without it
/// the kernel uses the loopback. tc programs take no `ifindex` here. An Ethernet header is needed.
pub fn test_run(
    program: impl AsFd,
    packet: &[u8],
    ifindex: Option<u32>,
    repeat: u32,
) -> Result<TestRun, Error> {
    let failed = || Error::doing(format!("run a program on a packet of {} bytes", packet.len()));
    let mut out = vec![0; packet.len() + GROWTH];
    let context = ifindex.map(|ifindex| context(packet, ifindex));
    // A signal ends a long repeat early; the numbers would be of no use.
    for _ in 0..MAX_INTERRUPTIONS {
        match sys::test_run(program.as_fd(), packet, &mut out, context.as_deref(), repeat) {
            Ok(result) => {
                out.truncate(result.out_len as usize);
                let duration = Duration::from_nanos(u64::from(result.duration));
                return Ok(TestRun { retval: result.retval, packet: out, duration });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed()(error)),
        }
    }
    Err(failed()(io::ErrorKind::Interrupted.into()))
}

const MAX_INTERRUPTIONS: u32 = 100;

/// Sends `frames` copies of `packet` through an XDP `program` as if interface `ifindex` of this network namespace had just
/// received them, and does what it returns: `XDP_TX` puts a frame on the wire. Linux 5.18.
///
/// Frames are used again without being restored: of one that comes back the kernel resets the length, not the bytes. So
/// the program writes whatever it does not find as it wants it.
///
/// # Errors
/// Also when a signal ended the run early.
pub fn live_run(program: impl AsFd, packet: &[u8], ifindex: u32, frames: u32) -> Result<(), Error> {
    sys::live_run(program.as_fd(), packet, &context(packet, ifindex), frames, LIVE_BATCH)
        .map_err(Error::doing(format!("send {frames} frames by a program (live frames need Linux 5.18)")))
}

/// Frames of a live run that are sent together: as many as a driver hands on at a time.
const LIVE_BATCH: u32 = 64;

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
fn context(packet: &[u8], ifindex: u32) -> Vec<u8> {
    let words = [0, packet.len() as u32, 0, ifindex, 0, 0];
    words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}
