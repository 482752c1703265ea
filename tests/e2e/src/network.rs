//! A lab of namespaces for one case.
//!
//! Owns: bringing a lab up through `weir lab`, running things in its hosts, taking it down. May not touch: netlink,
//! namespaces; that is `weir lab`'s. Invariant: a [`Lab`] that goes out of scope, by whatever way, is taken down.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::harness::Context;
use crate::interrupt;
use crate::weir::{Output, PATIENCE, Weir, finish};

/// How a lab's hosts are wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// A router sends the VIPs' prefix to the director.
    Routed,
    /// One subnet; the director holds the VIPs.
    Flat,
}

impl Topology {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Routed, Self::Flat];

    /// The word on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Flat => "flat",
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The VIPs of a lab, by what they show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vips {
    /// IPv4 in IPv4.
    pub(crate) v4: &'static str,
    /// IPv6 in IPv6.
    pub(crate) v6: &'static str,
    /// IPv4 in IPv6.
    pub(crate) v4_over_v6: &'static str,
}

impl Vips {
    /// All of them with a word for each.
    pub(crate) fn all(self) -> [(&'static str, &'static str); 3] {
        [("4in4", self.v4), ("6in6", self.v6), ("4in6", self.v4_over_v6)]
    }
}

/// A lab that is up.
pub(crate) struct Lab {
    weir: Weir,
    name: String,
    topology: Topology,
    keep: bool,
}

impl Lab {
    /// A whole lab: hosts, real servers with their agents, the director forwarding.
    pub(crate) fn up(cx: &mut Context<'_>, topology: Topology) -> anyhow::Result<Self> {
        let name = cx.unique_name();
        Self::up_named(cx.weir, &name, topology, &[])
    }

    /// Hosts and real servers; no director is started. The configuration is written all the same.
    pub(crate) fn up_without_director(cx: &mut Context<'_>, topology: Topology) -> anyhow::Result<Self> {
        let name = cx.unique_name();
        Self::up_named(cx.weir, &name, topology, &["--no-director"])
    }

    /// Hosts and web servers only: neither director nor agents.
    pub(crate) fn up_bare(cx: &mut Context<'_>, topology: Topology) -> anyhow::Result<Self> {
        let name = cx.unique_name();
        Self::up_named(cx.weir, &name, topology, &["--no-director", "--no-agents"])
    }

    /// A lab with a given name and further options of `weir lab up`.
    pub(crate) fn up_named(
        weir: &Weir,
        name: &str,
        topology: Topology,
        options: &[&str],
    ) -> anyhow::Result<Self> {
        interrupt::remember(name);
        let lab = Self { weir: weir.clone(), name: name.to_owned(), topology, keep: false };
        let mut args = vec!["lab", "up", "--name", name, "--topology", topology.as_str()];
        args.extend(options);
        weir.run(&args)?.success().context("the lab does not come up")?;
        Ok(lab)
    }

    /// Its name, as `--name` wants it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The binary under test.
    pub(crate) fn weir(&self) -> &Weir {
        &self.weir
    }

    /// Its VIPs.
    pub(crate) fn vips(&self) -> Vips {
        match self.topology {
            Topology::Routed => Vips { v4: "192.0.2.10", v6: "2001:db8:ff::10", v4_over_v6: "192.0.2.20" },
            Topology::Flat => Vips { v4: "192.168.33.33", v6: "fd00:33::33", v4_over_v6: "192.168.33.34" },
        }
    }

    /// The host and interface at the other end of the director's wire: where its packets can be captured.
    pub(crate) fn director_peer(&self) -> (&'static str, &'static str) {
        match self.topology {
            Topology::Routed => ("router", "director"),
            Topology::Flat => ("switch", "director"),
        }
    }

    /// Where `weir lab` keeps it.
    pub(crate) fn dir(&self) -> PathBuf {
        Path::new("/run/weir-lab").join(&self.name)
    }

    /// The director's configuration file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir().join("weir.toml")
    }

    /// The director's runtime directory.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.dir().join("director")
    }

    /// A command that runs `words` in `host`, for those who want to set more or not to wait.
    pub(crate) fn command(&self, host: &str, words: &[&str]) -> Command {
        let mut command = self.weir.command(&["lab", "exec", "--name", &self.name, host, "--"]);
        command.args(words);
        command
    }

    /// Runs `words` in `host` to their end.
    pub(crate) fn exec(&self, host: &str, words: &[&str]) -> anyhow::Result<Output> {
        self.exec_for(host, words, PATIENCE)
    }

    /// The same with another time limit.
    pub(crate) fn exec_for(&self, host: &str, words: &[&str], limit: Duration) -> anyhow::Result<Output> {
        finish(self.command(host, words), limit)
    }

    /// Takes it down now, and says whether that went well.
    pub(crate) fn down(mut self) -> anyhow::Result<()> {
        self.take_down()
    }

    /// Leaves it up when this goes out of scope.
    pub(crate) fn keep(mut self) {
        self.keep = true;
        interrupt::forget(&self.name);
    }

    fn take_down(&mut self) -> anyhow::Result<()> {
        self.keep = true;
        let outcome = self.weir.run(&["lab", "down", "--name", &self.name]).and_then(Output::success);
        interrupt::forget(&self.name);
        outcome.map(drop).with_context(|| format!("the lab {} does not go away", self.name))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.take_down()
        {
            eprintln!("warning: {error:#}");
        }
    }
}
