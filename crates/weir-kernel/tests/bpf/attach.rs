//! Attaching: modes, refusals, exchanges.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use weir_kernel::bpf::{Error, LoadOptions, XdpMode, XdpRequest, attach_pass, load, query};

use crate::{LO, Scratch, director, has_advice, in_netns, pins, veth};

#[test]
fn native_attaches_to_a_veth_and_detaches() {
    let scratch = Scratch::new();
    in_netns(|rtnl| {
        let (index, _) = veth(rtnl, "v0.7", 1500);
        let mut director = director(&scratch.state());
        let attached = director.attach(index, XdpRequest::Auto).expect("veth has native XDP");
        assert_eq!((attached.mode, attached.fell_back), (XdpMode::Native, None));
        let there = query(index).expect("query").expect("attached");
        let id = director.program_info().expect("info").id;
        assert_eq!((there.mode, there.program_id), (Some(XdpMode::Native), id));
        assert_eq!(there.program_name, "director");
        let links = director.attached().expect("links");
        assert_eq!(links.len(), 1);
        assert_eq!((links[0].interface.as_str(), links[0].ifindex, links[0].program_id), ("v0.7", index, id));
        assert!(director.detach("v0.7").expect("detached"));
        assert!(!director.detach("v0.7").expect("nothing to do"));
        assert_eq!(query(index).expect("query"), None);
        assert!(!pins(&scratch.bpf()).iter().any(|pin| pin.starts_with("link_")));
    });
}

#[test]
fn auto_falls_back_with_the_reason_and_native_is_refused_with_it() {
    let scratch = Scratch::new();
    in_netns(|_| {
        let mut director = director(&scratch.state());
        let error = director.attach(LO, XdpRequest::Native).expect_err("the loopback has no driver");
        let text = has_advice(&error);
        assert!(text.contains("lo") && text.contains("native") && text.contains("generic"), "{text}");
        assert_eq!(query(LO).expect("query"), None, "asking for the reason left nothing");
        let attached = director.attach(LO, XdpRequest::Auto).expect("generic works everywhere");
        assert_eq!(attached.mode, XdpMode::Generic);
        let why = attached.fell_back.expect("a reason");
        assert!(why.contains("driver"), "{why}");
        // The kernel's own sentence (it has said one since 5.8).
        assert!(why.contains('"'), "{why}");
        director.detach_all().expect("detached");
        let attached = director.attach(LO, XdpRequest::Generic).expect("generic");
        assert_eq!((attached.mode, attached.fell_back), (XdpMode::Generic, None));
        assert_eq!(query(LO).expect("query").expect("there").mode, Some(XdpMode::Generic));
    });
}

#[test]
fn a_large_mtu_is_named_as_the_reason() {
    in_netns(|rtnl| {
        let (index, _) = veth(rtnl, "v0", 9000);
        let pass = load("pass", &LoadOptions::default()).expect("load").program("pass").expect("program");
        let error = pass.attach_xdp(index, XdpRequest::Native, None).expect_err("too large without frags");
        let text = has_advice(&error);
        assert!(text.contains("MTU"), "{text}");
        let (link, attached) = pass.attach_xdp(index, XdpRequest::Auto, None).expect("generic does not mind");
        assert_eq!(attached.mode, XdpMode::Generic);
        assert!(attached.fell_back.is_some_and(|why| why.contains("MTU")));
        drop(link);
        assert_eq!(query(index).expect("query"), None, "an unpinned link goes with its holder");
    });
}

#[test]
fn the_director_attaches_natively_beyond_one_buffer() {
    let scratch = Scratch::new();
    in_netns(|rtnl| {
        let (index, peer) = veth(rtnl, "v0", 9000);
        let mut director = director(&scratch.state());
        for request in [XdpRequest::Auto, XdpRequest::Native, XdpRequest::Auto] {
            let attached = director.attach(index, request).expect("frags programs do not mind");
            assert_eq!((attached.mode, attached.frags, attached.fell_back), (XdpMode::Native, true, None));
            assert_eq!(query(index).expect("query").expect("there").program_name, "director_frags");
        }
        attach_pass(peer, None).expect("so does the peer's");
        director.detach_all().expect("detached");
        let attached = director.attach(index, XdpRequest::Generic).expect("generic takes either");
        assert_eq!((attached.mode, attached.frags), (XdpMode::Generic, false));
        // Kept, rather than taken off to try native.
        let attached = director.attach(index, XdpRequest::Auto).expect("kept");
        assert_eq!(attached.mode, XdpMode::Generic);
        let attached = director.attach(index, XdpRequest::Native).expect("asked for");
        assert_eq!((attached.mode, attached.frags), (XdpMode::Native, true));
        director.detach_all().expect("detached");
    });
}

