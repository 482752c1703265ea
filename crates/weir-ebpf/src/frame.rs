//! The frame behind an XDP context.
use aya_ebpf::{
    helpers::generated::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use weir_datapath::{Frame, Header, NoRoom};

/// A frame in driver memory.
///
/// `REREAD`: the packet's bounds are read from the context at every access. To a BPF function that is called, a compiler
/// may otherwise hand the bounds instead of the context, as mere numbers, with which the verifier lets nobody at a packet.
pub struct XdpFrame<'a, const REREAD: bool = false>(pub &'a XdpContext);

impl<const REREAD: bool> XdpFrame<'_, REREAD> {
    /// First byte of the packet, and the one behind the last.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        if !REREAD {
            return (self.0.data(), self.0.data_end());
        }
        // SAFETY: the context is the one the kernel called us with, and valid while the program runs.
        let data = unsafe { &raw const (*self.0.ctx).data };
        // SAFETY: as above.
        let data_end = unsafe { &raw const (*self.0.ctx).data_end };
        // SAFETY: fields of the context, as above.
        let start = unsafe { data.read_volatile() };
        // SAFETY: as above.
        let end = unsafe { data_end.read_volatile() };
        (start as usize, end as usize)
    }

    /// Pointer to `len` bytes at `offset`, if they are inside the frame.
    #[inline(always)]
    fn bytes(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let (start, end) = self.bounds();
        // Exactly this form (start + offset + length > end): the one the verifier understands.
        if start + offset + len > end {
            return None;
        }
        Some((start + offset) as *mut u8)
    }
}

impl<const REREAD: bool> Frame for XdpFrame<'_, REREAD> {
    #[inline(always)]
    fn len(&self) -> usize {
        let (start, end) = self.bounds();
        end - start
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
        let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, pointer.cast(), LEN as u32, 0) };
        Some(sum.cast_unsigned() as u32)
    }
    #[inline(always)]
    fn cut_tail(&mut self, len: usize) -> Result<(), NoRoom> {
        self.cut(self.len(), len)
    }
}

impl<const REREAD: bool> XdpFrame<'_, REREAD> {
    #[inline(always)]
    fn adjust(&mut self, delta: i32) -> Result<(), NoRoom> {
        // SAFETY: the context is the one the kernel called us with; `&mut self` means no reference into the packet
        // outlives the call, which moves it.
        if unsafe { bpf_xdp_adjust_head(self.0.ctx, delta) } == 0 { Ok(()) } else { Err(NoRoom) }
    }

    /// Cuts a frame of `from` bytes, in one buffer or several, down to `to`.
    #[inline(always)]
    pub(crate) fn cut(&mut self, from: usize, to: usize) -> Result<(), NoRoom> {
        let delta = (to as u32).cast_signed() - (from as u32).cast_signed();
        if delta > 0 {
            return Err(NoRoom);
        }
        // SAFETY: the context is the one the kernel called us with; `&mut self` means no reference into the packet
        // outlives the call. A frame that would be too short is refused and stays as it is.
        if unsafe { bpf_xdp_adjust_tail(self.0.ctx, delta) } == 0 { Ok(()) } else { Err(NoRoom) }
    }
}
