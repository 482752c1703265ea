//! Being called by a root program instead of being attached.

use std::{
    fs,
    path::{Path, PathBuf},
};

use weir_kernel::bpf::{
    Director, Error, LoadOptions, Options, Place, Program, RawMap, Root, Sizes, Start, XdpMode, XdpRequest,
    load, query, test_run,
};

use crate::{
    LO, Scratch, director, has_advice, in_netns,
    packets::{arp, serve, syn},
    pins, small, veth,
};

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// A root's array without an interface: the programs on a bpffs, as a root of somebody else's would pin them.
struct Calls {
    root: Program,
    array: RawMap,
    pin: PathBuf,
}

fn calls(scratch: &Scratch, name: &str) -> Calls {
    let pin = scratch.bpf().join("somebodys");
    let mut object = load("root", &LoadOptions::default()).expect("the root loads");
    let array = object.map("WEIR_ROOT").expect("its array");
    let root = object.program(name).expect("the verifier accepts it");
    array.pin(&pin).expect("pinned");
    Calls { root, array, pin }
}

impl Calls {
    fn place(&self, position: u32) -> Place {
        Place { array: self.pin.clone(), position, next: None }
    }

    fn at(&self, position: u32) -> Option<u32> {
        let id = self.array.get(&position.to_ne_bytes()).expect("a lookup")?;
        Some(u32::from_ne_bytes(id.try_into().expect("an id")))
    }

    fn put(&self, position: u32, program: &Program) {
        use std::os::fd::{AsFd as _, AsRawFd as _};
        let fd = program.as_fd().as_raw_fd();
        self.array.set(&position.to_ne_bytes(), &fd.to_ne_bytes(), 0).expect("the array takes it");
    }

    /// What the root makes of a packet.
    fn run(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        let run = test_run(&self.root, packet, None, 1).expect("a run");
        (run.retval, run.packet)
    }
}

fn vip_syn() -> Vec<u8> {
    syn(crate::packets::VIP)
}

fn placed_pins(scratch: &Scratch) -> Vec<String> {
    let ours = |pin: &String| pin.starts_with("array_") || pin.starts_with("placed");
    pins(&scratch.bpf()).into_iter().filter(ours).collect()
}

