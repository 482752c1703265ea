//! From nothing to forwarding, or back to nothing.
//!
//! Owns: the order of a start and of a stop. Invariant: nothing is attached before the configuration is valid, its
//! interfaces exist and the tables are filled; a start that fails takes back what it made. What an earlier run left
//! forwarding is left alone by a start that fails.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use weir_config::Config;
use weir_kernel::bpf::{Director, Start, StateDir};
use weir_kernel::net::Rtnl;

use super::addresses::Addresses;
use super::daemon::{Daemon, PATIENCE};
use super::{privileges, server, settings, ways::Ways};
use crate::advice::of_bpf;

/// A director in place, and what it takes to take it away.
pub(super) struct Started {
    pub(super) daemon: Daemon,
    state: StateDir,
    socket: PathBuf,
    /// Interfaces an earlier run had attached to.
    before: BTreeSet<String>,
    /// Whether an earlier run was in a program array.
    was_placed: bool,
}

/// Loads, fills and attaches.
pub(super) fn start(
    config_path: &Path,
    config: Config,
    runtime_dir: &Path,
) -> anyhow::Result<(Started, UnixListener)> {
    privileges::check()?;
    let options = settings::options(&config)?;
    let rtnl = Rtnl::open()?;
    settings::interfaces(&rtnl, &config)?;
    let ways = Ways::wait(&rtnl, &config, PATIENCE)?;
    ways.refuse_nowhere(&config)?;

    let was_there = StateDir::exists(runtime_dir);
    let state = StateDir::open(runtime_dir).map_err(|error| of_bpf(&error))?;
    let socket = state.path().join(weir_api::SOCKET);
    let prepare = || -> anyhow::Result<_> {
        let addresses = Addresses::open(state.path())?;
        let listener = server::bind(&socket)?;
        let director = Director::load_or_adopt(&state, &options).map_err(|error| of_bpf(&error))?;
        Ok((addresses, listener, director))
    };
    let (addresses, listener, director) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => {
            remove_socket(&socket);
            if !was_there && let Err(error) = state.remove() {
                tracing::warn!(
                    error = error.cause(),
                    "cannot remove the state directory of a start that failed"
                );
            }
            return Err(error);
        }
    };
    if director.start() == Start::Adopted {
        tracing::info!("going on with the tables of an earlier run");
    }
    let before = director.attached().map_err(|error| of_bpf(&error))?;
    let before = before.into_iter().map(|link| link.interface).collect();
    let was_placed = director.placed().map_err(|error| of_bpf(&error))?.is_some();
    let daemon = Daemon::new(config_path.to_owned(), config, rtnl, director, addresses, ways);
    let mut started = Started { daemon, state, socket, before, was_placed };
    match started.bring_up() {
        Ok(()) => Ok((started, listener)),
        Err(error) => {
            started.undo();
            Err(error)
        }
    }
}

impl Started {
    fn bring_up(&mut self) -> anyhow::Result<()> {
        let daemon = &mut self.daemon;
        let config = daemon.config.clone();
        let ways = std::mem::take(&mut daemon.ways);
        let ops = daemon.plan(&config, &ways)?;
        daemon.apply(&ops)?;
        daemon.complain(ways.problems(&config));
        daemon.ways = ways;
        if let Some(array) = &config.director.program_array {
            daemon.enter(array)?;
        }
        for interface in settings::attachments(&daemon.rtnl, &config)? {
            daemon.attach(&interface, &config)?;
        }
        daemon.detach_others(&config)?;
        daemon.addresses.sync(&daemon.rtnl, &config)
    }

    /// Takes back what a start that failed has made.
    pub(super) fn undo(mut self) {
        if self.daemon.director.start() == Start::Adopted {
            self.daemon.detach_all_but(&self.before);
            if !self.was_placed
                && let Err(error) = self.daemon.director.leave()
            {
                tracing::error!(error = error.cause(), "cannot leave the program array");
            }
            remove_socket(&self.socket);
        } else if let Err(error) = self.remove() {
            tracing::error!("cannot take back all of a start that failed: {error:#}");
        }
    }

    /// Ends forwarding and leaves nothing behind.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        self.remove()
    }

    fn remove(mut self) -> anyhow::Result<()> {
        // Given up once the director runs; a start that fails after that needs it again. Unmounting tells if it is gone.
        if let Err(error) = privileges::raise_for_unmount() {
            tracing::debug!("{error:#}");
        }
        // Addresses first: a VIP without a director behind it would answer with resets.
        let addresses = self.daemon.addresses.remove_all(&self.daemon.rtnl);
        remove_socket(&self.socket);
        self.daemon.director.remove().map_err(|error| of_bpf(&error)).context("cannot detach")?;
        self.state.remove().map_err(|error| of_bpf(&error))?;
        addresses.context("cannot remove the VIP addresses")
    }

    /// Leaves everything forwarding, for the next start to adopt.
    pub(super) fn leave(self) {
        remove_socket(&self.socket);
    }
}

fn remove_socket(socket: &Path) {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, socket = %socket.display(), "cannot remove the API's socket");
        }
        _ => {}
    }
}
