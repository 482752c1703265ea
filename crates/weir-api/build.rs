//! Compiles the API's definition; no `protoc` needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const FILE: &str = "weir/v1/director.proto";
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile([FILE], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // `weir status -o json` prints replies as they are.
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    Ok(())
}
