//! Builds the BPF objects and writes the table that embeds them (`src/bpf/objects.rs`).

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("run me with cargo")?);
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("run me with cargo")?);
    let root = manifest.ancestors().nth(2).ok_or("the crate is not in its workspace")?;
    // The list of programs changes with files appearing, which no list of inputs shows.
    for package in ["weir-ebpf", "weir-datapath", "weir-wire", "weir-abi"] {
        println!("cargo::rerun-if-changed={}", root.join("crates").join(package).display());
    }
    let bins = weir_bpf_build::bins(root)?;
    let built = weir_bpf_build::build(&weir_bpf_build::Request {
        workspace_root: root,
        bins: &bins,
        target_dir: &weir_bpf_build::shared_target_dir(&out_dir),
        out_dir: &out_dir.join("objects"),
    })?;
    built.print_rerun_directives();

    let mut table = String::from("static OBJECTS: &[(&str, &[u8])] = &[\n");
    for (name, object) in bins.iter().zip(&built.objects) {
        writeln!(table, "    ({name:?}, aya::include_bytes_aligned!({:?})),", object.display().to_string())?;
    }
    table.push_str("];\n");
    fs::write(out_dir.join("objects.rs"), table)?;
    Ok(())
}
