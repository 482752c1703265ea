//! The layouts of bpf(2)'s attributes and answers (`union bpf_attr`, `struct bpf_*_info` in linux/bpf.h).
//!
//! Owns: fields and their places. May not touch: the call itself (`sys`). Invariant: no layout has hidden padding, so the
//! kernel is never handed stray bytes, and a layout may end where a newer kernel's goes on.

#[derive(Default)]
#[repr(C)]
pub(crate) struct MapCreate {
    pub(crate) map_type: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
    pub(crate) inner_map_fd: u32,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct MapElement {
    pub(crate) fd: u32,
    pub(crate) pad: u32,
    pub(crate) key: u64,
    pub(crate) value: u64,
    pub(crate) flags: u64,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct MapBatch {
    pub(crate) in_batch: u64,
    pub(crate) out_batch: u64,
    pub(crate) keys: u64,
    pub(crate) values: u64,
    pub(crate) count: u32,
    pub(crate) fd: u32,
    pub(crate) element_flags: u64,
    pub(crate) flags: u64,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct Object {
    pub(crate) path: u64,
    pub(crate) fd: u32,
    pub(crate) file_flags: u32,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct ById {
    pub(crate) id: u32,
    pub(crate) next_id: u32,
    pub(crate) open_flags: u32,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct Info {
    pub(crate) fd: u32,
    pub(crate) len: u32,
    pub(crate) buffer: u64,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct LinkCreate {
    pub(crate) prog_fd: u32,
    pub(crate) target: u32,
    pub(crate) attach_type: u32,
    pub(crate) flags: u32,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct LinkUpdate {
    pub(crate) link_fd: u32,
    pub(crate) new_prog_fd: u32,
    pub(crate) flags: u32,
    pub(crate) old_prog_fd: u32,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct TestRun {
    pub(crate) prog_fd: u32,
    pub(crate) retval: u32,
    pub(crate) data_size_in: u32,
    pub(crate) data_size_out: u32,
    pub(crate) data_in: u64,
    pub(crate) data_out: u64,
    pub(crate) repeat: u32,
    pub(crate) duration: u32,
    pub(crate) ctx_size_in: u32,
    pub(crate) ctx_size_out: u32,
    pub(crate) ctx_in: u64,
    pub(crate) ctx_out: u64,
    pub(crate) flags: u32,
    pub(crate) cpu: u32,
    pub(crate) batch_size: u32,
    pub(crate) pad: u32,
}

/// `struct bpf_map_info`, the part that has been there since 4.13.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct KernelMapInfo {
    pub(crate) map_type: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) map_flags: u32,
    pub(crate) name: [u8; 16],
}

/// `struct bpf_prog_info` up to `verified_insns` (5.16); fields an older kernel does not know stay zero.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct KernelProgInfo {
    pub(crate) prog_type: u32,
    pub(crate) id: u32,
    pub(crate) tag: [u8; 8],
    pub(crate) jited_len: u32,
    pub(crate) xlated_len: u32,
    pub(crate) jited_insns: u64,
    pub(crate) xlated_insns: u64,
    pub(crate) load_time: u64,
    pub(crate) created_by_uid: u32,
    pub(crate) nr_map_ids: u32,
    pub(crate) map_ids: u64,
    pub(crate) name: [u8; 16],
    pub(crate) ifindex: u32,
    pub(crate) gpl: u32,
    pub(crate) netns_dev: u64,
    pub(crate) netns_ino: u64,
    pub(crate) unused: [u64; 11],
    pub(crate) run_time_ns: u64,
    pub(crate) run_cnt: u64,
    pub(crate) recursion_misses: u64,
    pub(crate) verified_insns: u32,
    pub(crate) attach_btf_obj_id: u32,
    pub(crate) attach_btf_id: u32,
    pub(crate) pad: u32,
}
const _: () = assert!(std::mem::offset_of!(KernelProgInfo, name) == 64);
const _: () = assert!(std::mem::offset_of!(KernelProgInfo, run_time_ns) == 192);
const _: () = assert!(std::mem::offset_of!(KernelProgInfo, verified_insns) == 216);

/// `struct bpf_link_info` of an XDP or tcx link.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct KernelLinkInfo {
    pub(crate) link_type: u32,
    pub(crate) id: u32,
    pub(crate) prog_id: u32,
    pub(crate) pad: u32,
    /// 0 when the device is gone.
    pub(crate) ifindex: u32,
    pub(crate) attach_type: u32,
    pub(crate) rest: [u64; 6],
}
