//! The agent in network namespaces of its own: what it changes, undoes and leaves alone.
//!
//! Privileged: without root these tests fail; `cargo xtask test` runs them with what they need.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser as _;
use weir_kernel::bpf::{StateDir, attach_pass, query};
use weir_kernel::net::{
    Address, NeighbourState, Netns, NewAddress, NewRoute, Prefix, Rtnl, Scope, Sysctl, TABLE_LOCAL, VethEnd,
};

use super::check::deviations;
use super::host::Host;
use super::journal::Journal;
use super::step::Step;
use super::tables::Tables;
use super::{RealArgs, run};

mod unwrapping;

const VIP4: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    real: RealArgs,
}

/// A real server with `eth0` and `eth1`, and a host at the other end of both.
struct World {
    peer: Netns,
    real: Netns,
    names: [String; 2],
    state: PathBuf,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

impl World {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let names = [format!("weir-real-p{id}"), format!("weir-real-r{id}")];
        let create = |name: &String| Netns::create(name).expect("making a network namespace needs root");
        let (peer, real) = (create(&names[0]), create(&names[1]));
        let world = Self { peer, real, names, state: std::env::temp_dir().join(format!("weir-real-{id}")) };
        for netns in [&world.peer, &world.real] {
            let quiet = |key: [&str; 4], value: &str| Sysctl::new(&key).unwrap().set(value).unwrap();
            netns
                .run_in(|| {
                    // No address that comes by itself and later, so that two snapshots can be compared.
                    quiet(["ipv6", "conf", "default", "accept_dad"], "0");
                    quiet(["ipv6", "conf", "default", "addr_gen_mode"], "1");
                    let rtnl = Rtnl::open().unwrap();
                    rtnl.set_up(rtnl.link_by_name("lo").unwrap().index).unwrap();
                })
                .unwrap();
        }
        let rtnl = Rtnl::open_in(&world.real).unwrap();
        let peer = Rtnl::open_in(&world.peer).unwrap();
        for (at, network) in [(0u8, "10.77.0"), (1, "10.77.1")] {
            let (near, far) = (format!("eth{at}"), format!("far{at}"));
            let end = VethEnd::new(&far).in_netns(std::os::fd::AsFd::as_fd(&world.peer));
            rtnl.create_veth(VethEnd::new(&near), end).unwrap();
            for (side, name, host) in [(&rtnl, &near, 11), (&peer, &far, 1)] {
                let index = side.link_by_name(name).unwrap().index;
                side.set_up(index).unwrap();
                side.add_address(&NewAddress::new(index, ip(&format!("{network}.{host}")), 24)).unwrap();
                // Neighbour solicitations need a link-local address.
                for six in [format!("2001:db8:77:{at}::{host}"), format!("fe80::{host}")] {
                    side.add_address(&NewAddress::new(index, ip(&six), 64).nodad()).unwrap();
                }
            }
        }
        rtnl.add_route(&NewRoute::new(prefix("0.0.0.0/0")).via(ip("10.77.0.1"))).unwrap();
        wait_for_local_routes(&rtnl);
        world
    }

    /// Runs `weir real …` on the real server.
    fn weir(&self, words: &str) -> anyhow::Result<ExitCode> {
        let state = self.state.to_str().unwrap();
        let line = ["weir"].into_iter().chain(words.split_whitespace()).chain(["--state-dir", state]);
        let line = Line::try_parse_from(line).unwrap();
        self.on_real(|| run(line.real))
    }

    fn up(&self, more: &str) -> anyhow::Result<ExitCode> {
        self.weir(&format!("up --vip {VIP4} --vip {VIP6} --from 10.77.0.1 --from 2001:db8:77::/64 {more}"))
    }

    fn down(&self) {
        assert_eq!(self.weir("down").unwrap(), ExitCode::SUCCESS);
        assert!(!self.state.exists(), "the state directory stays");
    }

