//! Running the inner cargo and collecting the objects.
//!
//! Owns: the flags, the environment and the directories of the build. May not touch: how the tools are
//! found. Invariant: one build at a time in a target directory, from its first file to the last copy out.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{ENV, Error, Linker, PACKAGE, Rustc, TARGET};

/// Flags for the BPF target, besides the profile `bpf` in the workspace's `Cargo.toml`.
///
/// - v3 has 32-bit ALU and jump instructions; kernels know them since 5.1.
/// - `--btf` makes the linker write BTF, which the typed maps need.
/// - Packet bytes are not aligned; without `allows-misaligned-mem-access` every field is read bytewise.
const RUSTFLAGS: [&str; 3] =
    ["-Ctarget-cpu=v3", "-Clink-arg=--btf", "-Clink-arg=--cpu-features=+allows-misaligned-mem-access"];

/// What to build and where.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The directory with the workspace's `Cargo.toml`.
    pub workspace_root: &'a Path,
    /// The names of the programs; see [`bins`].
    pub bins: &'a [String],
    /// Where the inner cargo works; shared between outer profiles so that `core` is built once. Must not be
    /// the outer cargo's own target directory, whose lock is held; see [`shared_target_dir`].
    pub target_dir: &'a Path,
    /// Where the objects are copied to, under their program's name.
    pub out_dir: &'a Path,
}

/// What was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The objects in `out_dir`, in the order of the request.
    pub objects: Vec<PathBuf>,
    /// Every file of the workspace that went into them, and the tools.
    pub inputs: Vec<PathBuf>,
}

/// The two tools that build for the BPF target.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: Rustc,
    /// The linker, which reads the compiler's bitcode.
    pub linker: Linker,
}

impl Toolchain {
    /// The first usable compiler, and a linker for it.
    pub fn find() -> Result<Self, Error> {
        let rustc = Rustc::find()?;
        let linker = Linker::find(rustc.llvm)?;
        Ok(Self { rustc, linker })
    }

    /// A cargo `subcommand` for the BPF package and target, in an environment of its own.
    ///
    /// The caller adds the targets to build, such as `--bins`, and runs it.
    pub fn cargo(&self, subcommand: &str, workspace_root: &Path, target_dir: &Path) -> Command {
        // The outer cargo, where there is one, rather than rustup's proxy.
        let outer = || env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(self.rustc.cargo.clone().map_or_else(outer, OsString::from));
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(is_outer) {
                command.env_remove(name);
            }
        }
        command
            .current_dir(workspace_root)
            .arg(subcommand)
            .args(["--package", PACKAGE, "--profile", "bpf", "--target", TARGET, "-Zbuild-std=core"])
            .arg("--target-dir")
            .arg(target_dir)
            .env("RUSTC", &self.rustc.path)
            .env("RUSTC_BOOTSTRAP", "1")
            // Empty means none: neither a wrapper from the user's configuration.
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker.path);
        command
    }
}

/// Whether a variable belongs to the outer cargo, rustc or rustup, and would change the inner build.
///
/// `CARGO_HOME`, network settings, the host's linker and the job server stay.
fn is_outer(name: &str) -> bool {
    const PREFIXES: [&str; 11] = [
        "CARGO_BIN_",
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_UNSTABLE_",
        "CLIPPY_",
        "DEP_",
        "RUSTC",
    ];
    const NAMES: &str = "CARGO CARGO_CRATE_NAME CARGO_ENCODED_RUSTFLAGS CARGO_INCREMENTAL CARGO_PRIMARY_PACKAGE \
        CARGO_TARGET_DIR CARGO_TARGET_TMPDIR DEBUG DYLD_FALLBACK_LIBRARY_PATH HOST LD_LIBRARY_PATH NUM_JOBS \
        OPT_LEVEL OUT_DIR PROFILE RUSTDOC RUSTDOCFLAGS RUSTFLAGS RUSTUP_TOOLCHAIN TARGET";
    NAMES.split_whitespace().any(|outer| outer == name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Builds the programs and copies the objects to `out_dir`.
///
/// Cargo's own output goes to stderr. Safe to run several times at once on one target directory.
pub fn build(request: &Request<'_>) -> Result<Built, Error> {
    let toolchain = Toolchain::find()?;
    create(request.target_dir)?;
    create(request.out_dir)?;
    let lock_path = request.target_dir.join(".weir-lock");
    let lock = File::create(&lock_path)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|source| Error::Io { doing: "lock", path: lock_path, source })?;

    let mut command = toolchain.cargo("build", request.workspace_root, request.target_dir);
    for bin in request.bins {
        command.args(["--bin", bin]);
    }
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|source| Error::Spawn { program: command.get_program().into(), source })?;
    if !status.success() {
        return Err(Error::Build {
            status: status.to_string(),
            rustc: format!("{} {}", toolchain.rustc.path.display(), toolchain.rustc.release),
            linker: toolchain.linker.path.display().to_string(),
        });
    }

    let built = request.target_dir.join(TARGET).join("bpf");
    let mut objects = Vec::new();
    let mut inputs = vec![
        request.workspace_root.join("Cargo.toml"),
        request.workspace_root.join("Cargo.lock"),
        toolchain.rustc.path,
        toolchain.linker.path,
    ];
    for bin in request.bins {
        let from = built.join(bin);
        let to = request.out_dir.join(bin);
        fs::copy(&from, &to).map_err(|source| Error::Io { doing: "copy", path: from.clone(), source })?;
        objects.push(to);
        let listing = built.join(format!("{bin}.d"));
        let text = fs::read_to_string(&listing).map_err(|source| Error::Io {
            doing: "read",
            path: listing,
            source,
        })?;
        for source in dependencies(&text).filter(|path| path.starts_with(request.workspace_root)) {
            inputs.extend(manifest_of(&source));
            inputs.push(source);
        }
    }
    drop(lock);
    inputs.sort();
    inputs.dedup();
    Ok(Built { objects, inputs })
}

