//! The frame behind an XDP context.
use aya_ebpf::{helpers::generated::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail}, programs::XdpContext};
use weir_datapath::{Frame, Header, NoRoom};

/// A frame in driver memory.
pub struct XdpFrame<'a>(pub &'a XdpContext);

impl XdpFrame<'_> {
    /// Pointer to `len` bytes at `offset`, if they are inside the frame.
    #[inline(always)]
    fn bytes(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let start = self.0.data();
        // Exactly this form (start + offset + length > end): the one the verifier understands.
        if start + offset + len > self.0.data_end() {
            return None;
        }
        Some((start + offset) as *mut u8)
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.data_end() - self.0.data()
    }
    #[inline(always)]
    fn at<T: Header>(&self, offset: usize) -> Option<&T> {
        let pointer = self.bytes(offset, size_of::<T>())?;
        // SAFETY: the bytes are inside the packet, `T` has no alignment and no invalid bit pattern (`Header`), and the
        // borrow of `self` keeps the head from moving, and anything from writing, while the reference lives.
        Some(unsafe { &*pointer.cast::<T>() })
    }
    #[inline(always)]
    fn at_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        let pointer = self.bytes(offset, size_of::<T>())?;
        // SAFETY: as above; `&mut self` makes this the only reference into the packet.
        Some(unsafe { &mut *pointer.cast::<T>() })
    }
    #[inline(always)]
    fn grow_head(&mut self, by: usize) -> Result<(), NoRoom> {
        self.adjust(-((by as u32).cast_signed()))
    }
    #[inline(always)]
    fn shrink_head(&mut self, by: usize) -> Result<(), NoRoom> {
        self.adjust((by as u32).cast_signed())
    }
    #[inline(always)]
    fn sum<const LEN: usize>(&self, offset: usize) -> Option<u32> {
        let pointer = self.bytes(offset, LEN)?;
        // By helper: a compiler that sees this many bytes loads all of them at once, onto the stack.
        // SAFETY: `LEN` bytes at `pointer` are inside the packet, and the helper only reads them; nothing is compared
        // with, so that pointer may be null.
        Some(unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, pointer.cast(), LEN as u32, 0) } as u32)
    }
    #[inline(always)]
    fn cut_tail(&mut self, len: usize) -> Result<(), NoRoom> {
        let delta = (len as u32).cast_signed() - (self.len() as u32).cast_signed();
        // SAFETY: the context is the one the kernel called us with; `&mut self` means no reference into the packet
        // outlives the call. A frame that would grow, or that is too short, is refused and stays as it is.
        if delta <= 0 && unsafe { bpf_xdp_adjust_tail(self.0.ctx, delta) } == 0 { Ok(()) } else { Err(NoRoom) }
    }
}

impl XdpFrame<'_> {
    #[inline(always)]
    fn adjust(&mut self, delta: i32) -> Result<(), NoRoom> {
        // SAFETY: the context is the one the kernel called us with; `&mut self` means no reference into the packet
        // outlives the call, which moves it.
        if unsafe { bpf_xdp_adjust_head(self.0.ctx, delta) } == 0 { Ok(()) } else { Err(NoRoom) }
    }
}
