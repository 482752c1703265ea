//! `weir real up`: making a machine a real server.
//!
//! Owns: the order in which things happen, taking everything back when one of them fails, and what is said about it.
//! Invariant: after a failure the machine is as it was before the command, but for changes of an earlier `up`.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use weir_kernel::bpf::StateDir;
use weir_kernel::net::{Link, Prefix};

use super::host::Host;
use super::journal::{Journal, Setup, Unwrapping};
use super::plan::{self, Wanted};
use super::request::Request;
use super::step::{Hook, Step};
use super::tables::{self, Knowledge, Tables};
use super::{Decap, UpArgs, attach, kernel};
use crate::advice;

/// Sets up, or changes what is set up to the new arguments.
pub(super) fn run(args: &UpArgs) -> anyhow::Result<ExitCode> {
    let request = Request::new(args)?;
    let dir = &args.state.state_dir;
    // Refuses a record that is not ours to touch, before anything is made.
    Journal::read(dir)?;
    let mut host = Host::survey()?;
    request.validate(&host)?;
    if request.decap == Decap::Kernel {
        kernel::tunnels(&host.rtnl, &request.vips, &request.from)?;
        host = Host::survey()?;
    }
    let state = StateDir::open(dir)?;
    let mut journal = Journal::open(dir)?;
    let before = journal.steps().to_vec();
    match set_up(&request, &host, state.bpf(), &mut journal) {
        Ok(setup) => {
            let repeated = journal.setup().is_some();
            journal.achieved(setup.clone())?;
            tell(&setup, &request, repeated);
            if setup.decap != Decap::None {
                warn_about_mounts();
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let undone = journal.undo(&host.rtnl, |step| !before.contains(step)).map(drop);
            for outcome in [undone, teach_again(&journal, state.bpf())] {
                outcome.unwrap_or_else(|second| eprintln!("warning: {}", advice::cause_line(&second)));
            }
            if journal.steps().is_empty() {
                let cleaned = journal.remove().and_then(|()| Ok(state.remove()?));
                cleaned.unwrap_or_else(|second| eprintln!("warning: {}", advice::cause_line(&second)));
            }
            Err(error)
        }
    }
}

/// Gives the programs of an earlier `up` back what they knew.
fn teach_again(journal: &Journal, bpf: &Path) -> anyhow::Result<()> {
    let Some(setup) = journal.setup() else { return Ok(()) };
    if setup.decap == Decap::None {
        return tables::unpin(bpf);
    }
    let from = setup.networks();
    let mss = (setup.mss_v4, setup.mss_v6);
    let knowledge =
        Knowledge { vips: &setup.vips, own: &setup.own, from: &from, mss, gue_port: setup.gue_port };
    let maps = Tables::open(bpf)?;
    maps.teach(&knowledge)?;
    maps.forget_all_but(&knowledge)
}

fn set_up(request: &Request, host: &Host, bpf: &Path, journal: &mut Journal) -> anyhow::Result<Setup> {
    let arrivals = host.arrivals(&request.interfaces, &request.from)?;
    if request.decap == Decap::None {
        return without_programs(request, host, bpf, journal, &arrivals);
    }
    let own = host.own_addresses(&request.vips, journal);
    let mtu = arrivals.iter().map(|link| link.mtu).min().unwrap_or(0);
    let gue_port = request.gue_port;
    let mss = plan::segment_sizes(mtu, &request.from, gue_port != 0);
    let knowledge = Knowledge { vips: &request.vips, own: &own, from: &request.from, mss, gue_port };

    // Programs first without effect (no packet reaches them yet), so that one the kernel refuses changes nothing.
    let programs = tables::fingerprint()?;
    let fresh = tables::are_foreign(bpf) || journal.setup().is_none_or(|setup| setup.programs != programs);
    if tables::are_foreign(bpf) {
        journal.undo(&host.rtnl, |step| matches!(step, Step::Program { .. }))?;
        tables::unpin(bpf)?;
    }
    let mut loaded = tables::load_pinned(bpf)?;
    let maps = Tables::open(bpf)?;
    maps.teach(&knowledge)?;

    let tunnels = match request.decap {
        Decap::Kernel => kernel::tunnels(&host.rtnl, &request.vips, &request.from)?,
        Decap::Bpf | Decap::None => Vec::new(),
    };
    let tunnel_links: Vec<&Link> =
        host.links.iter().filter(|link| tunnels.iter().any(|tunnel| tunnel.device == link.name)).collect();
    let outlets = host.outlets(&arrivals);
    let wanted = Wanted {
        vips: &request.vips,
        vip_devices: request.vip_devices(),
        arrivals: if request.decap == Decap::Kernel { &tunnel_links } else { &outlets },
        tunnels: &tunnel_links,
    };
    let mut steps = plan::steps(&wanted, host, journal)?;
    make(&steps, host, journal)?;

    let mut clamping = arrivals.clone();
    clamping.extend(host.departures().into_iter().filter(|link| !arrivals.contains(link)));
    for link in &clamping {
        attach::clamping(journal, &mut loaded, bpf, link, fresh)?;
        steps.push(attach::step(bpf, link, Hook::Egress));
    }
    let mut unwrapping = Vec::new();
    for link in &arrivals {
        if request.decap == Decap::Kernel {
            let interface = link.name.clone();
            let mode = "kernel".to_owned();
            unwrapping.push(Unwrapping { interface, mode, frags: false, fell_back: None });
            continue;
        }
        let done = attach::unwrapping(journal, &host.rtnl, &mut loaded, bpf, link, request.mode, fresh)?;
        let hook = if done.mode == "tc" { Hook::Ingress } else { Hook::Xdp };
        steps.push(attach::step(bpf, link, hook));
        unwrapping.push(done);
    }
    if unwrapping.iter().any(|done| done.mode == "tc") {
        attach::check_family_change(&mut loaded, &request.vips, &own, &request.from)?;
        if journal.setup().is_none() {
            maps.reset_arriving()?;
        }
    }

    undo_all_but(&steps, host, journal)?;
    maps.forget_all_but(&knowledge)?;
    let has_no_pin = |step: &&Step| matches!(step, Step::Program { pin, .. } if !pin.exists());
    Ok(Setup {
        from: request.from.iter().map(ToString::to_string).collect(),
        vips: request.vips.clone(),
        decap: request.decap,
        unwrapping,
        clamping: clamping.iter().map(|link| link.name.clone()).collect(),
        mtu,
        mss_v4: mss.0,
        mss_v6: mss.1,
        gue_port,
        programs,
        tc_filters: journal.steps().iter().any(|step| has_no_pin(&step)),
        own,
    })
}

/// For packets that arrive as clients sent them: addresses and sysctls, and none of the programs of an earlier `up`.
fn without_programs(
    request: &Request,
    host: &Host,
    bpf: &Path,
    journal: &mut Journal,
    arrivals: &[&Link],
) -> anyhow::Result<Setup> {
    let outlets = host.outlets(arrivals);
    let wanted =
        Wanted { vips: &request.vips, vip_devices: request.vip_devices(), arrivals: &outlets, tunnels: &[] };
    let steps = plan::steps(&wanted, host, journal)?;
    make(&steps, host, journal)?;
    undo_all_but(&steps, host, journal)?;
    tables::unpin(bpf)?;
    let as_it_is = |link: &&Link| {
        let mode = "none".to_owned();
        Unwrapping { interface: link.name.clone(), mode, frags: false, fell_back: None }
    };
    Ok(Setup {
        from: Vec::new(),
        vips: request.vips.clone(),
        decap: request.decap,
        unwrapping: arrivals.iter().map(as_it_is).collect(),
        clamping: Vec::new(),
        mtu: 0,
        mss_v4: 0,
        mss_v6: 0,
        gue_port: 0,
        programs: 0,
        tc_filters: false,
        own: Vec::new(),
    })
}

fn make(steps: &[Step], host: &Host, journal: &mut Journal) -> anyhow::Result<()> {
    for step in steps {
        if !journal.has(step) {
            journal.note(step.clone())?;
        }
        step.make(&host.rtnl)?;
    }
    Ok(())
}

/// Everything wanted is in place; now what only an earlier `up` wanted goes.
fn undo_all_but(steps: &[Step], host: &Host, journal: &mut Journal) -> anyhow::Result<()> {
    for note in journal.undo(&host.rtnl, |step| !steps.iter().any(|wanted| wanted.same_thing(step)))? {
        println!("note: {note}");
    }
    Ok(())
}

fn tell(setup: &Setup, request: &Request, repeated: bool) {
    let join = |words: &mut dyn Iterator<Item = String>| words.collect::<Vec<_>>().join(", ");
    for done in &setup.unwrapping {
        let mode = match done.mode.as_str() {
            "none" => {
                println!("Taking packets on {} as clients sent them.", done.interface);
                continue;
            }
            "kernel" => "the kernel's tunnel devices".to_owned(),
            "tc" => "tc".to_owned(),
            xdp if done.frags => format!("{xdp} XDP, of packets in several buffers"),
            xdp => format!("{xdp} XDP"),
        };
        if let Some(why) = &done.fell_back {
            eprintln!(
                "warning: {}: unwrapping in {mode}, which is slower than native XDP: {why}",
                done.interface
            );
        }
        println!("Unwrapping on {} in {mode}, from {}.", done.interface, setup.from.join(", "));
    }
    if setup.gue_port != 0 {
        println!("Unwrapping GUE on UDP port {} as well.", setup.gue_port);
    }
    if request.from.iter().any(Prefix::is_empty) {
        eprintln!("warning: --from allows every address: anyone can send wrapped packets to the VIPs here");
    }
    if request.decap == Decap::Kernel {
        eprintln!("warning: the kernel's tunnel devices unwrap for any sender, not only for --from");
    }
    let devices = request.vip_devices();
    let device = |vip: &IpAddr| if vip.is_ipv4() { devices.0 } else { devices.1 };
    println!("Holding {}.", join(&mut setup.vips.iter().map(|vip| format!("{vip} on {}", device(vip)))));
    if !setup.clamping.is_empty() {
        println!(
            "Announcing TCP segments of at most {} bytes (IPv4) and {} bytes (IPv6) on {}, for an MTU of {}.",
            setup.mss_v4,
            setup.mss_v6,
            setup.clamping.join(", "),
            setup.mtu
        );
    }
    if repeated {
        println!("What was set up before was changed to this.");
    }
}

/// Pins end with the mount namespace their file system was mounted in, so one that an ancestor of this process does not
/// share is not to be trusted to last.
fn warn_about_mounts() {
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let mut pid = std::process::id();
    let own = namespace(pid);
    for _ in 0..MAX_ANCESTORS {
        match parent(pid) {
            Some(ancestor) if ancestor != 0 => pid = ancestor,
            _ => return,
        }
        // Those that may not be looked at say nothing.
        if namespace(pid).is_some_and(|other| Some(other) != own) {
            eprintln!(
                "warning: this command runs in a mount namespace of its own; when that ends, so does unwrapping. \
                 In place of `ip netns exec NAME` use `nsenter --net=/run/netns/NAME`"
            );
            return;
        }
    }
}

const MAX_ANCESTORS: u32 = 64;

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields 3 (state) and 4 (ppid) of proc_pid_stat(5) follow the name, which may hold anything but ends with `)`.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}
