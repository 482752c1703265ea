//! Starting: fresh, adopting, and refusing what cannot be adopted.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::atomic::Ordering::Relaxed, time::Duration};

use weir_abi::{ABI_VERSION, Control, RingSlot, map};
use weir_kernel::bpf::{Director, Error, Options, RawMap, Sizes, Start, StateDir, XdpRequest, query};

use crate::{LO, Scratch, director, has_advice, in_netns, pins, small};

#[test]
fn a_state_directory_is_private_and_leaves_nothing() {
    let scratch = Scratch::new();
    assert!(!StateDir::exists(&scratch.0));
    let state = scratch.state();
    assert_eq!(fs::metadata(&scratch.0).expect("made").permissions().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(state.bpf()).expect("mounted").permissions().mode() & 0o777, 0o700);
    drop(state);
    assert!(StateDir::exists(&scratch.0), "the bpffs outlives its maker");
    scratch.state().remove().expect("it can be removed");
    assert!(!scratch.0.exists());
}

#[test]
fn two_processes_cannot_share_a_state_directory() {
    let scratch = Scratch::new();
    let state = scratch.state();
    let error = StateDir::open(&scratch.0).expect_err("it is locked");
    let text = has_advice(&error);
    assert!(text.contains(&format!("process {} ", std::process::id())), "{text}");
    drop(state);
    drop(scratch.state());
}

#[test]
fn fresh_tables_have_the_sizes_and_a_whole_control_record() {
    let scratch = Scratch::new();
    let director = director(&scratch.state());
    assert_eq!(director.start(), Start::Fresh);
    let control = Control(director.control().record(0).expect("a control record"));
    assert_eq!(control.identity(), weir_abi::MAGIC as u64 | u64::from(ABI_VERSION) << 32);
    assert_ne!(control.hash_key(), [0, 0]);
    assert_eq!(control.flow_mask(), small().sizes.flow_buckets - 1);
    assert!((5.6..11.4).contains(&director.tick().as_secs_f64()), "{:?}", director.tick());
    let sizes = small().sizes;
    assert_eq!(director.services().len(), sizes.services);
    assert_eq!(director.rings().len(), sizes.ring_slots);
    assert_eq!(director.backends().len(), sizes.backends);
    assert_eq!(director.flows().len(), sizes.flow_buckets);
    assert!(director.rings().slot(sizes.ring_slots - 1).is_some());
    assert!(director.rings().slot(sizes.ring_slots).is_none());
    let info = director.program_info().expect("info");
    assert_eq!(info.name, "director");
    assert!(info.verified_insns.is_none_or(|insns| insns > 100));
    assert_eq!(Some(info.is_jited()), weir_kernel::bpf::jit_enabled());
    assert!(sizes.memory().expect("memory") > 8 * u64::from(sizes.ring_slots));
}

#[test]
fn a_second_start_adopts_what_the_first_left() {
    let scratch = Scratch::new();
    let key = [0x0123_4567_89ab_cdef, 42];
    let options = Options { hash_key: Some(key), ..small() };
    let state = scratch.state();
    let first = Director::load_or_adopt(&state, &options).expect("fresh");
    first.rings().slot(7).expect("slot").store(RingSlot::settled(5).0, Relaxed);
    let tick = first.tick();
    drop((first, state));
    let second = Director::load_or_adopt(&scratch.state(), &small()).expect("adopted");
    assert_eq!(second.start(), Start::Adopted);
    assert_eq!(second.rings().slot(7).expect("slot").load(Relaxed), RingSlot::settled(5).0);
    assert_eq!(Control(second.control().record(0).expect("control")).hash_key(), key);
    assert_eq!(second.tick(), tick);
    second.remove().expect("removed");
    assert_eq!(pins(&scratch.bpf()), Vec::<String>::new());
}

/// Starts once more and expects an error that leaves every pin as it was and nothing attached.
fn refused(scratch: &Scratch, options: &Options) -> Error {
    let before = pins(&scratch.bpf());
    let error = Director::load_or_adopt(&scratch.state(), options).expect_err("it must be refused");
    assert_eq!(pins(&scratch.bpf()), before, "after: {error}");
    has_advice(&error);
    error
}

