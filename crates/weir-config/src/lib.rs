//! The configuration file of weir: syntax, defaults, validation, errors with line and column.
//!
//! Owns: the way from a file to a [`Config`]. May not touch: the kernel, the clock, the network.
//! Invariant: a [`Config`] is valid by construction; whatever is wrong with a file is found here, all of it at once,
//! each with the place, a sentence and advice.
//!
//! `file -> Raw (tables with places, `section`) -> Config (`director`, `service`, `backend`)`, and [`load`] goes on:
//! `-> lists of clients (`sources_file`)`
//!
//! What each key means is in the configuration reference (docs/src/config.md) and on the fields of [`Director`],
//! [`Service`] and [`Backend`].
//!
//! ```
//! let text = r#"
//! [director]
//! interfaces = ["eth0"]
//! [[service]]
//! vip = "192.0.2.10"
//! port = 80
//! protocol = "tcp"
//! [[service.backend]]
//! address = "10.0.0.11"
//! wieght = 3
//! "#;
//! let errors = weir_config::parse("weir.toml", text).unwrap_err();
//! assert_eq!(
//!     errors.to_string(),
//!     "weir.toml:10:1: unknown key `wieght` in [[service.backend]]\n  help: did you mean `weight`?"
//! );
//! ```

mod address;
mod backend;
mod balancing;
mod diagnostic;
mod director;
mod hash_key;
mod model;
mod prefix;
mod program_array;
mod render;
mod section;
mod seen;
mod service;
mod sources;
mod sources_file;
mod value;
mod words;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use toml::de::DeTable;

use crate::diagnostic::Report;
use crate::section::{Key, Kind, Section};
use crate::seen::Seen;
use crate::sources::Entry;
use crate::sources_file::{Faults, MAX_SOURCES};

pub use diagnostic::{Error, Errors, Position, Warning};
pub use hash_key::{HashKeyError, parse_hash_key};
pub use model::{
    Backend, Config, Director, InterfaceName, ProgramArray, RingSlots, ServerIds, Service, ServiceKey, Source,
};
pub use prefix::Prefix;
pub use render::effective_toml;
pub use sources::{SourceAction, SourceRule, Sources};
pub use words::{
    Advertise, Encapsulation, GueChecksum, HashBy, NoBackend, Protocol, Scheduler, ServerIdScheme, State,
    Tracking, XdpMode,
};

/// Bytes a file may have: ten thousand services with ten backends each fit.
pub const MAX_FILE_BYTES: usize = 16 << 20;

const KIND: Kind = Kind {
    title: "the file",
    keys: &[
        Key::new("director", "{ interfaces = [\"eth0\"] }").alias(&["global", "weir"]),
        Key::new("service", "[]").alias(&["services", "vip", "virtual_server"]),
    ],
};

/// Reads a configuration file and the sources files it names.
pub fn load(path: &Path) -> Result<Config, Errors> {
    let label = path.display().to_string();
    let cannot_read = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => "create it, or name another with --config",
            std::io::ErrorKind::PermissionDenied => "make it readable to the user weir runs as",
            _ => "give a readable text file with --config",
        };
        Errors::whole_file(&label, format!("cannot read the configuration: {error}"), help.into())
    };
    let mut bytes = Vec::new();
    // One byte more than is allowed tells that there are more.
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(cannot_read)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => with_files(&label, understand(&label, text)?),
        // Cut off within a character, or not a text to begin with.
        Err(_) if bytes.len() > MAX_FILE_BYTES => Err(too_large(&label)),
        Err(error) => {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let mut report = Report::new(&label, &good);
            report.error(&(good.len()..good.len()), "this is not UTF-8", "save the file as UTF-8 text");
            Err(report.finish().expect_err("an error was just reported"))
        }
    }
}

/// Reads a configuration from `text`; errors and warnings call it `path`. No file is read: what a
/// [`Service::sources_file`] says is not known.
pub fn parse(path: &str, text: &str) -> Result<Config, Errors> {
    understand(path, text).map(|(config, _)| config)
}

/// A sources file that is still to be read.
struct SourcesFile {
    /// Index of its service.
    service: usize,
    /// Where it is named.
    position: Position,
    /// What the configuration itself says of the service's clients.
    entries: Vec<Entry>,
}

