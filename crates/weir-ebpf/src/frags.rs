//! The frame behind an XDP context whose packet may lie in several buffers.
use aya_ebpf::{helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use weir_datapath::{Frame, Header, NoRoom};

use crate::XdpFrame;

/// A frame in driver memory of which only the first buffer can be looked at: that of a program marked `frags`.
///
/// Drivers with an MTU beyond one buffer take no other programs. The first buffer holds the headers (it is most of a
/// page, or what the driver splits off as headers); views behind its end are refused like views behind a frame's end.
/// A type of its own, because the length costs a helper call that plain programs need not make. Needs Linux 5.18.
/// `REREAD` as for [`XdpFrame`].
pub struct XdpFragsFrame<'a, const REREAD: bool = false> {
    first: XdpFrame<'a, REREAD>,
    /// Of all buffers together; follows every move of the head.
    len: usize,
}

impl<'a, const REREAD: bool> XdpFragsFrame<'a, REREAD> {
    /// The frame of a context.
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        // SAFETY: the context is the one the kernel called us with.
        let len = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as usize;
        Self { first: XdpFrame(ctx), len }
    }
}

impl<const REREAD: bool> Frame for XdpFragsFrame<'_, REREAD> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn at<T: Header>(&self, offset: usize) -> Option<&T> {
        self.first.at(offset)
    }
    #[inline(always)]
    fn at_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        self.first.at_mut(offset)
    }
    #[inline(always)]
    fn grow_head(&mut self, by: usize) -> Result<(), NoRoom> {
        self.first.grow_head(by)?;
        self.len += by;
        Ok(())
    }
    #[inline(always)]
    fn shrink_head(&mut self, by: usize) -> Result<(), NoRoom> {
        self.first.shrink_head(by)?;
        self.len -= by;
        Ok(())
    }
    #[inline(always)]
    fn sum<const LEN: usize>(&self, offset: usize) -> Option<u32> {
        self.first.sum::<LEN>(offset)
    }
    #[inline(always)]
    fn cut_tail(&mut self, len: usize) -> Result<(), NoRoom> {
        self.first.cut(self.len, len)?;
        self.len = len;
        Ok(())
    }
}
