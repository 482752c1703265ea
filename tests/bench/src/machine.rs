//! What machine the figures are from.
use serde_json::{Value, json};
use std::fs;

/// CPU model, number of CPUs, kernel release, whether BPF is compiled to machine code.
pub(crate) fn describe() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()))
        .unwrap_or("unknown");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model,
        "cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": kernel.trim(),
        "bpf_jit": weir_kernel::bpf::jit_enabled(),
    })
}
