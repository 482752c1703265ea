//! A packet as the datapath sees it: bounds-checked views at an offset, and a head that can grow or shrink.
use weir_wire::checksum;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A header that may be laid over packet bytes: no padding, no alignment, every bit pattern valid.
pub trait Header: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned {}
impl<T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned> Header for T {}

/// The head cannot be moved: no headroom, or the frame is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// A frame from its Ethernet header on.
///
/// `adjust_head` takes `&mut self`, so no view into the frame can outlive a move of its head.
pub trait Frame {
    /// Length of the whole frame in bytes.
    fn len(&self) -> usize;
    /// Whether the frame has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The header at `offset`, if all of it is inside the frame.
    fn at<T: Header>(&self, offset: usize) -> Option<&T>;
    /// The header at `offset`, writable.
    fn at_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T>;
    /// Adds `by` bytes in front of the frame; their content is undefined until written.
    fn grow_head(&mut self, by: usize) -> Result<(), NoRoom>;
    /// Removes `by` bytes at the front of the frame.
    fn shrink_head(&mut self, by: usize) -> Result<(), NoRoom>;
    /// The sum of the 16-bit words of `LEN` bytes at `offset` (RFC 1071), unfolded, if all of them are inside the frame.
    fn sum<const LEN: usize>(&self, offset: usize) -> Option<u32> {
        self.at::<[u8; LEN]>(offset).map(|bytes| checksum::sum(bytes))
    }
    /// Cuts the frame off behind its first `len` bytes; frames that are never answered need not be able to.
    fn cut_tail(&mut self, _len: usize) -> Result<(), NoRoom> {
        Err(NoRoom)
    }
}