impl Built {
    /// Tells cargo, from a build script, to run the script again when an input or a variable in [`ENV`]
    /// changes.
    pub fn print_rerun_directives(&self) {
        for input in &self.inputs {
            println!("cargo::rerun-if-changed={}", input.display());
        }
        for variable in ENV {
            println!("cargo::rerun-if-env-changed={variable}");
        }
    }
}

/// The programs in the BPF package: the names of `src/bin/*.rs` and `src/bin/*/main.rs`, sorted.
pub fn bins(workspace_root: &Path) -> Result<Vec<String>, Error> {
    let directory = workspace_root.join("crates").join(PACKAGE).join("src/bin");
    let failed = |source| Error::Io { doing: "list", path: directory.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file() {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// A target directory for the inner build, from a build script's `OUT_DIR`: `bpf` in the outer target
/// directory, the same for every profile, or a directory in `OUT_DIR` where that cannot be told.
pub fn shared_target_dir(out_dir: &Path) -> PathBuf {
    // Cargo marks its target directory, and with `--target` also the triple's directory in it.
    let marked = |path: &Path| path.join("CACHEDIR.TAG").is_file();
    match out_dir.ancestors().find(|path| marked(path)) {
        Some(nearest) => match nearest.parent().filter(|parent| marked(parent)) {
            Some(outer) => outer.join("bpf"),
            None => nearest.join("bpf"),
        },
        None => out_dir.join("bpf"),
    }
}

fn create(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|source| Error::Io {
        doing: "create",
        path: directory.to_owned(),
        source,
    })
}

/// The sources in one of cargo's `.d` files (`target: source source …`, blanks in names escaped).
fn dependencies(text: &str) -> impl Iterator<Item = PathBuf> {
    let sources = text.lines().find_map(|line| line.split_once(": ")).map_or("", |(_, sources)| sources);
    let hidden = sources.replace("\\ ", "\u{0}");
    let paths: Vec<PathBuf> =
        hidden.split_whitespace().map(|path| PathBuf::from(path.replace('\u{0}', " "))).collect();
    paths.into_iter()
}

/// The manifest of the package that a source file belongs to.
fn manifest_of(source: &Path) -> Option<PathBuf> {
    source.ancestors().skip(1).map(|directory| directory.join("Cargo.toml")).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_outer_cargo_are_kept_out() {
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTUP_TOOLCHAIN",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_PROFILE_RELEASE_LTO",
            "LD_LIBRARY_PATH",
        ] {
            assert!(is_outer(name), "{name} changes the build");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_MAKEFLAGS", "PATH", "HOME", "WEIR_BPF_RUSTC"] {
            assert!(!is_outer(name), "{name} is needed");
        }
    }

    #[test]
    fn dep_info_with_blanks_is_read() {
        let text = "/t/pass: /src/a.rs /my\\ src/b.rs\n";
        let paths: Vec<_> = dependencies(text).collect();
        assert_eq!(paths, [PathBuf::from("/src/a.rs"), PathBuf::from("/my src/b.rs")]);
        assert_eq!(dependencies("/t/pass:\n").count(), 0);
    }

    #[test]
    fn the_inner_target_directory_is_shared_by_profiles_and_targets() {
        let root = env::temp_dir().join(format!("weir-shared-{}", std::process::id()));
        let target = root.join("target");
        let debug = target.join("debug/build/weir-kernel-1/out");
        let cross = target.join("x86_64-unknown-linux-gnu/release/build/weir-kernel-2/out");
        fs::create_dir_all(&debug).expect("temporary directory");
        fs::create_dir_all(&cross).expect("temporary directory");
        let unmarked = shared_target_dir(&debug);
        fs::write(target.join("CACHEDIR.TAG"), "").expect("temporary file");
        fs::write(target.join("x86_64-unknown-linux-gnu/CACHEDIR.TAG"), "").expect("temporary file");
        let found = (shared_target_dir(&debug), shared_target_dir(&cross));
        fs::remove_dir_all(&root).expect("temporary directory");
        assert_eq!(found, (target.join("bpf"), target.join("bpf")));
        assert_eq!(unmarked, debug.join("bpf"));
    }
}