#[test]
fn another_program_is_named_and_left_alone() {
    let scratch = Scratch::new();
    in_netns(|rtnl| {
        let (index, _) = veth(rtnl, "v0", 1500);
        let other = attach_pass(index, None).expect("pass attaches");
        let id = other.info().expect("info").program_id;
        let mut director = director(&scratch.state());
        for request in [XdpRequest::Auto, XdpRequest::Native, XdpRequest::Generic] {
            let text = has_advice(&director.attach(index, request).expect_err("it is taken"));
            assert!(text.contains(&format!("id {id}, \"pass\"")), "{text}");
        }
        assert_eq!(query(index).expect("query").expect("there").program_id, id);
    });
}

#[test]
fn an_unknown_interface_is_an_error() {
    let scratch = Scratch::new();
    in_netns(|_| {
        let mut director = director(&scratch.state());
        let error = director.attach(4242, XdpRequest::Auto).expect_err("no such interface");
        assert!(matches!(error, Error::NoInterface { .. }), "{error}");
        assert!(matches!(query(4242).expect_err("no such interface"), Error::NoInterface { .. }));
        has_advice(&error);
        let error = attach_pass(4242, None).expect_err("no such interface");
        assert!(matches!(error, Error::NoInterface { .. }), "{error}");
    });
}

#[test]
fn restarts_exchange_the_program_without_a_gap() {
    let scratch = Scratch::new();
    in_netns(|rtnl| {
        let (index, _) = veth(rtnl, "v0", 1500);
        let mut first = director(&scratch.state());
        first.attach(index, XdpRequest::Native).expect("attached");
        let pin = scratch.bpf().join("link_v0");
        let link = weir_kernel::bpf::Link::open(&pin).expect("pinned").info().expect("info").id;
        let mut program = first.program_info().expect("info").id;
        drop(first);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // A thread started here is in this namespace.
            let watch = scope.spawn(|| {
                let mut seen = 0u32;
                while !stop.load(Relaxed) {
                    assert!(query(index).expect("query").is_some(), "a gap after {seen} looks");
                    seen += 1;
                }
                seen
            });
            for _ in 0..10 {
                let mut next = director(&scratch.state());
                assert_eq!(next.attached().expect("links")[0].program_id, program, "the old one until then");
                let attached = next.attach(index, XdpRequest::Auto).expect("exchanged");
                assert_eq!((attached.mode, attached.fell_back), (XdpMode::Native, None));
                let info = weir_kernel::bpf::Link::open(&pin).expect("pinned").info().expect("info");
                assert_eq!(info.id, link, "the same link");
                assert_ne!(info.program_id, program, "another program");
                program = info.program_id;
            }
            stop.store(true, Relaxed);
            assert!(watch.join().expect("no gap") > 10);
        });
        // Another mode needs another link.
        let mut last = director(&scratch.state());
        assert_eq!(last.attach(index, XdpRequest::Generic).expect("replaced").mode, XdpMode::Generic);
        assert_eq!(query(index).expect("query").expect("there").mode, Some(XdpMode::Generic));
        last.remove().expect("removed");
    });
}

#[test]
fn links_follow_a_renamed_interface_and_forget_a_removed_one() {
    let scratch = Scratch::new();
    in_netns(|rtnl| {
        let (index, peer) = veth(rtnl, "v0", 1500);
        let mut director = director(&scratch.state());
        director.attach(index, XdpRequest::Auto).expect("attached");
        rtnl.set_down(index).expect("down");
        rtnl.rename(index, "other").expect("renamed");
        director.attach(index, XdpRequest::Auto).expect("attached again");
        assert!(pins(&scratch.bpf()).contains(&"link_other".to_owned()));
        assert!(!pins(&scratch.bpf()).contains(&"link_v0".to_owned()));
        rtnl.delete_link(index).expect("deleted");
        assert_eq!(director.attached().expect("links")[0].ifindex, 0);
        assert!(rtnl.link_by_index(peer).is_err());
        drop(director);
        let mut director = crate::director(&scratch.state());
        assert_eq!(director.attached().expect("links"), []);
        let (index, _) = veth(rtnl, "other", 1500);
        director.attach(index, XdpRequest::Auto).expect("the stale pin is not in the way");
        director.remove().expect("removed");
    });
    assert_eq!(pins(&scratch.bpf()), Vec::<String>::new());
}
