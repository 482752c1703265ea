//! The agent: takes the outer header off what directors send, in XDP or tc, and lowers the segment size that VIPs
//! announce.
//!
//! Owns: the agent's maps, and the frame behind a tc context. Decides nothing; that is `weir_datapath::{decap, mss}`.
//! Invariant: what is not dropped goes on to the next program and the kernel.
#![no_std]
#![no_main]
#![allow(unsafe_code)] // map values and packets are reached through pointers; see weir_ebpf
#![allow(clippy::needless_pass_by_value)] // the entry point macros hand the context over by value

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_SHOT,
        TC_ACT_UNSPEC,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
        xdp_action::{XDP_DROP, XDP_PASS},
    },
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_pull_data},
    macros::{classifier, map, xdp},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    programs::{TcContext, XdpContext},
};
use weir_abi::{
    Address, Count, Family, Words as _,
    agent::{
        AddressKey, ClampReason, ConfigRecord, DirectorKey, GuePort, Reason, SegmentLimits, Verdict,
        capacity, role,
    },
};
use weir_datapath::{
    Frame, Header, NoRoom,
    decap::{self, AgentTables, unwrap, unwrap_tagged},
    mss::{self, LeavingFrame, SegmentTables, clamp},
};
use weir_ebpf::{MapWords, Maps, XdpFragsFrame, XdpFrame};

#[map]
static AGENT_CONFIG: Array<ConfigRecord> = Array::with_max_entries(1, 0);
#[map]
static AGENT_ADDRESSES: HashMap<[u64; 3], u64> = HashMap::with_max_entries(capacity::ADDRESSES, 0);
#[map]
static AGENT_DIRECTORS: LpmTrie<[u8; 20], u64> = LpmTrie::with_max_entries(capacity::DIRECTORS, 0);
#[map]
static AGENT_REASONS: PerCpuArray<Count> = PerCpuArray::with_max_entries(Reason::COUNT, 0);
#[map]
static AGENT_CLAMPS: PerCpuArray<Count> = PerCpuArray::with_max_entries(ClampReason::COUNT, 0);

struct MapTables;

impl MapTables {
    #[inline(always)]
    fn has_role(family: Family, address: Address, role: u64) -> bool {
        match AGENT_ADDRESSES.get_ptr(AddressKey::new(family, address).0) {
            // SAFETY: a value of this map: one aligned word, valid while the program runs.
            Some(roles) => unsafe { roles.read_volatile() & role != 0 },
            None => false,
        }
    }

    /// A word of the configuration record.
    #[inline(always)]
    fn config(index: usize) -> u64 {
        let Some(record) = AGENT_CONFIG.get_ptr_mut(0) else { return 0 };
        // SAFETY: a value of this map: three aligned words, valid while the program runs.
        let words: MapWords<{ size_of::<ConfigRecord>() / 8 }> = unsafe { MapWords::new(record) };
        words.load(index)
    }
}

impl AgentTables for MapTables {
    #[inline(always)]
    fn is_director(&self, family: Family, address: Address) -> bool {
        let key = DirectorKey::address(family, address);
        // SAFETY: both are 24 bytes of which the first four are the number of bits; `Key` has no alignment.
        let key = unsafe { &*(&raw const key).cast::<Key<[u8; 20]>>() };
        AGENT_DIRECTORS.get(key).is_some()
    }
    #[inline(always)]
    fn is_own(&self, family: Family, address: Address) -> bool {
        Self::has_role(family, address, role::OWN)
    }
    #[inline(always)]
    fn is_vip(&self, family: Family, address: Address) -> bool {
        Self::has_role(family, address, role::VIP)
    }
    #[inline(always)]
    fn gue_port(&self) -> GuePort {
        GuePort(Self::config(2))
    }
    #[inline(always)]
    fn count(&self, reason: Reason, bytes: u64) {
        Maps::count(AGENT_REASONS.get_ptr_mut(reason as u32), bytes);
    }
}

impl SegmentTables for MapTables {
    #[inline(always)]
    fn is_vip(&self, family: Family, address: Address) -> bool {
        Self::has_role(family, address, role::VIP)
    }
    #[inline(always)]
    fn limits(&self) -> SegmentLimits {
        SegmentLimits(Self::config(1))
    }
    #[inline(always)]
    fn count(&self, reason: ClampReason, bytes: u64) {
        Maps::count(AGENT_CLAMPS.get_ptr_mut(reason as u32), bytes);
    }
}

/// The packet behind a tc context, its Ethernet header first.
///
/// [`Frame::shrink_head`] takes the bytes out behind the Ethernet header rather than in front of it, which is the same
/// to a caller that writes the Ethernet header afterwards, as [`Frame`]'s contract has it.
struct TcFrame<'a>(&'a TcContext);

