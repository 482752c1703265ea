//! Sources files: millions of lines `PREFIX allow|deny|BACKEND`, beside the configuration.
//!
//! Owns: reading them, a line at a time. May not touch: the configuration's own text.
//! Invariant: what is in memory is the list itself and one line; what is wrong is reported with its line, a hundred times
//! at most.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use crate::address::{not_a_prefix, not_of_family};
use crate::diagnostic::{Error, MAX_ERRORS, Position};
use crate::model::Service;
use crate::prefix::Prefix;
use crate::section::Wrong;
use crate::sources::{Entry, ONE_MEANING, SourceAction, Sources, put_together, said, said_too};

/// Lines a file may have, and prefixes there may be in all services together.
pub(crate) const MAX_SOURCES: usize = 1 << 22;

/// Bytes of a line: whatever is longer is no such file.
const MAX_LINE: u64 = 4096;

/// What is wrong with a file: the first hundred, and how many more there are.
pub(crate) struct Faults<'a> {
    file: &'a str,
    pub(crate) errors: Vec<Error>,
    pub(crate) more: usize,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(file: &'a str) -> Self {
        Self { file, errors: Vec::new(), more: 0 }
    }

    fn push(&mut self, line: u32, column: usize, error: impl FnOnce() -> (String, String)) {
        if self.errors.len() == MAX_ERRORS {
            self.more += 1;
            return;
        }
        let (message, help) = error();
        let position = Some(Position { line, column: column as u32 });
        self.errors.push(Error { file: Some(self.file.to_owned()), position, message, help });
    }
}

/// Opens a sources file, which must be a file: a pipe could keep the reader waiting.
pub(crate) fn open(path: &Path) -> io::Result<BufReader<File>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(BufReader::with_capacity(1 << 16, File::open(path)?))
}

/// Reads what `reader` says of `service`'s clients, beside `entries` of the configuration called `config`. What comes back
/// is of use only if there are no faults.
pub(crate) fn read(
    mut reader: impl BufRead,
    service: &Service,
    config: &str,
    mut entries: Vec<Entry>,
    faults: &mut Faults<'_>,
) -> io::Result<Sources> {
    let backends: HashMap<&str, usize> = (0..).zip(&service.backends).map(|(i, b)| (&*b.name, i)).collect();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        let fault = if line as usize > MAX_SOURCES {
            Some(format!("the file has more than {MAX_SOURCES} lines"))
        } else {
            (bytes.len() as u64 > MAX_LINE).then(|| format!("the line has more than {MAX_LINE} bytes"))
        };
        if let Some(fault) = fault {
            // What follows is of no use: this is another kind of file.
            let help = "give a file of lines such as `198.51.100.0/24 deny`".to_owned();
            faults.push(line, 1, || (fault, help));
            break;
        }
        match understand(&bytes, service, &backends) {
            Ok(None) => {}
            Ok(Some((prefix, action))) => {
                entries.push(Entry::new(prefix, action, Entry::IN_FILE | line));
            }
            Err(Fault { column, message, help }) => faults.push(line, column, || (message, help)),
        }
    }
    let ipv4 = service.key.vip.is_ipv4();
    let addresses: Vec<_> = service.backends.iter().map(|backend| backend.address).collect();
    Ok(put_together(entries, ipv4, &addresses, |earlier, later| {
        let Ok(line) = later.line() else { return };
        let (first, rule) = (earlier.rule(ipv4), later.rule(ipv4));
        faults.push(line, 1, || {
            let place = match earlier.line() {
                Ok(line) => format!("line {line}"),
                Err(line) => format!("line {line} of {config}"),
            };
            let (said, too) = (said(rule.action), said_too(first.action, rule.action));
            (format!("{} {said} here and {too} on {place}", rule.prefix), ONE_MEANING.to_owned())
        });
    }))
}

/// What is wrong with a line.
struct Fault {
    /// From 1, in characters.
    column: usize,
    message: String,
    help: String,
}

/// What a line says; `None` if it is blank or a comment.
fn understand(
    line: &[u8],
    service: &Service,
    backends: &HashMap<&str, usize>,
) -> Result<Option<(Prefix, SourceAction)>, Fault> {
    const HELP: &str = "write `allow`, `deny` or the name of a backend of the service behind the prefix";
    let line = std::str::from_utf8(line).map_err(|error| Fault {
        column: String::from_utf8_lossy(&line[..error.valid_up_to()]).chars().count() + 1,
        message: "this is not UTF-8".into(),
        help: "save the file as UTF-8 text".into(),
    })?;
    // (Words are of `line`, so that where they begin can be told.)
    let fault = |word: &str, message: String, help: &str| Fault {
        column: line[..word.as_ptr() as usize - line.as_ptr() as usize].chars().count() + 1,
        message,
        help: help.into(),
    };
    let mut words = line.split_ascii_whitespace().take_while(|word| !word.starts_with('#'));
    let Some(written) = words.next() else { return Ok(None) };
    let this =
        |wrong: Wrong| fault(written, format!("this {}", wrong.what), wrong.help.as_deref().unwrap_or(HELP));
    let prefix = Prefix::parse(written).map_err(|error| this(not_a_prefix(written, error)))?;
    if prefix.network.is_ipv4() != service.key.vip.is_ipv4() {
        return Err(this(not_of_family(prefix, service.key.vip)));
    }
    let Some(word) = words.next() else {
        return Err(fault(written, format!("nothing is said of {prefix}"), HELP));
    };
    let action = match word {
        "allow" => SourceAction::Allow,
        "deny" => SourceAction::Deny,
        name => SourceAction::Backend(*backends.get(name).ok_or_else(|| {
            let message = format!("\"{}\" is no backend of service {}", name.escape_debug(), service.name);
            fault(word, message, HELP)
        })?),
    };
    match words.next() {
        Some(word) => {
            let message = format!("\"{}\" is too much", word.escape_debug());
            Err(fault(word, message, "write a prefix and one word on a line; a comment begins with #"))
        }
        None => Ok(Some((prefix, action))),
    }
}
