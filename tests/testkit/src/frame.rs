//! A frame in plain memory, with the headroom the kernel gives an XDP program.
use weir_datapath::mss::{LeavingFrame, mend_complete};
use weir_datapath::{Frame, Header, NoRoom};

/// `XDP_PACKET_HEADROOM`: bytes in front of a packet in `BPF_PROG_TEST_RUN`.
const HEADROOM: usize = 256;
/// `sizeof(struct xdp_frame)`, which the head may not grow into (Linux 6.x, x86-64).
const RESERVED: usize = 40;

/// A frame with headroom. The headroom is filled with 0xa5, so that a byte the datapath forgets to write shows.
#[derive(Clone, Debug)]
pub struct MemoryFrame {
    buffer: Vec<u8>,
    start: usize,
}

impl MemoryFrame {
    /// A frame holding `packet`.
    pub fn new(packet: &[u8]) -> Self {
        let mut buffer = vec![0xa5; HEADROOM];
        buffer.extend_from_slice(packet);
        Self { buffer, start: HEADROOM }
    }
    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

impl Frame for MemoryFrame {
    fn len(&self) -> usize {
        self.buffer.len() - self.start
    }
    fn at<T: Header>(&self, offset: usize) -> Option<&T> {
        T::ref_from_prefix(self.bytes().get(offset..)?).ok().map(|(header, _)| header)
    }
    fn at_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        let start = self.start;
        T::mut_from_prefix(self.buffer[start..].get_mut(offset..)?).ok().map(|(header, _)| header)
    }
    fn grow_head(&mut self, by: usize) -> Result<(), NoRoom> {
        let start = self.start.checked_sub(by).ok_or(NoRoom)?;
        if start < RESERVED {
            return Err(NoRoom);
        }
        self.start = start;
        Ok(())
    }
    fn shrink_head(&mut self, by: usize) -> Result<(), NoRoom> {
        // The kernel keeps at least an Ethernet header.
        if self.len() < by + 14 {
            return Err(NoRoom);
        }
        self.start += by;
        Ok(())
    }
    fn cut_tail(&mut self, len: usize) -> Result<(), NoRoom> {
        // The kernel keeps at least an Ethernet header.
        if len > self.len() || len < 14 {
            return Err(NoRoom);
        }
        self.buffer.truncate(self.start + len);
        Ok(())
    }
}

impl LeavingFrame for MemoryFrame {
    fn mend_checksum(&mut self, offset: usize, old: [u8; 2], new: [u8; 2]) {
        mend_complete(self, offset, old, new);
    }
}