/// A configuration but for its sources files, and those.
fn understand(path: &str, text: &str) -> Result<(Config, Vec<SourcesFile>), Errors> {
    if text.len() > MAX_FILE_BYTES {
        return Err(too_large(path));
    }
    let mut report = Report::new(path, text);
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    for error in &syntax_errors {
        let (message, help) = syntax_error(error.message());
        report.error(&error.span().unwrap_or(0..0), format!("this is not TOML: {message}"), help);
    }
    if !syntax_errors.is_empty() {
        // What else there is in the file can only be guessed at.
        return Err(report.finish().expect_err("errors were just reported"));
    }

    let file = Section::open(&KIND, document.span(), document.get_ref(), &mut report);
    let director = file
        .table(&mut report, "director", &director::KIND)
        .and_then(|section| director::read(&section, &mut report));
    let director_slots = director.as_ref().map_or(RingSlots::Automatic, |(director, _)| director.ring_slots);
    let sections = file.tables(&mut report, "service", &service::KIND);
    let mut seen = Seen::default();
    let read = service::read_all(&sections, director_slots, &mut seen, &mut report);
    seen.finish(director.as_ref(), &mut report);
    if sections.is_empty() {
        report.warning(
            &(0..0),
            "there is no [[service]]; every packet goes to the director's own network stack",
        );
    }
    let warnings = report.finish()?;
    let (director, _) = director.expect("whatever is wrong has been reported");
    let mut services = Vec::with_capacity(read.len());
    let mut files = Vec::new();
    for (index, read) in read.into_iter().enumerate() {
        services.push(read.service);
        files.extend(read.file.map(|position| SourcesFile {
            service: index,
            position,
            entries: read.entries,
        }));
    }
    Ok((Config { director, services, warnings }, files))
}

/// Adds what the sources files say.
fn with_files(label: &str, understood: (Config, Vec<SourcesFile>)) -> Result<Config, Errors> {
    let (mut config, files) = understood;
    let (mut errors, mut uncounted) = (Vec::new(), 0);
    let mut prefixes: usize = config.services.iter().map(|service| service.sources.len()).sum();
    for SourcesFile { service, position, entries } in files {
        let service = &mut config.services[service];
        let path = service.sources_file.as_deref().expect("one that names a file");
        let shown = path.display().to_string();
        let mut faults = Faults::new(&shown);
        let read = sources_file::open(path)
            .and_then(|file| sources_file::read(file, service, label, entries, &mut faults));
        errors.append(&mut faults.errors);
        uncounted += faults.more;
        let mut here = |message: String, help: &str| {
            errors.push(Error { file: None, position: Some(position), message, help: help.to_owned() });
        };
        match read {
            Ok(sources) => {
                prefixes += sources.len() - service.sources.len();
                if prefixes > MAX_SOURCES {
                    let message =
                        format!("with {shown} there are more than {MAX_SOURCES} prefixes of clients");
                    here(message, "give shorter prefixes, or split the services between directors");
                    break;
                }
                if sources.is_empty() {
                    let message = format!("{shown} says nothing of any client; all are allowed");
                    config.warnings.push(Warning { path: label.to_owned(), position, message });
                }
                service.sources = sources;
            }
            Err(error) => here(
                format!("cannot read the sources of service {} from {shown}: {error}", service.name),
                "create the file, make it readable to the user weir runs as, or correct `sources_file`",
            ),
        }
    }
    if errors.is_empty() {
        config.warnings.sort_by_key(|warning| warning.position);
        return Ok(config);
    }
    Err(Errors::new(label, errors, uncounted))
}

/// What the TOML parser says, where needed in other words, and what to do about it.
fn syntax_error(message: &str) -> (&str, &'static str) {
    if message.starts_with("string values must be quoted") {
        ("text must stand in quotes", "write it like \"auto\", in double quotes")
    } else if message == "duplicate key" {
        (
            "this key or header is there already",
            "remove one; headers that may repeat have double brackets: [[service]]",
        )
    } else {
        (
            message,
            "write KEY = VALUE below a header: [director], [[service]] or [[service.backend]]; see https://toml.io",
        )
    }
}

fn too_large(path: &str) -> Errors {
    let message = format!("the configuration has more than {} MiB", MAX_FILE_BYTES >> 20);
    Errors::whole_file(path, message, "give weir's own file; or split the services between directors".into())
}
