//! Where the workspace is, and how to start programs in it.
//!
//! Owns: the root and target directories, the choice of cargo, becoming root. May not touch: what is run.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, BufRead as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The workspace this program was compiled in.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The directory with the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, wherever the user's configuration puts it.
    pub(crate) target: PathBuf,
    /// `cargo metadata`, of the workspace's own packages only.
    pub(crate) metadata: Value,
}

impl Workspace {
    /// Asks cargo about the workspace that this package is part of.
    pub(crate) fn find() -> anyhow::Result<Self> {
        // Cargo sets this for `cargo run`, so it is where the sources are now, even if they were moved. Asked in
        // a member's directory, cargo takes that member for the default one; so ask above it.
        let start = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(package) => PathBuf::from(package).join(".."),
            None => PathBuf::from("."),
        };
        let output = cargo()
            .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
            .current_dir(&start)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run `cargo metadata`")?;
        if !output.status.success() {
            bail!("`cargo metadata` failed ({})", output.status);
        }
        let metadata: Value =
            serde_json::from_slice(&output.stdout).context("`cargo metadata` is not JSON")?;
        let path = |name: &str| {
            let value =
                metadata[name].as_str().with_context(|| format!("`cargo metadata` gives no {name}"))?;
            anyhow::Ok(PathBuf::from(value))
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")?, metadata })
    }

    /// A cargo command at the workspace's root.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root).arg(subcommand);
        command
    }

    /// The names of the packages that cargo works on when none is named.
    pub(crate) fn default_members(&self) -> Vec<String> {
        let ids = self.metadata["workspace_default_members"].as_array();
        let is_default = |package: &&Value| ids.is_some_and(|ids| ids.contains(&package["id"]));
        let packages = self.metadata["packages"].as_array().into_iter().flatten();
        packages
            .filter(is_default)
            .filter_map(|package| package["name"].as_str())
            .map(str::to_owned)
            .collect()
    }

    /// Builds `packages` optimized, and returns the path of the program `name` among what was built.
    ///
    /// Cargo's progress goes to stderr.
    pub(crate) fn executables(&self, packages: &[&str], names: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let mut command = self.cargo("build");
        command.args(["--release", "--message-format=json-render-diagnostics"]).stdout(Stdio::piped());
        for package in packages {
            command.args(["--package", package]);
        }
        let mut child = command.spawn().context("cannot run `cargo build`")?;
        let mut built: Vec<(String, PathBuf)> = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            for line in io::BufReader::new(stdout).lines() {
                built.extend(executable(&line.context("cannot read cargo's messages")?));
            }
        }
        let status = child.wait().context("cannot wait for `cargo build`")?;
        if !status.success() {
            bail!(
                "`cargo build --release --package {}` failed; the reason is above",
                packages.join(" --package ")
            );
        }
        let find = |name: &&str| {
            let found = built.iter().find(|(built, _)| built == name);
            found
                .map(|(_, path)| path.clone())
                .with_context(|| format!("cargo built no program called {name}"))
        };
        names.iter().map(find).collect()
    }
}

/// The program in one of cargo's JSON messages.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(path)))
}

/// The cargo that runs this program, else the one in `PATH`.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        // `cargo run` describes this package to this program; those it starts must not inherit that.
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Whether this process may administer the machine.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// `program`, run as root: as it is, or through sudo with the environment kept.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if which("sudo").is_none() {
        bail!("{} needs root and there is no sudo; run this as root", program.as_ref().to_string_lossy());
    }
    let mut command = Command::new("sudo");
    command.args(["-E", "--"]).arg(program);
    Ok(command)
}

/// The program `name` in `PATH` or in the directories of system programs, which a user's `PATH` often lacks.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|directory| directory.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_other_messages() {
        let message =
            r#"{"reason":"compiler-artifact","target":{"name":"weir"},"executable":"/t/release/weir"}"#;
        assert_eq!(executable(message), Some(("weir".into(), PathBuf::from("/t/release/weir"))));
        assert_eq!(
            executable(r#"{"reason":"compiler-artifact","target":{"name":"weir"},"executable":null}"#),
            None
        );
        assert_eq!(executable("not json"), None);
    }

    #[test]
    fn the_default_members_are_the_workspaces() {
        let members = Workspace::find().expect("this is a workspace").default_members();
        assert!(members.iter().any(|name| name == "weir"), "{members:?}");
        assert!(!members.iter().any(|name| name == "weir-ebpf"), "it only builds for the BPF target");
    }

    #[test]
    fn system_programs_are_found_without_them_in_path() {
        assert!(which("sh").is_some());
        assert_eq!(which("no-such-program-as-this"), None);
    }
}
