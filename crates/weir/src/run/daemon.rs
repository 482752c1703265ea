//! The director at work: what the configuration asks for, again and again made true.
//!
//! Owns: the loop's one step ([`Daemon::reconcile`]) and the exchange of configurations ([`Daemon::reload`]). May not
//! touch: map layouts, configuration syntax, signals. Invariant: a configuration is in force as a whole or not at all;
//! whatever is found to be wrong with a new one is found before the tables change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use weir_api::v1::ReloadReply;
use weir_config::Config;
use weir_kernel::bpf::{Attached, Director, Start};
use weir_kernel::net::Rtnl;
use weir_plan::{Desired, Observed, Op, PlanError, Planner};

use super::addresses::Addresses;
use super::settings::{self, Interface};
use super::tables::{Strays, Tables};
use super::ways::Ways;
use crate::advice::{self, Advise as _};

/// How long a new configuration waits for neighbours that have never been asked.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The time, in seconds of CLOCK_BOOTTIME (which goes on while the machine sleeps).
pub(super) fn boot_time() -> anyhow::Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).context("cannot read the clock")?;
    u32::try_from(now.tv_sec()).context("cannot read the clock: it says more than 136 years since the start")
}

/// How the last attempt to put a configuration into force went.
pub(super) struct LastLoad {
    pub(super) at: Instant,
    pub(super) error: Option<String>,
}

/// The director and all it knows.
pub(super) struct Daemon {
    pub(super) config_path: PathBuf,
    pub(super) config: Config,
    pub(super) rtnl: Rtnl,
    pub(super) director: Director,
    pub(super) addresses: Addresses,
    pub(super) ways: Ways,
    /// Interfaces attached by this process.
    pub(super) attached: BTreeMap<String, (u32, Attached)>,
    pub(super) started: Instant,
    pub(super) last_load: LastLoad,
    pub(super) reloads: u64,
    planner: Planner,
    pub(super) strays: Strays,
    /// What has been complained about and still holds.
    complaints: HashMap<String, String>,
}

impl Daemon {
    pub(super) fn new(
        config_path: PathBuf,
        config: Config,
        rtnl: Rtnl,
        director: Director,
        addresses: Addresses,
        ways: Ways,
    ) -> Self {
        let now = Instant::now();
        let strays = Strays::new(director.start() == Start::Fresh);
        Self {
            config_path,
            config,
            rtnl,
            director,
            addresses,
            ways,
            attached: BTreeMap::new(),
            started: now,
            last_load: LastLoad { at: now, error: None },
            reloads: 0,
            planner: Planner::default(),
            strays,
            complaints: HashMap::new(),
        }
    }

    /// The steps to `config` over `ways`.
    pub(super) fn plan(&mut self, config: &Config, ways: &Ways) -> anyhow::Result<Vec<Op>> {
        let desired =
            Desired::new(config, boot_time()?, self.director.tick(), |_, backend| ways.path(backend));
        let observed = self.observed()?;
        self.planner.plan(&observed, &desired).map_err(|error| {
            let advice = match &error {
                PlanError::TooManyBackends(_) => {
                    "use fewer backends, or try again when those that drain are gone"
                }
                PlanError::NoRingRoom { .. } | PlanError::Ring { .. } => {
                    "set another `ring_slots` (0 chooses a fitting one), or use fewer services"
                }
                PlanError::TooManyServices(..) => "split the services between directors",
                PlanError::TooManyServers(..)
                | PlanError::TooManyPrefixes(..)
                | PlanError::TooManySources(..) => {
                    "stop weir and start it again: tables are made for what is configured then"
                }
            };
            Err::<(), _>(error).advise(advice).expect_err("it is an error")
        })
    }

    /// What the tables say.
    pub(super) fn observed(&self) -> anyhow::Result<Observed> {
        Observed::read(&Tables::new(&self.director, &self.strays)).map_err(|error| advice::of_bpf(&error))
    }

    /// Does the steps.
    pub(super) fn apply(&mut self, ops: &[Op]) -> anyhow::Result<()> {
        for op in ops {
            tracing::debug!(?op, "step");
            if let Err(error) = op.apply(&mut Tables::new(&self.director, &self.strays)) {
                self.strays.look_again();
                return Err(advice::of_bpf(&error));
            }
        }
        Ok(())
    }

    /// One round: asks how things are and does what is missing. What fails is logged and tried again next time.
    pub(super) fn reconcile(&mut self) {
        let config = self.config.clone();
        let result = Ways::find(&self.rtnl, &config).map_err(anyhow::Error::from).and_then(|ways| {
            let ops = self.plan(&config, &ways);
            self.ways = ways;
            self.apply(&ops?)
        });
        let mut found: HashMap<String, String> = self.ways.problems(&config);
        if let Err(error) = result {
            found.insert("the tables".to_owned(), advice::cause_line(&error));
        }
        let (what, outcome) = match &config.director.program_array {
            Some(array) => ("the program array", self.check_place(array)),
            None => ("the interfaces", self.reattach()),
        };
        if let Err(error) = outcome {
            found.insert(what.to_owned(), advice::cause_line(&error));
        }
        if let Err(error) = self.addresses.sync(&self.rtnl, &config) {
            found.insert("the VIP addresses".to_owned(), advice::cause_line(&error));
        }
        self.complain(found);
    }

    /// Logs what is new or over.
    pub(super) fn complain(&mut self, found: HashMap<String, String>) {
        for (what, why) in &found {
            if self.complaints.get(what) != Some(why) {
                tracing::warn!("{what}: {why}");
            }
        }
        for what in self.complaints.keys().filter(|what| !found.contains_key(*what)) {
            tracing::info!("{what}: all is well again");
        }
        self.complaints = found;
    }

