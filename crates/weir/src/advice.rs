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

/// Prints `error: …` and, where there is advice, `help: …` to standard error.
pub(crate) fn print(error: &anyhow::Error) {
    eprintln!("error: {}", cause_line(error));
    if let Some(advice) = advice_of(error) {
        eprintln!("help: {advice}");
    }
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