    fn on_real<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.real.run_in(work).unwrap()
    }

    fn snapshot(&self) -> BTreeMap<String, String> {
        self.on_real(snapshot)
    }

    fn problems(&self) -> Vec<String> {
        self.on_real(|| {
            let journal = Journal::read(&self.state).unwrap().unwrap();
            let tables = Tables::open(&self.state.join("bpf")).unwrap();
            let setup = journal.setup().unwrap();
            deviations(&Host::survey().unwrap(), &journal, setup, Some(&tables)).unwrap()
        })
    }

    fn mode(&self, interface: &str) -> String {
        self.on_real(|| {
            let journal = Journal::read(&self.state).unwrap().unwrap();
            let setup = journal.setup().unwrap();
            setup.unwrapping.iter().find(|done| done.interface == interface).unwrap().mode.clone()
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Ok(state) = StateDir::open(&self.state) {
            let _ = fs::remove_file(self.state.join("undo.json"));
            let _ = state.remove();
        }
        for name in &self.names {
            let _ = Netns::delete(name);
        }
    }
}

/// IPv6 addresses get their routes a little later than themselves.
fn wait_for_local_routes(rtnl: &Rtnl) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let routes = rtnl.routes(Some(TABLE_LOCAL)).unwrap();
        let has_route = |held: &Address| {
            routes.iter().any(|route| route.dst == Prefix::host(held.ip) && route.oif == Some(held.ifindex))
        };
        if rtnl.addresses(None).unwrap().iter().all(|held| !held.tentative && has_route(held)) {
            return;
        }
        assert!(Instant::now() < deadline, "addresses without routes: {routes:?}");
        sleep(Duration::from_millis(10));
    }
}

/// Everything `up` could have changed: links, addresses, routes, sysctls, XDP programs.
fn snapshot() -> BTreeMap<String, String> {
    let rtnl = Rtnl::open().unwrap();
    let mut found = BTreeMap::new();
    for link in rtnl.links().unwrap() {
        found.insert(format!("xdp {}", link.name), format!("{:?}", query(link.index).unwrap()));
        found.insert(format!("link {}", link.name), format!("{link:?}"));
    }
    for address in rtnl.addresses(None).unwrap() {
        found.insert(format!("address {}", address.ip), format!("{address:?}"));
    }
    for route in rtnl.routes(None).unwrap() {
        found.insert(format!("{route:?}"), "a route".to_owned());
    }
    for family in ["ipv4", "ipv6"] {
        let root = format!("/proc/sys/net/{family}/conf");
        for link in fs::read_dir(root).unwrap() {
            for file in fs::read_dir(link.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                // A secret that must not be read is no part of this.
                if let Ok(value) = fs::read_to_string(&path) {
                    found.insert(path.display().to_string(), value);
                }
            }
        }
    }
    found
}

fn assert_same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    for key in before.keys().chain(after.keys()) {
        assert_eq!(before.get(key), after.get(key), "{key}");
    }
}

fn sysctl(link: &str, name: &str) -> String {
    Sysctl::ipv4_conf(link, name).unwrap().read().unwrap()
}

fn set(link: &str, name: &str, value: &str) {
    Sysctl::ipv4_conf(link, name).unwrap().set(value).unwrap();
}

#[test]
fn down_leaves_the_machine_as_up_found_it() {
    let world = World::new();
    world.on_real(|| set("all", "rp_filter", "1"));
    let before = world.snapshot();
    for (mode, expected) in [("auto", "native"), ("native", "native"), ("generic", "generic"), ("tc", "tc")] {
        assert_eq!(world.up(&format!("--xdp-mode {mode}")).unwrap(), ExitCode::SUCCESS);
        assert_eq!(world.mode("eth0"), expected);
        assert_eq!(world.problems(), Vec::<String>::new());
        assert_eq!(world.weir("status").unwrap(), ExitCode::SUCCESS);
        world.on_real(|| {
            assert_eq!(
                (sysctl("all", "arp_ignore"), sysctl("all", "arp_announce")),
                ("1".into(), "2".into())
            );
            // The strict filter of `all` is overruled where it would drop, and nowhere else.
            assert_eq!((sysctl("eth0", "rp_filter"), sysctl("all", "rp_filter")), ("2".into(), "1".into()));
        });
        world.down();
        assert_same(&before, &world.snapshot());
        assert_eq!(world.weir("status").unwrap(), ExitCode::from(3));
        assert_eq!(world.weir("down").unwrap(), ExitCode::SUCCESS);
    }
}