    /// Attaches to an interface and says how.
    pub(super) fn attach(&mut self, interface: &Interface, config: &Config) -> anyhow::Result<()> {
        let attached = self
            .director
            .attach(interface.ifindex, settings::request(config))
            .map_err(|error| advice::of_bpf(&error))?;
        if let Some(reason) = &attached.fell_back {
            tracing::warn!(
                "GENERIC XDP on {}: native mode is not to be had, and generic is several times slower: {reason}; \
                 if that is what you want, set xdp_mode = \"generic\"",
                interface.name
            );
        } else {
            tracing::info!(interface = interface.name, mode = %attached.mode, "attached");
        }
        self.attached.insert(interface.name.clone(), (interface.ifindex, attached));
        Ok(())
    }

    /// Detaches from every interface that `config` does not attach to, and leaves a program array it does not name.
    pub(super) fn detach_others(&mut self, config: &Config) -> anyhow::Result<()> {
        let is_attached = config.director.program_array.is_none();
        let wanted: BTreeSet<&str> = config
            .director
            .interfaces
            .iter()
            .map(weir_config::InterfaceName::as_str)
            .filter(|_| is_attached)
            .collect();
        let there = self.director.attached().map_err(|error| advice::of_bpf(&error))?;
        for link in there.iter().filter(|link| !wanted.contains(link.interface.as_str())) {
            self.director.detach(&link.interface).map_err(|error| advice::of_bpf(&error))?;
            self.attached.remove(&link.interface);
            tracing::info!(interface = link.interface, "detached");
        }
        if is_attached && self.director.leave().map_err(|error| advice::of_bpf(&error))? {
            tracing::info!("left the program array of an earlier run");
        }
        Ok(())
    }

    /// Attaches to interfaces that went away and came back.
    fn reattach(&mut self) -> anyhow::Result<()> {
        let config = self.config.clone();
        let mut missing = Vec::new();
        let mut outcome = Ok(());
        for name in config.director.interfaces.iter().map(weir_config::InterfaceName::as_str) {
            let Some(link) = self.rtnl.find_link(name)? else {
                missing.push(name);
                continue;
            };
            if self.attached.get(name).is_none_or(|(index, _)| *index != link.index) {
                // One that cannot be attached keeps no other from it.
                outcome =
                    outcome.and(self.attach(&Interface { name: link.name, ifindex: link.index }, &config));
            }
        }
        outcome?;
        anyhow::ensure!(
            missing.is_empty(),
            "{} has gone; packets that arrive elsewhere are not balanced",
            missing.join(", ")
        );
        Ok(())
    }

    /// Reads the configuration file again and puts it into force, or changes nothing and says why.
    pub(super) fn reload(&mut self) -> ReloadReply {
        self.reloads += 1;
        let outcome = self.try_reload();
        let error = outcome.as_ref().err().map(advice::render);
        self.last_load = LastLoad { at: Instant::now(), error: error.clone() };
        match (outcome, error) {
            (Ok((steps, warnings)), _) => {
                tracing::info!(steps, config = %self.config_path.display(), "configuration applied");
                ReloadReply { applied: true, error: String::new(), warnings, steps: steps as u32 }
            }
            (Err(_), error) => {
                let error = error.unwrap_or_default();
                tracing::error!("configuration refused, the old one stays in force: {}", error.trim_end());
                ReloadReply { applied: false, error, warnings: Vec::new(), steps: 0 }
            }
        }
    }

    fn try_reload(&mut self) -> anyhow::Result<(usize, Vec<String>)> {
        let config = weir_config::load(&self.config_path)?;
        settings::refuse_what_needs_a_restart(&self.director, &self.config, &config)?;
        settings::interfaces(&self.rtnl, &config)?;
        let interfaces = settings::attachments(&self.rtnl, &config)?;
        let ways = Ways::wait(&self.rtnl, &config, PATIENCE)?;
        ways.refuse_nowhere(&config)?;
        let ops = self.plan(&config, &ways)?;

        let before: BTreeSet<String> = self.attached.keys().cloned().collect();
        for interface in interfaces.iter().filter(|interface| !before.contains(&interface.name)) {
            if let Err(error) = self.attach(interface, &config) {
                self.detach_all_but(&before);
                return Err(error);
            }
        }
        // Before the tables: a VIP without a director behind it would answer established connections with resets.
        let released = self.addresses.release(&self.rtnl, &config);
        if let Err(error) = self.apply(&ops) {
            self.detach_all_but(&before);
            return Err(error);
        }
        // In force from here on. What fails now is told, and tried again by every round.
        self.config = config;
        self.ways = ways;
        let config = self.config.clone();
        let mut warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let mut found = self.ways.problems(&config);
        let detached = self.detach_others(&config);
        let held = self.addresses.sync(&self.rtnl, &config);
        for (what, outcome) in [("the interfaces", detached), ("the VIP addresses", released.and(held))] {
            if let Err(error) = outcome {
                let why = advice::cause_line(&error);
                warnings.push(format!("{what}: {why}; this is tried again every second"));
                found.insert(what.to_owned(), why);
            }
        }
        self.complain(found);
        Ok((ops.len(), warnings))
    }

    /// Takes back attachments made on the way to a failure.
    pub(super) fn detach_all_but(&mut self, before: &BTreeSet<String>) {
        for name in self.attached.keys().filter(|name| !before.contains(*name)).cloned().collect::<Vec<_>>() {
            if let Err(error) = self.director.detach(&name) {
                tracing::error!(interface = name, error = error.cause(), "cannot detach");
            }
            self.attached.remove(&name);
        }
    }
}
