//! Outcome to XDP action, and the helper calls every program makes.
use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    helpers::generated::{bpf_jiffies64, bpf_redirect},
    maps::PerCpuArray,
    programs::XdpContext,
};
use core::mem::MaybeUninit;
use weir_abi::Count;
use weir_datapath::{Action, Scratch};

/// The XDP return code for an action: one exhaustive match.
#[inline(always)]
pub fn xdp_action(ctx: &XdpContext, action: Action) -> u32 {
    match action {
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
        Action::Reply => XDP_TX,
        Action::Send { ifindex } => {
            // SAFETY: the context is the one the kernel called us with.
            let ingress = unsafe { (*ctx.ctx).ingress_ifindex };
            if ifindex == ingress {
                XDP_TX
            } else {
                // SAFETY: takes plain numbers; an unknown interface drops the packet (and counts in the kernel).
                unsafe { bpf_redirect(ifindex, 0) }.cast_unsigned() as u32
            }
        }
    }
}

/// Room for what the stages of the long way hand on, one for each CPU: programs on a CPU do not interrupt each other.
pub type ScratchMap = PerCpuArray<MaybeUninit<Scratch>>;

/// This CPU's scratch. Called once in a run of a program.
#[inline(always)]
#[expect(clippy::mut_from_ref, reason = "a map is a handle; what it leads to is this CPU's alone")]
pub fn scratch(map: &'static ScratchMap) -> Option<&'static mut Scratch> {
    let room = map.get_ptr_mut(0)?;
    // SAFETY: a per-CPU map value, ours alone while the program runs, which is as long as the caller can keep the
    // reference.
    let room = unsafe { &mut *room };
    // SAFETY: the kernel made the map's memory zero, which is a valid `Scratch`, and since then it was written through
    // this type only.
    Some(unsafe { room.assume_init_mut() })
}

/// Things that map-backed tables do the same way in every program.
pub struct Maps;

impl Maps {
    /// The kernel's clock in jiffies; the verifier inlines it to one load.
    #[inline(always)]
    pub fn jiffies() -> u64 {
        // SAFETY: takes nothing, returns a number.
        unsafe { bpf_jiffies64() }
    }

    /// Adds one packet of `bytes` bytes to a per-CPU counter.
    #[inline(always)]
    pub fn count(counter: Option<*mut Count>, bytes: u64) {
        if let Some(count) = counter {
            // SAFETY: a per-CPU map value: ours alone while the program runs, aligned and live that long.
            unsafe {
                (*count).packets += 1;
            }
            // SAFETY: as above.
            unsafe {
                (*count).bytes += bytes;
            }
        }
    }
}
