//! tc programs: tcx links and clsact filters.

use weir_kernel::bpf::{Link, LoadOptions, Loaded, TcAttachment, TcDirection, TcMethod, detach_filter, load};

use crate::{Scratch, in_netns, veth};

const PROGRAM: &str = "clamp_mss";

fn agent() -> Loaded {
    load("agent", &LoadOptions::default()).expect("loaded")
}

#[test]
fn tcx_links_are_pinned_and_exchanged() {
    let scratch = Scratch::new();
    let state = scratch.state();
    in_netns(|rtnl| {
        let (index, _) = veth(rtnl, "v0", 1500);
        let pin = state.bpf().join("tcx_v0");
        let attach = || {
            let attached = agent().attach_tc(PROGRAM, index, TcDirection::Ingress, TcMethod::Tcx, Some(&pin));
            match attached.expect("attached") {
                TcAttachment::Tcx(link) => link.info().expect("info"),
                TcAttachment::Filter { .. } => panic!("tcx was asked for"),
            }
        };
        let first = attach();
        assert_eq!(first.ifindex, index);
        let second = attach();
        assert_eq!(second.id, first.id, "the same link");
        assert_ne!(second.program_id, first.program_id, "another program");
        Link::open(&pin).expect("it outlives its makers").detach().expect("detached");
        assert!(!pin.exists());
    });
}

#[test]
fn filters_are_found_by_name_and_taken_away() {
    in_netns(|rtnl| {
        let (index, _) = veth(rtnl, "v0", 1500);
        for direction in [TcDirection::Ingress, TcDirection::Egress] {
            assert!(!detach_filter(index, direction, PROGRAM).expect("nothing there yet"));
            for _ in 0..2 {
                let attached = agent().attach_tc(PROGRAM, index, direction, TcMethod::Filter, None);
                assert!(matches!(attached.expect("attached"), TcAttachment::Filter { .. }));
            }
            assert!(detach_filter(index, direction, PROGRAM).expect("it outlived its maker"));
            assert!(!detach_filter(index, direction, PROGRAM).expect("there was one only"));
        }
    });
}

#[test]
fn auto_attaches_one_way_or_the_other() {
    in_netns(|rtnl| {
        let (index, _) = veth(rtnl, "v0", 1500);
        let attached = agent().attach_tc(PROGRAM, index, TcDirection::Egress, TcMethod::Auto, None);
        attached.expect("attached").detach().expect("detached");
        let missing = agent().attach_tc(PROGRAM, 4242, TcDirection::Egress, TcMethod::Auto, None);
        crate::has_advice(&missing.expect_err("no such interface"));
        let xdp = load("pass", &LoadOptions::default()).expect("loaded").attach_tc(
            "pass",
            index,
            TcDirection::Egress,
            TcMethod::Auto,
            None,
        );
        assert!(xdp.is_err(), "an XDP program is no tc program");
    });
}