#[test]
fn tables_of_another_abi_are_refused() {
    let scratch = Scratch::new();
    let other = director(&scratch.state());
    let identity = weir_abi::MAGIC as u64 | u64::from(ABI_VERSION + 1) << 32;
    other.control().record(0).expect("control")[0].store(identity, Relaxed);
    drop(other);
    match refused(&scratch, &small()) {
        Error::PinnedAbi { found, expected, .. } => {
            assert_eq!((found, expected), (ABI_VERSION + 1, ABI_VERSION));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn damaged_pins_are_refused_by_name() {
    let scratch = Scratch::new();
    drop(director(&scratch.state()));
    let bpf = scratch.bpf();
    let bad = |name: &str| match refused(&scratch, &small()) {
        Error::BadPin { map, why, .. } => {
            assert_eq!(map, name, "{why}");
            why
        }
        other => panic!("{other}"),
    };
    // A table of another shape under the name.
    let rings = bpf.join(map::RINGS);
    let kept = bpf.join("kept");
    fs::rename(&rings, &kept).expect("rename");
    RawMap::open(&bpf.join(map::BACKENDS)).expect("open").pin(&rings).expect("pin");
    assert!(bad(map::RINGS).contains("value size is 64, not 8"));
    // Not a table at all.
    fs::remove_file(&rings).expect("remove");
    fs::rename(bpf.join("director"), &rings).expect("rename");
    assert!(bad(map::RINGS).contains("bpf-prog"));
    // None.
    fs::remove_file(&rings).expect("remove");
    assert!(bad(map::RINGS).contains("missing"));
    // Whole again: adopted.
    fs::rename(&kept, &rings).expect("rename");
    assert_eq!(director(&scratch.state()).start(), Start::Adopted);
    // A control record that is not weir's.
    let open = director(&scratch.state());
    open.control().record(0).expect("control")[0].store(77, Relaxed);
    drop(open);
    assert!(bad(map::CONTROL).contains("not a control record"));
}

#[test]
fn a_start_that_was_cut_short_is_made_anew() {
    let scratch = Scratch::new();
    let first = director(&scratch.state());
    first.control().record(0).expect("control")[0].store(0, Relaxed);
    first.rings().slot(1).expect("slot").store(9, Relaxed);
    drop(first);
    fs::remove_file(scratch.bpf().join(map::FLOWS)).expect("remove");
    let second = director(&scratch.state());
    assert_eq!(second.start(), Start::Fresh);
    assert_eq!(second.rings().slot(1).expect("slot").load(Relaxed), 0);
    drop(second);
    fs::remove_file(scratch.bpf().join(map::CONTROL)).expect("remove");
    assert_eq!(director(&scratch.state()).start(), Start::Fresh);
}

#[test]
fn other_settings_start_afresh_unless_packets_are_forwarded() {
    let scratch = Scratch::new();
    drop(director(&scratch.state()));
    let larger = Options { sizes: Sizes { ring_slots: 2048, ..small().sizes }, ..small() };
    let director = Director::load_or_adopt(&scratch.state(), &larger).expect("nobody uses the old ones");
    assert_eq!((director.start(), director.rings().len()), (Start::Fresh, 2048));
    drop(director);
    in_netns(|_| {
        let mut director = Director::load_or_adopt(&scratch.state(), &larger).expect("adopted");
        director.attach(LO, XdpRequest::Generic).expect("attached");
        let id = director.program_info().expect("info").id;
        drop(director);
        let still_larger = Options { sizes: Sizes { ring_slots: 4096, ..small().sizes }, ..small() };
        match refused(&scratch, &still_larger) {
            Error::InUse { what, pinned, wanted, places } => {
                assert!(what.contains(map::RINGS), "{what}");
                assert_eq!((pinned.as_str(), wanted.as_str()), ("2048", "4096"));
                assert_eq!(places, ["lo"]);
            }
            other => panic!("{other}"),
        }
        match refused(&scratch, &Options { hash_key: Some([1, 2]), ..larger }) {
            Error::InUse { what, .. } => assert_eq!(what, "the hash key"),
            other => panic!("{other}"),
        }
        let there = query(LO).expect("query").expect("still attached");
        assert_eq!(there.program_id, id, "the old program goes on");
        // Fewer slots are asked for than there are: the room stays, and so does every flow.
        let adopted = Director::load_or_adopt(&scratch.state(), &small()).expect("large enough");
        assert_eq!((adopted.start(), adopted.rings().len()), (Start::Adopted, 2048));
        adopted.remove().expect("removed");
        assert_eq!(query(LO).expect("query"), None);
    });
}

#[test]
fn senseless_sizes_are_refused_before_anything_is_made() {
    let scratch = Scratch::new();
    let good = small().sizes;
    for sizes in [
        Sizes { services: 3, ..good },
        Sizes { ring_slots: 0, ..good },
        Sizes { backends: (1 << 20) + 1, ..good },
        Sizes { flow_buckets: 100, ..good },
    ] {
        let error = Director::load_or_adopt(&scratch.state(), &Options { sizes, ..small() })
            .expect_err("a senseless size");
        assert!(matches!(error, Error::Size { .. }), "{error}");
        assert_eq!(pins(&scratch.bpf()), Vec::<String>::new());
    }
}

#[test]
fn a_grace_period_ends() {
    let scratch = Scratch::new();
    let director = director(&scratch.state());
    let began = std::time::Instant::now();
    for _ in 0..3 {
        director.grace_period().expect("it is waited for");
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