#[test]
fn whatever_up_was_doing_when_it_was_killed_can_be_undone_and_be_done_again() {
    let world = World::new();
    world.on_real(|| set("eth0", "rp_filter", "1"));
    let before = world.snapshot();
    world.up("").unwrap();
    let record = world.state.join("undo.json");
    let whole: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    world.down();
    let steps: Vec<Step> = serde_json::from_value(whole["steps"].clone()).unwrap();
    assert!(steps.len() >= 6, "{steps:?}");
    for noted in 1..=steps.len() {
        for again in [false, true] {
            world.up("").unwrap();
            // As if it had been killed between noting a step and making it: what comes later never happened.
            world.on_real(|| {
                let rtnl = Rtnl::open().unwrap();
                steps[noted - 1..].iter().rev().for_each(|step| drop(step.undo(&rtnl).unwrap()));
            });
            let mut cut = whole.clone();
            cut["steps"].as_array_mut().unwrap().truncate(noted);
            cut["setup"] = serde_json::Value::Null;
            fs::write(&record, cut.to_string()).unwrap();
            assert_eq!(world.weir("status").unwrap(), ExitCode::from(1), "after {noted} steps");
            if again {
                world.up("").unwrap();
                assert_eq!(world.problems(), Vec::<String>::new(), "after {noted} steps");
            }
            world.down();
            assert_same(&before, &world.snapshot());
        }
    }
    // Killed before the first step: a state directory and nothing in it.
    world.on_real(|| drop(StateDir::open(&world.state).unwrap()));
    world.down();
    assert_same(&before, &world.snapshot());
}

#[test]
fn a_failed_up_changes_nothing() {
    let world = World::new();
    // Another's XDP program is in the way, which shows only after everything else was done.
    let other = world.on_real(|| {
        let index = Rtnl::open().unwrap().link_by_name("eth0").unwrap().index;
        attach_pass(index, None).unwrap()
    });
    let before = world.snapshot();
    let error = world.up("--xdp-mode native").unwrap_err();
    assert!(error.to_string().contains("another XDP program"), "{error:#}");
    assert!(!world.state.exists());
    assert_same(&before, &world.snapshot());
    // `auto` takes what is left, and says why.
    world.up("").unwrap();
    assert_eq!(world.mode("eth0"), "tc");
    // A failed change leaves what was there.
    let during = world.snapshot();
    let error = world.weir("up --vip 192.0.2.99 --from 10.77.0.1 --xdp-mode native").unwrap_err();
    assert!(error.to_string().contains("another XDP program"), "{error:#}");
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_same(&during, &world.snapshot());
    world.down();
    assert_same(&before, &world.snapshot());
    drop(other);
}

#[test]
fn up_again_makes_it_what_is_asked_for_now() {
    let world = World::new();
    let before = world.snapshot();
    world.up("").unwrap();
    world.weir("up --vip 192.0.2.11 --from 10.77.1.1 --xdp-mode generic").unwrap();
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(world.mode("eth1"), "generic");
    world.on_real(|| {
        let host = Host::survey().unwrap();
        let held: Vec<IpAddr> = host.addresses.iter().map(|address| address.ip).collect();
        assert!(held.contains(&ip("192.0.2.11")) && !held.contains(&ip(VIP4)) && !held.contains(&ip(VIP6)));
        let xdp = |name: &str| query(host.interface(name).unwrap().index).unwrap();
        assert!(xdp("eth0").is_none() && xdp("eth1").is_some());
    });
    world.up("").unwrap();
    assert_eq!(world.problems(), Vec::<String>::new());
    world.down();
    assert_same(&before, &world.snapshot());
}

