//! What is wrong with a file, where, and what to do about it.
//!
//! Owns: positions, errors, warnings and how they read. May not touch: what is right or wrong.
//! Invariant: every error carries a sentence about what is the matter and one of advice.

use std::fmt;
use std::ops::Range;

/// A place in the file, counted as editors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// `12:3`
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Error {
    /// The file it is in, if not the configuration itself.
    pub file: Option<String>,
    /// Where; `None` if it concerns the file as a whole.
    pub position: Option<Position>,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do about it, without a full stop.
    pub help: String,
}

/// Everything that is wrong with a file, and then with files it names, by position; never empty.
///
/// Shown, each is `PATH:LINE:COLUMN: MESSAGE` and below it `  help: ADVICE`, with no line break at the very end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    path: String,
    errors: Vec<Error>,
}

impl Errors {
    /// The first hundred of `errors` by file and position. `uncounted`: how many more there are than these.
    pub(crate) fn new(path: &str, mut errors: Vec<Error>, uncounted: usize) -> Self {
        errors.sort_by(|a, b| (&a.file, a.position).cmp(&(&b.file, b.position)));
        errors.dedup();
        let more = errors.len().saturating_sub(MAX_ERRORS) + uncounted;
        if more > 0 {
            errors.truncate(MAX_ERRORS);
            let last = errors.last().map(|last| (last.file.clone(), last.position));
            let (file, position) = last.unwrap_or_default();
            let help = "correct the first ones and look again; many have one cause".into();
            errors.push(Error { file, position, message: format!("and {more} more"), help });
        }
        Self { path: path.to_owned(), errors }
    }

    /// A single error about the file as a whole.
    pub(crate) fn whole_file(path: &str, message: String, help: String) -> Self {
        Self { path: path.to_owned(), errors: vec![Error { file: None, position: None, message, help }] }
    }

    /// What the file was called when it was read.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The errors by file (the configuration first) and position; never empty.
    pub fn as_slice(&self) -> &[Error] {
        &self.errors
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:", error.file.as_ref().unwrap_or(&self.path))?;
            if let Some(position) = error.position {
                write!(f, "{position}:")?;
            }
            write!(f, " {}\n  help: {}", error.message, error.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Something that is allowed but probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// What the file was called when it was read.
    pub path: String,
    /// Where.
    pub position: Position,
    /// What is odd, and what follows from it; without a full stop.
    pub message: String,
}

/// `weir.toml:12:3: warning: …`
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: warning: {}", self.path, self.position, self.message)
    }
}

/// Where something stands in the text, in bytes.
pub(crate) type Span = Range<usize>;

/// Collects errors and warnings while a text is read.
pub(crate) struct Report<'a> {
    path: &'a str,
    text: &'a str,
    /// The byte at which each line begins.
    lines: Vec<usize>,
    errors: Vec<Error>,
    warnings: Vec<Warning>,
}

/// As many errors are shown; who has more has the wrong file.
pub(crate) const MAX_ERRORS: usize = 100;

impl<'a> Report<'a> {
    pub(crate) fn new(path: &'a str, text: &'a str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(i, _)| i + 1);
        let lines = std::iter::once(0).chain(after_breaks).collect();
        Self { path, text, lines, errors: Vec::new(), warnings: Vec::new() }
    }

    /// Line and column of the beginning of `span`.
    pub(crate) fn position(&self, span: &Span) -> Position {
        let at = span.start.min(self.text.len());
        let line = self.lines.partition_point(|&begin| begin <= at) - 1;
        let before = &self.text.as_bytes()[self.lines[line]..at];
        // Bytes that continue a UTF-8 character do not count.
        let column = before.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
        Position { line: line as u32 + 1, column: column as u32 + 1 }
    }

    pub(crate) fn error(&mut self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        let position = Some(self.position(span));
        self.errors.push(Error { file: None, position, message: message.into(), help: help.into() });
    }

    /// An error that has no place of its own.
    pub(crate) fn whole_file(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.errors.push(Error { file: None, position: None, message: message.into(), help: help.into() });
    }

    pub(crate) fn warning(&mut self, span: &Span, message: impl Into<String>) {
        let position = self.position(span);
        self.warnings.push(Warning { path: self.path.to_owned(), position, message: message.into() });
    }

    /// The warnings by position, or, if there is any error, the errors.
    pub(crate) fn finish(mut self) -> Result<Vec<Warning>, Errors> {
        if self.errors.is_empty() {
            self.warnings.sort_by_key(|warning| warning.position);
            return Ok(self.warnings);
        }
        Err(Errors::new(self.path, self.errors, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_characters_and_the_end_of_the_text_has_a_position() {
        let report = Report::new("f", "a\nhé = \"x\"\n");
        let at = [0, 1, 2, 5, 11, 12, 99].map(|byte| report.position(&(byte..byte)).to_string());
        assert_eq!(at, ["1:1", "1:2", "2:1", "2:3", "2:9", "3:1", "3:1"]);
    }
}
