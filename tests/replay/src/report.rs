//! What is printed of replayed suites.
//!
//! Owns: the words. Invariant: the last line is `N passed, M failed`, of fixtures; what differs as is meant, and what weir has
//! no program for, is in neither number.

use std::fmt::Write as _;

use crate::{
    differences::Difference,
    replay::{Outcome, Replayed},
};

/// How many fixtures ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) differ: usize,
    pub(crate) unsupported: usize,
}

impl Tally {
    /// Of these suites.
    pub(crate) fn of(suites: &[Replayed]) -> Self {
        let mut tally = Self::default();
        for line in suites.iter().flat_map(|suite| &suite.lines) {
            let count = match line.outcome {
                Outcome::Passed => &mut tally.passed,
                Outcome::Failed(_) => &mut tally.failed,
                Outcome::Differs(..) => &mut tally.differ,
                Outcome::Unsupported => &mut tally.unsupported,
            };
            *count += 1;
        }
        tally
    }
}

/// A suite, a line for each fixture.
pub(crate) fn suite(suite: &Replayed, with_configuration: bool) -> String {
    let mut text = format!("{}: {} packets through {}\n", suite.name, suite.lines.len(), suite.program);
    if with_configuration {
        for line in suite.configuration.text.lines() {
            let _ = writeln!(text, "    | {line}");
        }
    }
    for note in &suite.configuration.notes {
        let _ = writeln!(text, "    not configured: {note}");
    }
    for line in &suite.lines {
        let (word, detail) = match &line.outcome {
            Outcome::Passed => ("ok", String::new()),
            Outcome::Failed(why) => ("FAILED", format!(": {why}")),
            Outcome::Differs(difference, mismatch) => {
                ("differs", format!(": {mismatch} ({})", difference.name))
            }
            Outcome::Unsupported => ("-", ": not supported".to_owned()),
        };
        let _ =
            writeln!(text, "  {word:<7} {:>3}  {:<17} {}{detail}", line.index, line.reason, line.description);
    }
    text
}

/// The end of the report.
pub(crate) fn summary(suites: &[Replayed]) -> String {
    let width = suites.iter().map(|suite| suite.name.len()).max().unwrap_or(0).max("suite".len());
    let mut text = format!(
        "{:<width$} {:>7} {:>7} {:>7} {:>7} {:>13}\n",
        "suite", "packets", "passed", "failed", "differ", "not supported"
    );
    for suite in suites {
        let tally = Tally::of(std::slice::from_ref(suite));
        let _ = writeln!(
            text,
            "{:<width$} {:>7} {:>7} {:>7} {:>7} {:>13}",
            suite.name,
            suite.lines.len(),
            tally.passed,
            tally.failed,
            tally.differ,
            tally.unsupported
        );
    }
    let shown = shown(suites);
    if !shown.is_empty() {
        text.push_str("\nmeant to differ, and not counted as passed:\n");
    }
    for (difference, count) in shown {
        let _ = writeln!(text, "  {} ({count}): {}", difference.name, difference.why);
    }
    let Tally { passed, failed, differ, unsupported } = Tally::of(suites);
    let _ = write!(
        text,
        "\n{differ} differ as meant, {unsupported} not supported\n{passed} passed, {failed} failed\n"
    );
    text
}

/// The differences there were, in the order they came up, and how many packets showed each.
fn shown(suites: &[Replayed]) -> Vec<(&'static Difference, usize)> {
    let mut shown: Vec<(&'static Difference, usize)> = Vec::new();
    for line in suites.iter().flat_map(|suite| &suite.lines) {
        let Outcome::Differs(difference, _) = &line.outcome else { continue };
        match shown.iter_mut().find(|(other, _)| other.name == difference.name) {
            Some((_, count)) => *count += 1,
            None => shown.push((difference, 1)),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compare::Mismatch, differences, provision::Configuration, replay::Line};

    fn suite_of(outcomes: Vec<Outcome>) -> Replayed {
        let line = |(index, outcome)| Line {
            index,
            description: "a packet".to_owned(),
            reason: "ring_new",
            outcome,
        };
        let notes = vec!["a thing".to_owned()];
        Replayed {
            name: "some".to_owned(),
            program: "the director",
            configuration: Configuration { text: "[director]\n".to_owned(), notes },
            lines: (1..).zip(outcomes).map(line).collect(),
        }
    }

    #[test]
    fn the_last_line_counts_what_passed_and_what_failed_and_nothing_else() {
        let difference = differences::all().next().expect("there are some");
        let outcomes = vec![
            Outcome::Passed,
            Outcome::Passed,
            Outcome::Differs(difference, Mismatch::Bytes(vec![3, 4])),
            Outcome::Unsupported,
            Outcome::Failed("why".to_owned()),
        ];
        let suite = suite_of(outcomes);
        let text = super::suite(&suite, false);
        assert!(
            text.starts_with("some: 5 packets through the director\n    not configured: a thing\n"),
            "{text}"
        );
        assert!(text.contains(&format!(
            "differs   3  ring_new          a packet: 2 bytes differ, the first at 3 ({})",
            difference.name
        )));
        assert!(text.contains("FAILED    5  ring_new          a packet: why\n"), "{text}");
        assert!(super::suite(&suite, true).contains("    | [director]\n"));

        let text = summary(&[suite, suite_of(vec![Outcome::Passed])]);
        assert!(text.ends_with("\n1 differ as meant, 1 not supported\n3 passed, 1 failed\n"), "{text}");
        assert!(text.contains(&format!("  {} (1): {}\n", difference.name, difference.why)), "{text}");
    }
}
