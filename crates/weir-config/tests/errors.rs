//! What is said about files that are wrong: each `bad/*.toml` against the text in the `.txt` beside it.
//!
//! After a deliberate change: `cargo run -p weir-config --example check FILE 2> TEXT`, from within `bad`, and read it.

#![allow(clippy::format_collect)] // large files are put together here, and read once

use std::fs;
use std::path::{Path, PathBuf};

use weir_config::{MAX_FILE_BYTES, load, parse};

#[test]
fn every_error_has_its_place_its_sentence_and_its_advice() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    assert_eq!(files.len(), 22, "a file was added or lost");
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let errors = parse(name, &fs::read_to_string(&path).unwrap()).expect_err(name);
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap();
        assert_eq!(format!("{errors}\n"), expected, "{name}");
    }
}

#[test]
fn a_file_that_cannot_be_read() {
    let path = Path::new("/nonexistent/weir.toml");
    assert_eq!(
        load(path).unwrap_err().to_string(),
        "/nonexistent/weir.toml: cannot read the configuration: No such file or directory (os error 2)\n  \
         help: create it, or name another with --config"
    );
    let directory = Path::new("/");
    assert_eq!(
        load(directory).unwrap_err().to_string(),
        "/: cannot read the configuration: Is a directory (os error 21)\n  \
         help: give a readable text file with --config"
    );
}

#[test]
fn a_file_that_is_no_text() {
    let path = std::env::temp_dir().join(format!("weir-config-{}.toml", std::process::id()));
    fs::write(&path, b"[director]\ninterfaces = [\"\xff\"]").unwrap();
    let errors = load(&path).unwrap_err();
    fs::remove_file(&path).unwrap();
    assert_eq!(
        errors.to_string(),
        format!("{}:2:16: this is not UTF-8\n  help: save the file as UTF-8 text", path.display())
    );
}

/// `/dev/zero` never ends; reading it does.
#[test]
fn a_file_without_end() {
    assert_eq!(
        load(Path::new("/dev/zero")).unwrap_err().to_string(),
        "/dev/zero: the configuration has more than 16 MiB\n  \
         help: give weir's own file; or split the services between directors"
    );
    assert!(parse("x", &" ".repeat(MAX_FILE_BYTES + 1)).is_err());
}

#[test]
fn too_many_services_and_backends() {
    let head = "director = { interfaces = [\"eth0\"] }\n";
    let services: String = (0..=10_000)
        .map(|i| format!("[[service]]\nvip=\"192.0.2.1\"\nport={}\nprotocol=\"tcp\"\n", i + 1))
        .collect();
    let errors = parse("f", &format!("{head}{services}")).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "f:40002:1: there are 10001 services, more than 10000\n  \
         help: use `port = \"*\"` where a VIP has many ports, or more directors"
    );
    let addresses =
        (0..=100_000).map(|i: u32| format!("{{address=\"{}\"}},", std::net::Ipv4Addr::from(0x0a00_0001 + i)));
    let service = format!(
        "[[service]]\nvip=\"192.0.2.1\"\nport=80\nprotocol=\"tcp\"\nbackend=[{}]\n",
        addresses.collect::<String>()
    );
    let errors = parse("f", &format!("{head}{service}")).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "f: there are 100001 backends, more than 100000\n  help: split the services between directors"
    );
}

/// A service with more backends than its ring has slots.
#[test]
fn a_ring_too_small() {
    let backends: String =
        (1..=257).map(|i| format!("{{address=\"10.0.{}.{}\"}},", i / 250, i % 250 + 1)).collect();
    let text = format!(
        "director = {{ interfaces = [\"eth0\"] }}\n[[service]]\nvip=\"192.0.2.1\"\nport=80\nprotocol=\"tcp\"\n\
         ring_slots = 256\nbackend=[{backends}]\n"
    );
    assert_eq!(
        parse("f", &text).unwrap_err().to_string(),
        "f:6:14: a ring of 256 slots is too small for 257 backends\n  \
         help: write `ring_slots = 0` to have the size chosen"
    );
}

/// Who has more than a hundred errors sees a hundred and how many more there are.
#[test]
fn a_hundred_errors_are_enough() {
    let keys: String = (0..150).map(|i| format!("key{i} = 1\n")).collect();
    let errors = parse("f", &keys).unwrap_err();
    assert_eq!(errors.as_slice().len(), 101);
    assert_eq!(errors.as_slice()[100].message, "and 51 more", "150 keys and no [director]");
}
