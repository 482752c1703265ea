//! `weir lab up`: the order in which a lab is made, and what is done about one that is there already.
//!
//! Invariant: the record is written first and marked complete last, so that a lab that was not finished is known to be
//! so.

use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use super::layout::{Layout, REAL_SERVERS, config};
use super::state::{Lock, Name, Record, create_dir, write_whole};
use super::{UpArgs, director, process, real_server, status, take_down, wiring};
use crate::advice::Advise as _;

/// Makes a lab; one that is up already is left as it is, a damaged one repaired.
pub(super) fn up(args: &UpArgs) -> anyhow::Result<ExitCode> {
    let lab = &args.lab.name;
    let lock = Lock::take()?;
    let wanted = Record {
        topology: args.topology,
        xdp_mode: args.xdp_mode,
        mtu: args.mtu,
        director: !args.no_director,
        agents: !args.no_agents,
        complete: true,
    };
    let layout = Layout::new(args.topology);
    match Record::read(lab) {
        Some(found) if found.complete && wiring::exists(lab, &Layout::new(found.topology))? => {
            if found != wanted {
                return Err(anyhow!("lab {} is up already, but was asked for differently", lab.as_str()))
                    .advise(format!("run `weir lab down{}` first, or give this one a --name", lab.option()));
            }
            let repaired = start_missing(lab, wanted)?;
            if repaired.is_empty() {
                println!("lab {} is up already", lab.as_str());
            } else {
                println!("lab {} was up; started again: {}", lab.as_str(), repaired.join(", "));
            }
        }
        found => {
            if take_down(lab)? {
                let why = if found.is_some() { "damaged" } else { "not finished" };
                eprintln!("lab {} was {why}; making it anew", lab.as_str());
            }
            let made = make(lab, &layout, wanted);
            if let Err(error) = made {
                // Processes' logs are quoted in the error; nothing is left behind for it.
                if let Err(left) = take_down(lab) {
                    eprintln!("warning: {left:#}");
                }
                return Err(error.context(format!("cannot make lab {}", lab.as_str())));
            }
        }
    }
    drop(lock);
    status::status(lab, false)
}

fn make(lab: &Name, layout: &Layout, wanted: Record) -> anyhow::Result<()> {
    let dir = lab.dir();
    create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Record { complete: false, ..wanted }.write(lab)?;
    wiring::make(lab, layout, wanted.mtu)?;
    write_whole(&lab.config(), &config(layout, wanted.xdp_mode.as_str()))?;
    for host in REAL_SERVERS {
        real_server::start_web(lab, host)?;
        if wanted.agents {
            real_server::set_up_agent(lab, layout, host)?;
        }
    }
    if wanted.director {
        director::start(lab)?;
    }
    wanted.write(lab)
}

/// Starts the processes that should be there and are not; returns their names.
fn start_missing(lab: &Name, wanted: Record) -> anyhow::Result<Vec<&'static str>> {
    let alive = process::recorded(lab);
    let missing = |label: &str| !alive.iter().any(|p| p.label == label && p.process.is_alive());
    let mut started = Vec::new();
    for host in REAL_SERVERS.into_iter().filter(|host| missing(host)) {
        real_server::start_web(lab, host)?;
        started.push(host);
    }
    if wanted.director && missing(director::LABEL) {
        director::start(lab)?;
        started.push(director::LABEL);
    }
    Ok(started)
}