fn refused(director: &mut Director, place: &Place, words: &[&str]) {
    let error = director.enter(place).expect_err("it must be refused");
    let text = has_advice(&error);
    assert!(matches!(error, Error::Place { .. }), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn a_root_calls_the_director_and_only_its_element_goes() {
    let scratch = Scratch::new();
    let mut director = director(&scratch.state());
    serve(&director);
    let calls = calls(&scratch, "root");
    let other = load("pass", &LoadOptions::default()).expect("load").program("pass").expect("program");
    calls.put(5, &other);
    assert_eq!(calls.run(&vip_syn()), (XDP_PASS, vip_syn()), "nobody takes it yet");

    let info = director.enter(&calls.place(2)).expect("entered");
    assert_eq!((calls.at(2), info.name.as_str()), (Some(info.id), "director"));
    assert_eq!(director.placed().expect("a lookup"), Some(info.id));
    director.check_place(&calls.place(2)).expect("all is well");
    let (verdict, packet) = calls.run(&vip_syn());
    assert_eq!((verdict, packet.len()), (XDP_TX, vip_syn().len() + 20));
    assert_eq!(calls.run(&arp()), (XDP_PASS, arp()));
    assert_eq!(placed_pins(&scratch), ["array_2", "placed"]);

    assert!(director.leave().expect("left"));
    assert!(!director.leave().expect("nothing to do"));
    assert_eq!((calls.at(2), calls.at(5)), (None, Some(other.info().expect("info").id)));
    assert_eq!(placed_pins(&scratch), Vec::<String>::new());
    director.enter(&calls.place(3)).expect("entered");
    director.remove().expect("removed");
    assert_eq!((calls.at(3), calls.at(5).is_some()), (None, true));
    assert_eq!(pins(&scratch.bpf()), ["somebodys"]);
}

#[test]
fn a_restart_exchanges_the_program_in_one_step() {
    let scratch = Scratch::new();
    let mut first = director(&scratch.state());
    serve(&first);
    let calls = calls(&scratch, "root");
    let old = first.enter(&calls.place(1)).expect("entered").id;
    drop(first);
    assert_eq!(calls.at(1), Some(old), "the program goes on");
    // Other sizes are refused while the root calls it.
    let larger = Options { sizes: Sizes { ring_slots: 2048, ..small().sizes }, ..small() };
    match Director::load_or_adopt(&scratch.state(), &larger).expect_err("in use") {
        Error::InUse { places, .. } => assert_eq!(places, ["position 1 of a program array"]),
        other => panic!("{other}"),
    }
    let mut second = director(&scratch.state());
    assert_eq!((second.start(), second.placed().expect("a lookup")), (Start::Adopted, Some(old)));
    let new = second.enter(&calls.place(1)).expect("exchanged").id;
    assert_ne!(new, old);
    assert_eq!(calls.at(1), Some(new));
    assert_eq!(calls.run(&vip_syn()).0, XDP_TX);
    drop(second);

    // An exchange that was cut short before the element changed, and one after it.
    let bpf = scratch.bpf();
    for in_force in ["placed", "placed_new"] {
        let third = director(&scratch.state());
        third.program().pin(&bpf.join("other")).expect("pinned");
        if in_force == "placed" {
            fs::rename(bpf.join("other"), bpf.join("placed_new")).expect("rename");
        } else {
            fs::rename(bpf.join("placed"), bpf.join("placed_new")).expect("rename");
            fs::rename(bpf.join("other"), bpf.join("placed")).expect("rename");
        }
        drop(third);
        let mut fourth = director(&scratch.state());
        assert!(fourth.placed().expect("a lookup").is_some(), "known for weir's own");
        let id = fourth.enter(&calls.place(1)).expect("exchanged").id;
        assert_eq!(calls.at(1), Some(id));
        assert_eq!(placed_pins(&scratch), ["array_1", "placed"]);
        assert_eq!(calls.run(&vip_syn()).0, XDP_TX);
    }
    // Another position: the old one is given up.
    let mut last = director(&scratch.state());
    last.enter(&calls.place(4)).expect("moved");
    assert_eq!((calls.at(1), calls.at(4).is_some()), (None, true));
    assert_eq!(placed_pins(&scratch), ["array_4", "placed"]);
    last.remove().expect("removed");
    assert_eq!(calls.at(4), None);
}

#[test]
fn what_is_no_place_is_refused_with_nothing_changed() {
    let scratch = Scratch::new();
    let mut director = director(&scratch.state());
    let calls = calls(&scratch, "root");
    let held = director.enter(&calls.place(0)).expect("entered").id;
    let elsewhere = |array: &Path| Place { array: array.to_owned(), position: 1, next: None };
    refused(&mut director, &elsewhere(&scratch.bpf().join("nothing")), &["nothing is pinned"]);
    refused(&mut director, &elsewhere(&scratch.bpf().join("WEIR_RINGS")), &["map of type 2"]);
    refused(&mut director, &elsewhere(&scratch.bpf().join("director")), &["bpf-prog"]);
    refused(&mut director, &calls.place(8), &["no position 8, only 0 to 7"]);
    refused(&mut director, &Place { next: Some(9), ..calls.place(1) }, &["no position 9"]);
    let other = load("pass", &LoadOptions::default()).expect("load").program("pass").expect("program");
    let id = other.info().expect("info").id;
    calls.put(3, &other);
    refused(&mut director, &calls.place(3), &[&format!("id {id}, \"pass\""), "key 3 0 0 0"]);
    assert_eq!((calls.at(0), calls.at(3)), (Some(held), Some(id)), "every one stays where it is");
    director.check_place(&calls.place(0)).expect("all is well");

    // Another weir's is foreign, too.
    let second = Scratch::new();
    let mut other_director = crate::director(&second.state());
    refused(&mut other_director, &calls.place(0), &[&format!("id {held}, \"director\"")]);
    assert_eq!(placed_pins(&second), Vec::<String>::new());
}

#[test]
fn a_place_that_was_lost_is_noticed_and_left_to_its_new_owner() {
    let scratch = Scratch::new();
    let mut director = director(&scratch.state());
    let calls = calls(&scratch, "root");
    let place = calls.place(2);
    let lost = |director: &Director, word: &str| {
        let text = has_advice(&director.check_place(&place).expect_err("it is lost"));
        assert!(text.contains(word), "{text}");
    };
    lost(&director, "not in it");
    director.enter(&place).expect("entered");
    assert!(calls.array.delete(&2u32.to_ne_bytes()).expect("deleted"));
    lost(&director, "taken the director's program out");
    director.enter(&place).expect("entered again");
    let other = load("pass", &LoadOptions::default()).expect("load").program("pass").expect("program");
    let id = other.info().expect("info").id;
    calls.put(2, &other);
    lost(&director, &format!("id {id}"));
    assert!(!director.leave().expect("given up"));
    assert_eq!(calls.at(2), Some(id), "not weir's to take away");

    assert!(calls.array.delete(&2u32.to_ne_bytes()).expect("deleted"));
    director.enter(&place).expect("entered");
    fs::remove_file(&calls.pin).expect("removed");
    load("root", &LoadOptions::default())
        .and_then(|object| object.map("WEIR_ROOT")?.pin(&calls.pin))
        .expect("another array");
    lost(&director, "another array");
    director.remove().expect("removed");
    assert_eq!(calls.at(2), None, "taken out of the array it was put into");
}

#[test]
fn packets_that_are_passed_go_on_to_the_next_position() {
    for root in ["root", "root_frags"] {
        // Two directors in a row; only the second has a service at first.
        let (scratch, second_scratch) = (Scratch::new(), Scratch::new());
        let (mut first, mut second) = (director(&scratch.state()), director(&second_scratch.state()));
        serve(&second);
        let calls = calls(&scratch, root);
        let packets = |director: &Director| -> u64 {
            director.reasons().expect("counters").iter().map(|count| count.packets).sum()
        };
        let place = Place { next: Some(5), ..calls.place(2) };
        let info = first.enter(&place).expect("entered");
        assert_eq!(info.name, if root == "root" { "director_next" } else { "director_next_f" });
        assert_eq!(calls.run(&vip_syn()), (XDP_PASS, vip_syn()), "an empty position is as good as none");
        second.enter(&calls.place(5)).expect("entered");
        let (verdict, packet) = calls.run(&vip_syn());
        assert_eq!((verdict, packet.len()), (XDP_TX, vip_syn().len() + 20));
        assert_eq!((packets(&first), packets(&second)), (2, 1), "both have seen it");
        // The first one's tables are those that are filled from here.
        serve(&first);
        assert_eq!(calls.run(&vip_syn()).0, XDP_TX);
        assert_eq!((packets(&first), packets(&second)), (3, 1), "a packet that is taken does not go on");
        first.enter(&calls.place(2)).expect("exchanged");
        assert_eq!(calls.run(&arp()).0, XDP_PASS);
        assert_eq!((packets(&first), packets(&second)), (4, 1), "packets do not go on any more");
    }
}

#[test]
fn the_director_is_of_the_roots_kind_or_says_why_not() {
    let scratch = Scratch::new();
    let mut director = director(&scratch.state());
    serve(&director);
    let frags = calls(&scratch, "root_frags");
    assert_eq!(director.enter(&frags.place(0)).expect("entered").name, "director_frags");
    assert_eq!(frags.run(&vip_syn()).0, XDP_TX);
    director.leave().expect("left");
    // An array of tc programs.
    let pin = scratch.bpf().join("tcs");
    let object = load("root", &LoadOptions::default()).expect("load");
    let tcs = object.map("WEIR_ROOT").expect("map");
    let tc = load("agent", &LoadOptions::default()).expect("load").program("clamp_mss").expect("program");
    let tcs = Calls { root: tc, array: tcs, pin: pin.clone() };
    tcs.array.pin(&pin).expect("pinned");
    tcs.put(0, &tcs.root);
    refused(&mut director, &tcs.place(1), &["type 3", "XDP root"]);
    refused(&mut director, &Place { next: Some(2), ..tcs.place(1) }, &["type 3", "XDP root"]);
    assert_eq!((tcs.at(1), placed_pins(&scratch)), (None, Vec::new()));
}

#[test]
fn a_root_of_weirs_own_serves_several_interfaces_and_goes() {
    let scratch = Scratch::new();
    in_netns(|rtnl| {
        let state = scratch.state();
        let dir = state.bpf().join("root");
        let root = Root::at(&dir);
        let (index, _) = veth(rtnl, "v0.7", 1500);
        let attached = root.attach(index, XdpRequest::Auto).expect("attached");
        assert_eq!((attached.mode, attached.frags), (XdpMode::Native, false));
        let attached = root.attach(LO, XdpRequest::Auto).expect("attached");
        assert_eq!(attached.mode, XdpMode::Generic);
        for ifindex in [index, LO] {
            assert_eq!(query(ifindex).expect("query").expect("there").program_name, "root");
        }
        let mut director = director(&state);
        director.enter(&Place { array: root.array(), position: 7, next: None }).expect("entered");
        let text = has_advice(&director.attach(index, XdpRequest::Auto).expect_err("the root is there"));
        assert!(text.contains("\"root\""), "{text}");
        director.remove().expect("removed");
        root.remove().expect("removed");
        assert_eq!((query(index).expect("query"), query(LO).expect("query")), (None, None));
        assert!(!dir.exists());

        let text = has_advice(
            &Root::at(&scratch.0.join("root")).attach(LO, XdpRequest::Auto).expect_err("no bpffs"),
        );
        assert!(text.contains("not in a BPF file system"), "{text}");
        let (large, _) = veth(rtnl, "v1", 9000);
        let root = Root::at(&dir);
        assert!(root.attach(4242, XdpRequest::Auto).is_err());
        assert!(!dir.exists(), "nothing is left of a refusal");
        let attached = root.attach(large, XdpRequest::Auto).expect("attached");
        assert_eq!((attached.mode, attached.frags), (XdpMode::Native, true));
        root.remove().expect("removed");
    });
}
