//! Reads configuration files and shows what weir understands, or what is wrong: `cargo run --example check FILE …`

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut exit = ExitCode::SUCCESS;
    for path in std::env::args_os().skip(1) {
        match weir_config::load(Path::new(&path)) {
            Ok(config) => {
                for warning in &config.warnings {
                    eprintln!("{warning}");
                }
                print!("{}", weir_config::effective_toml(&config));
            }
            Err(errors) => {
                eprintln!("{errors}");
                exit = ExitCode::FAILURE;
            }
        }
    }
    exit
}
