//! The BPF side against the running kernel. Needs root; every test has its own state directory and network namespace.

mod array;
mod attach;
mod maps;
mod packets;
mod start;
mod tc;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, unshare},
};
use weir_kernel::{
    bpf::{Director, Options, Sizes, StateDir},
    net::{Rtnl, VethEnd},
};

/// A directory that is unmounted and removed whatever happens.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("weir-bpf-test-{}-{number}", std::process::id())))
    }

    fn state(&self) -> StateDir {
        StateDir::open(&self.0).expect("root can make a state directory")
    }

    fn bpf(&self) -> PathBuf {
        self.0.join("bpf")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Not there when the test removed it.
        let _ = umount2(&self.bpf(), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Small tables, so that tests do not take the machine's memory.
fn small() -> Options {
    Options {
        sizes: Sizes {
            services: 64,
            ring_slots: 1024,
            backends: 64,
            flow_buckets: 256,
            fragment_buckets: 16,
            ..Sizes::default()
        },
        hash_key: None,
    }
}

fn director(state: &StateDir) -> Director {
    Director::load_or_adopt(state, &small()).expect("the director loads")
}

/// Runs `test` in a network namespace of its own, which goes with the thread. Loopback is up.
fn in_netns<T: Send>(test: impl FnOnce(&Rtnl) -> T + Send) -> T {
    thread::scope(|scope| {
        let run = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root can make a network namespace");
            let rtnl = Rtnl::open().expect("rtnetlink");
            rtnl.set_up(LO).expect("loopback goes up");
            test(&rtnl)
        };
        scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Index of the loopback in every network namespace.
const LO: u32 = 1;

/// Makes a veth pair, up; returns the two indices.
fn veth(rtnl: &Rtnl, name: &str, mtu: u32) -> (u32, u32) {
    let peer = format!("{name}p");
    rtnl.create_veth(VethEnd::new(name).mtu(mtu), VethEnd::new(&peer).mtu(mtu)).expect("veth");
    let index = |name: &str| rtnl.link_by_name(name).expect("the veth is there").index;
    let both = (index(name), index(&peer));
    rtnl.set_up(both.0).expect("up");
    rtnl.set_up(both.1).expect("up");
    both
}

/// Names of the pins in a directory, sorted; without the files the kernel puts into every bpffs, `maps.debug` and the
/// like (pins cannot have dots).
fn pins(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("a bpffs")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.contains('.'))
        .collect();
    names.sort();
    names
}

/// Two lines: a cause and an advice.
fn has_advice(error: &weir_kernel::bpf::Error) -> String {
    let text = error.to_string();
    assert!(text.lines().count() >= 2, "no advice in: {text}");
    assert!(text.lines().all(|line| !line.trim().is_empty()), "an empty line in: {text}");
    text
}
