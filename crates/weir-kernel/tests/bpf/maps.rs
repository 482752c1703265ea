//! Maps as bytes, constants, pins, and what the verifier says.

use std::collections::BTreeMap;

use weir_abi::{Address, PrefixKey, iptunnel, map};
use weir_kernel::bpf::{Error, LoadOptions, Lookup, Mapped, RawMap, load, objects, test_run};

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
fn large_tables_are_written_read_and_thinned_out_in_pieces() {
    let sizes = vec![(map::SOURCES.to_owned(), 20_000), (map::SERVERS.to_owned(), 20_000)];
    let object =
        load("director", &LoadOptions { max_entries: sizes, ..LoadOptions::default() }).expect("loaded");
    let trie = Lookup::<3>::new(object.map(map::SOURCES).expect("map")).expect("a trie");
    let hash = Lookup::<1>::new(object.map(map::SERVERS).expect("map")).expect("a hash");
    assert!(Lookup::<1>::new(object.map(map::SOURCES).expect("map")).is_err(), "its keys are longer");
    assert!(Lookup::<1>::new(object.map(map::RINGS).expect("map")).is_err(), "an array");

    // Prefixes within prefixes, of two lists.
    let key = |number: u32| {
        let len = if number.is_multiple_of(5) { 8 } else { 19 };
        let network = (number << 13) & (u32::MAX << (32 - len));
        PrefixKey::sources(1 + number % 2, Address::from(std::net::Ipv4Addr::from(network)), len).0
    };
    let entries: BTreeMap<[u64; 3], u64> =
        (0..17_000).map(|number| (key(number), u64::from(number))).collect();
    trie.set_all(entries.clone()).expect("stored");
    let read = trie.entries().expect("read");
    assert_eq!(read.len(), entries.len(), "each once");
    assert_eq!(read.into_iter().collect::<BTreeMap<_, _>>(), entries);
    let is_first = |key: &[u64; 3]| PrefixKey(*key).scope() == 1;
    let seconds = entries.keys().filter(|key| !is_first(key)).count() as u64;
    assert_eq!(trie.retain(is_first).expect("thinned out"), seconds);
    let read: BTreeMap<_, _> = trie.entries().expect("read").into_iter().collect();
    assert_eq!(read, entries.into_iter().filter(|(key, _)| is_first(key)).collect());
    assert!(trie.get(&PrefixKey::source(1, Address::default()).0).expect("get").is_some());
    trie.retain(|_| false).expect("emptied");
    assert_eq!(trie.entries().expect("read"), []);
    trie.retain(|_| false).expect("nothing to do");

    let entries: BTreeMap<[u64; 1], u64> = (0..15_000).map(|number| ([number * 7], number)).collect();
    hash.set_all(entries.clone()).expect("stored");
    assert_eq!(hash.entries().expect("read").into_iter().collect::<BTreeMap<_, _>>(), entries);
    assert_eq!(hash.retain(|key| key[0] < 7).expect("thinned out"), 14_999);
    assert_eq!(hash.entries().expect("read"), [([0], 0)]);
    assert!(hash.remove(&[0]).expect("removed") && !hash.remove(&[0]).expect("not there"));
    hash.set(&[3], 4).expect("stored");
    assert_eq!(hash.get(&[3]).expect("get"), Some(4));
    let too_many = (0..20_001).map(|number| ([number], 0));
    assert!(hash.set_all(too_many).is_err(), "there is no room");
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