#[test]
fn down_leaves_what_others_did() {
    let world = World::new();
    world.on_real(|| {
        let rtnl = Rtnl::open().unwrap();
        let lo = rtnl.link_by_name("lo").unwrap().index;
        rtnl.add_address(&NewAddress::new(lo, ip(VIP4), 32).scope(Scope::Global)).unwrap();
        set("all", "arp_announce", "2");
    });
    world.up("").unwrap();
    world.on_real(|| set("all", "arp_ignore", "8"));
    assert_eq!(world.problems(), ["net.ipv4.conf.all.arp_ignore is 8 and should be 1."]);
    world.down();
    world.on_real(|| {
        assert_eq!(sysctl("all", "arp_ignore"), "8", "someone else's value");
        assert_eq!(sysctl("all", "arp_announce"), "2", "the value before");
        let host = Host::survey().unwrap();
        let held = |vip: &str| host.addresses.iter().any(|address| address.ip == ip(vip));
        assert!(held(VIP4) && !held(VIP6), "the address that was there stays, the other one goes");
    });
}

#[test]
fn status_names_each_deviation() {
    let world = World::new();
    world.up("").unwrap();
    let expect = |words: &str| {
        let problems = world.problems();
        assert!(problems.iter().any(|problem| problem.contains(words)), "{words}: {problems:?}");
        assert_eq!(world.weir("status -o json").unwrap(), ExitCode::from(1));
    };
    let rtnl = || Rtnl::open().unwrap();
    world.on_real(|| {
        let lo = rtnl().link_by_name("lo").unwrap().index;
        rtnl().del_address(lo, ip(VIP4), 32).unwrap();
    });
    expect("The VIP 192.0.2.10 is not on lo any more");
    world.on_real(|| set("all", "arp_ignore", "0"));
    expect("net.ipv4.conf.all.arp_ignore is 0 and should be 1");
    world.on_real(|| rtnl().set_mtu(rtnl().link_by_name("eth0").unwrap().index, 1400).unwrap());
    expect("The MTU is 1400 now and was 1500");
    world.on_real(|| {
        let index = rtnl().link_by_name("eth0").unwrap().index;
        rtnl().del_address(index, ip("10.77.0.11"), 24).unwrap();
    });
    expect("10.77.0.11 is no address of this machine any more");
    fs::remove_file(world.state.join("bpf").join(unwrapping_pin(&world.state))).unwrap();
    expect("packets are not unwrapped any more");
    // Everything is mended by another `up` (the deleted address is the operator's own).
    world.up("--interface eth0").unwrap();
    assert_eq!(world.problems(), Vec::<String>::new());
    world.down();
}

fn unwrapping_pin(state: &Path) -> String {
    let names = fs::read_dir(state.join("bpf")).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.find(|name| name.starts_with("unwrap-")).unwrap()
}