impl<'a> TcFrame<'a> {
    /// The packet, with `head` bytes (or all, if it is shorter) readable.
    #[inline(always)]
    fn new(ctx: &'a TcContext, head: usize) -> Self {
        let want = if ctx.len() < head as u32 { ctx.len() } else { head as u32 };
        if ctx.data() + want as usize > ctx.data_end() {
            // SAFETY: the context is the one the kernel called us with. If it fails, the bytes stay out of reach and the
            // packet counts as malformed.
            unsafe { bpf_skb_pull_data(ctx.skb.skb, want) };
        }
        Self(ctx)
    }

    /// Pointer to `len` bytes at `offset`, if they are inside the packet's readable part.
    #[inline(always)]
    fn bytes(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let start = self.0.data();
        if start + offset + len > self.0.data_end() {
            return None;
        }
        Some((start + offset) as *mut u8)
    }
}

impl Frame for TcFrame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len() as usize
    }
    #[inline(always)]
    fn at<T: Header>(&self, offset: usize) -> Option<&T> {
        let pointer = self.bytes(offset, size_of::<T>())?;
        // SAFETY: the bytes are inside the packet, `T` has no alignment and no invalid bit pattern (`Header`), and the
        // borrow of `self` keeps the packet from moving, and anything from writing, while the reference lives.
        Some(unsafe { &*pointer.cast::<T>() })
    }
    #[inline(always)]
    fn at_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        let pointer = self.bytes(offset, size_of::<T>())?;
        // SAFETY: as above; `&mut self` makes this the only reference into the packet, which the kernel made private to
        // us before it ran a program that writes.
        Some(unsafe { &mut *pointer.cast::<T>() })
    }
    #[inline(always)]
    fn grow_head(&mut self, _by: usize) -> Result<(), NoRoom> {
        Err(NoRoom)
    }
    #[inline(always)]
    fn shrink_head(&mut self, by: usize) -> Result<(), NoRoom> {
        // Segments merged on reception keep their payload's size, which the outer header is no part of.
        let mut flags = BPF_F_ADJ_ROOM_FIXED_GSO;
        // Before 6.3 the kernel knows neither flag and refuses.
        match decap::family_change(self, by) {
            Some(Family::V4) => flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
            Some(Family::V6) => flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
            None => {}
        }
        // SAFETY: the context is the one the kernel called us with; `&mut self` means no reference into the packet
        // outlives the call, which moves it.
        let refused = unsafe {
            bpf_skb_adjust_room(self.0.skb.skb, -((by as u32).cast_signed()), BPF_ADJ_ROOM_MAC, flags as u64)
        };
        if refused == 0 { Ok(()) } else { Err(NoRoom) }
    }
}

impl LeavingFrame for TcFrame<'_> {
    #[inline(always)]
    fn mend_checksum(&mut self, offset: usize, old: [u8; 2], new: [u8; 2]) {
        let (old, new) = (u16::from_ne_bytes(old) as u64, u16::from_ne_bytes(new) as u64);
        // SAFETY: as above. The helper knows whether the checksum is complete (mended) or left to the hardware (kept).
        unsafe { bpf_l4_csum_replace(self.0.skb.skb, offset as u32, old, new, size_of::<u16>() as u64) };
    }
}

/// Unwraps in XDP.
#[xdp]
fn unwrap_xdp(ctx: XdpContext) -> u32 {
    match unwrap_tagged(&mut XdpFrame::<false>(&ctx), &MapTables).verdict() {
        Verdict::Pass | Verdict::Unwrap => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

/// Unwraps in XDP, with an MTU beyond one buffer.
#[xdp(frags)]
fn unwrap_frags(ctx: XdpContext) -> u32 {
    match unwrap_tagged(&mut XdpFragsFrame::<false>::new(&ctx), &MapTables).verdict() {
        Verdict::Pass | Verdict::Unwrap => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

/// Unwraps in tc, at ingress.
#[classifier]
fn unwrap_tc(ctx: TcContext) -> i32 {
    match unwrap(&mut TcFrame::new(&ctx, decap::HEAD_LEN), &MapTables).verdict() {
        Verdict::Pass | Verdict::Unwrap => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
    }
}

/// Lowers announced segment sizes in tc, at egress.
#[classifier]
fn clamp_mss(ctx: TcContext) -> i32 {
    clamp(&mut TcFrame::new(&ctx, mss::HEAD_LEN), &MapTables);
    TC_ACT_UNSPEC
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
