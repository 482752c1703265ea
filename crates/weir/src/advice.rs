//! Errors that say what to do next.
//!
//! Owns: the pairing of an error with one sentence of advice, and how errors look on the terminal.
//! Invariant: an error is one line, whatever its causes contain; advice is one more line.

use std::fmt;

/// An error with advice: what went wrong, and what the user can do about it.
#[derive(Debug)]
pub(crate) struct Advice {
    cause: anyhow::Error,
    advice: String,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for Advice {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

/// Adds advice to an error.
pub(crate) trait Advise<T> {
    /// The same outcome; an error carries one sentence of advice.
    fn advise(self, advice: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Advise<T> for Result<T, E> {
    fn advise(self, advice: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| Advice { cause: error.into(), advice: advice.into() }.into())
    }
}

/// A BPF error as a cause with advice.
pub(crate) fn of_bpf(error: &weir_kernel::bpf::Error) -> anyhow::Error {
    let text = error.to_string();
    let (cause, advice) = text.rsplit_once('\n').unwrap_or((&text, ""));
    let cause = anyhow::anyhow!("{cause}");
    if advice.is_empty() { cause } else { Advice { cause, advice: advice.to_owned() }.into() }
}

/// Splits a sentence that ends in advice: `the cause; the advice`.
pub(crate) fn split<'a>(text: &'a str, separator: &str) -> (&'a str, Option<&'a str>) {
    match text.split_once(separator) {
        Some((cause, advice)) => (cause, Some(advice)),
        None => (text, None),
    }
}

/// The error on one line, outermost first, causes after colons.
pub(crate) fn cause_line(error: &anyhow::Error) -> String {
    let mut line = format!("{error:#}");
    if line.contains('\n') {
        line = line.lines().map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    }
    line
}

/// The advice nearest to the surface, if any error in the chain has one.
pub(crate) fn advice_of(error: &anyhow::Error) -> Option<&str> {
    error.chain().find_map(|cause| cause.downcast_ref::<Advice>()).map(|found| found.advice.as_str())
}

/// What [`print()`] prints: `error: …` and, where there is advice, `help: …`; for a configuration both for every error
/// in it.
pub(crate) fn render(error: &anyhow::Error) -> String {
    if let Some(errors) = error.downcast_ref::<weir_config::Errors>() {
        let lines = errors.to_string();
        let lines = lines.lines().map(|line| match line.strip_prefix("  help: ") {
            Some(help) => format!("help: {help}\n"),
            None => format!("error: {line}\n"),
        });
        return lines.collect();
    }
    let help = advice_of(error).map(|advice| format!("help: {advice}\n"));
    format!("error: {}\n{}", cause_line(error), help.unwrap_or_default())
}

/// Prints the error and its advice to standard error.
pub(crate) fn print(error: &anyhow::Error) {
    eprint!("{}", render(error));
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn advice_survives_context_and_does_not_repeat_the_cause() {
        let result: anyhow::Result<()> = Err(anyhow!("no such interface")).advise("use eth0");
        let error = result.context("cannot attach to eth1").unwrap_err();
        assert_eq!(cause_line(&error), "cannot attach to eth1: no such interface");
        assert_eq!(advice_of(&error), Some("use eth0"));
    }

    #[test]
    fn a_cause_of_many_lines_is_one_line() {
        assert_eq!(cause_line(&anyhow!("first\n  second\n")), "first; second");
    }
}