/// Whether `asker` gets an answer from its link `far0` for an address.
fn is_answered(asker: &Netns, address: &str) -> bool {
    let rtnl = Rtnl::open_in(asker).unwrap();
    let index = rtnl.link_by_name("far0").unwrap().index;
    let _ = rtnl.del_neighbour(index, ip(address));
    rtnl.resolve_neighbour(index, ip(address)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(8);
    loop {
        let state = rtnl.neighbour(index, ip(address)).unwrap().map(|found| found.state);
        match state {
            Some(NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay) => return true,
            Some(NeighbourState::Failed) => return false,
            _ => assert!(Instant::now() < deadline, "no end to {state:?}"),
        }
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn nobody_in_the_subnet_gets_an_answer_for_a_vip() {
    let world = World::new();
    let (vip4, vip6) = ("10.77.0.33", "2001:db8:77:0::33");
    world.on_real(|| {
        let rtnl = Rtnl::open().unwrap();
        let lo = rtnl.link_by_name("lo").unwrap().index;
        rtnl.add_address(&NewAddress::new(lo, ip(vip4), 32)).unwrap();
    });
    // Linux as it is answers ARP for addresses of any interface: without the agent's sysctls the question is answered.
    assert!(is_answered(&world.peer, vip4), "the test would not notice an answer");
    world.weir(&format!("up --vip {vip4} --vip {vip6} --from 10.77.0.1")).unwrap();
    for own in ["10.77.0.11", "2001:db8:77:0::11"] {
        assert!(is_answered(&world.peer, own), "{own} is not answered for");
    }
    assert!(!is_answered(&world.peer, vip4), "the real server answers ARP for the VIP");
    assert!(!is_answered(&world.peer, vip6), "the real server answers neighbour solicitations for the VIP");
    world.down();
}

#[test]
fn a_real_server_elsewhere_is_left_alone() {
    let world = World::new();
    world.up("").unwrap();
    let state = world.state.to_str().unwrap();
    for words in ["down", "status", "up --vip 192.0.2.1 --from 10.77.0.1"] {
        let line = ["weir"].into_iter().chain(words.split_whitespace()).chain(["--state-dir", state]);
        let line = Line::try_parse_from(line).unwrap();
        let error = world.peer.run_in(|| run(line.real)).unwrap().unwrap_err();
        assert!(error.to_string().contains("another network namespace"), "{error:#}");
    }
    assert_eq!(world.problems(), Vec::<String>::new());
    world.down();
}

#[test]
fn bad_arguments_are_refused_with_advice_and_leave_nothing() {
    let world = World::new();
    let before = world.snapshot();
    for (words, cause, advice) in [
        ("up --vip 127.0.0.1 --from 10.77.0.1", "127.0.0.1 cannot be a VIP", "give --vip"),
        ("up --vip 224.0.0.1 --from 10.77.0.1", "224.0.0.1 cannot be a VIP", "give --vip"),
        ("up --vip 10.77.0.11 --from 10.77.0.1", "is an address of eth0 already", "ip address del"),
        ("up --vip 192.0.2.1 --from 10.77.0.1 --interface eht0", "no interface eht0", "lo, eth0, eth1"),
        ("up --vip 192.0.2.1 --from 10.77.0.1 --interface lo0", "no interface lo0", "lo, eth0, eth1"),
        (
            "up --vip 192.0.2.1 --from 10.77.0.1 --vip-device eth1",
            "eth1 cannot hold the VIPs",
            "--vip-device lo",
        ),
        ("up --vip 192.0.2.1 --from 10.77.0.1 --vip-device d/0", "\"d/0\" cannot be used", "--vip-device lo"),
        ("up --vip 2001:db8::1 --from 2001:db8:99::1", "no interface has a route", "--interface"),
        ("up --vip 192.0.2.1", "--decap bpf needs --from", "directors send from"),
        ("up --vip 192.0.2.1 --decap none", "--decap none needs --interface", "arrive on"),
        ("up --vip 192.0.2.1 --decap none --interface eth9", "no interface eth9", "lo, eth0, eth1"),
        (
            "up --vip 192.0.2.1 --decap none --interface eth0 --from ::/0",
            "--from has no effect",
            "leave it out",
        ),
        (
            "up --vip 192.0.2.1 --decap none --interface eth0 --gue-port 1",
            "--gue-port has no effect",
            "leave it out",
        ),
        (
            "up --vip 192.0.2.1 --from 10.77.0.1 --decap kernel --gue-port 6080",
            "--gue-port has no effect",
            "--decap bpf",
        ),
        (
            "up --vip 192.0.2.1 --from 10.77.0.1 --decap kernel --xdp-mode tc",
            "--xdp-mode has no effect",
            "--decap bpf",
        ),
        ("up --vip 2001:db8::1 --from 10.77.0.1 --decap kernel", "cannot take 2001:db8::1", "--decap bpf"),
    ] {
        let error = world.weir(words).unwrap_err();
        assert!(error.to_string().contains(cause), "{words}: {error:#}");
        let found = crate::advice::advice_of(&error).unwrap_or_default();
        assert!(found.contains(advice), "{words}: {found}");
        assert!(!world.state.exists(), "{words}");
    }
    assert_same(&before, &world.snapshot());
}
