//! Maps as bytes, constants, pins, and what the verifier says.

use weir_abi::{iptunnel, map};
use weir_kernel::bpf::{Error, LoadOptions, Mapped, RawMap, load, objects, test_run};

use crate::{Scratch, director, has_advice};

#[test]
fn hash_maps_take_give_and_list_keys() {
    let object = load("iptunnel", &LoadOptions::default()).expect("loaded");
    let vips = object.map(iptunnel::VIP2TNL).expect("the map");
    let info = vips.info();
    let (key, value) = (vec![7; info.key_size as usize], vec![9; info.value_size as usize]);
    assert_eq!(vips.get(&key).expect("get"), None);
    vips.set(&key, &value, 1).expect("set");
    assert!(vips.set(&key, &value, 1).is_err(), "BPF_NOEXIST");
    assert_eq!(vips.get(&key).expect("get"), Some(value));
    assert_eq!(vips.keys().expect("keys"), std::slice::from_ref(&key));
    assert!(vips.delete(&key).expect("delete"));
    assert!(!vips.delete(&key).expect("delete"));
    assert_eq!(vips.keys().expect("keys"), Vec::<Vec<u8>>::new());
    let error = vips.set(&[0; 3], &[0; 1], 0).expect_err("of another length");
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    assert!(vips.set(&key, &[0; 1], 0).is_err());
    assert!(Mapped::<8>::new(&vips).is_err(), "a hash map is no memory");
}

#[test]
fn per_cpu_values_are_given_one_by_one() {
    let object = load("iptunnel", &LoadOptions::default()).expect("loaded");
    let counts = object.map(iptunnel::RXCNT).expect("the map");
    counts.set(&6u32.to_ne_bytes(), &5u64.to_ne_bytes(), 0).expect("set");
    let values = counts.get_per_cpu(&6u32.to_ne_bytes()).expect("get").expect("there");
    assert!(!values.is_empty());
    assert!(values.iter().all(|value| value.as_slice() == 5u64.to_ne_bytes()), "{values:?}");
    let all = counts.values(iptunnel::RXCNT_ENTRIES).expect("values");
    assert_eq!(all.len(), iptunnel::RXCNT_ENTRIES as usize);
    assert_eq!(all[6].len(), 8 * values.len());
    assert!(all[5].iter().all(|byte| *byte == 0));
}

#[test]
fn sizes_can_be_chosen_and_maps_pinned_and_opened() {
    let scratch = Scratch::new();
    let state = scratch.state();
    let options =
        LoadOptions { max_entries: vec![(iptunnel::VIP2TNL.to_owned(), 3)], ..LoadOptions::default() };
    let object = load("iptunnel", &options).expect("loaded");
    let dir = state.bpf().join("iptunnel");
    object.pin_maps(&dir).expect("pinned");
    let pinned = RawMap::open(&dir.join(iptunnel::VIP2TNL)).expect("opened");
    assert_eq!(pinned.info(), object.map(iptunnel::VIP2TNL).expect("map").info());
    assert_eq!(pinned.info().max_entries, 3);
}

#[test]
fn what_an_object_lacks_is_named() {
    let error = load("nonsense", &LoadOptions::default()).expect_err("no such object");
    assert!(has_advice(&error).contains("director"), "the error lists the objects there are");
    assert!(objects::names().any(|name| name == "pass"));
    let mut pass = load("pass", &LoadOptions::default()).expect("loaded");
    assert!(matches!(pass.program("nonsense"), Err(Error::NoSuchItem { kind: "program", .. })));
    assert!(matches!(pass.map("nonsense"), Err(Error::NoSuchItem { kind: "map", .. })));
    let globals = vec![("NONSENSE".to_owned(), vec![1])];
    assert!(load("pass", &LoadOptions { globals, ..LoadOptions::default() }).is_err());
}

#[test]
fn a_program_passes_packets_unchanged() {
    let pass = load("pass", &LoadOptions::default()).expect("loaded").program("pass").expect("program");
    let packet: Vec<u8> = (0..100).collect();
    let run = test_run(&pass, &packet, None, 1000).expect("a run");
    assert_eq!((run.retval, run.packet), (2, packet));
    let error = test_run(&pass, &[0; 4], None, 1).expect_err("no Ethernet header");
    has_advice(&error);
}

/// The director with a table of 8-byte values where it expects 64: the verifier must see the access past the value.
#[test]
fn the_verifiers_last_words_are_told() {
    let scratch = Scratch::new();
    let state = scratch.state();
    drop(director(&state));
    let options = LoadOptions {
        pins: vec![(map::SERVICES.to_owned(), state.bpf().join(map::RINGS))],
        ..LoadOptions::default()
    };
    let error = load("director", &options).expect("the maps load").program("director");
    let error = error.expect_err("the verifier refuses");
    let text = has_advice(&error);
    assert!(matches!(error, Error::Verifier { .. }), "{text}");
    assert!(text.contains("value_size=8"), "{text}");
    assert!(text.lines().count() < 20, "{text}");
}
