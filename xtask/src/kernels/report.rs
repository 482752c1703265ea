//! What `weir-verify` said of a kernel, and how several kernels are shown beside each other.
//!
//! Owns: reading its lines, from between a console's own. May not touch: what passes; `weir-verify` decides that.

use std::fmt::Write as _;

/// One kernel's results.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The kernel's release, as `uname -r` says it.
    pub(super) release: String,
    programs: Vec<Program>,
    passed: u32,
    /// How many checks failed.
    pub(super) failed: u32,
}

#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: String,
    /// Instructions the verifier walked; none where the kernel does not say.
    verified: Option<u32>,
    budget: u32,
}

impl Report {
    /// From all that was printed; `None` if it ended before the count, or was not counted to anything.
    pub(super) fn parse(output: &str) -> Option<Self> {
        let release =
            output.lines().find_map(|line| line.trim().strip_prefix("kernel ")?.split_once(", jit "))?.0;
        let (passed, failed) = output.lines().rev().find_map(count)?;
        let programs: Vec<_> = output.lines().filter_map(program).collect();
        (passed + failed > 0).then(|| Self { release: release.to_owned(), programs, passed, failed })
    }
}

/// `21 passed, 0 failed`.
fn count(line: &str) -> Option<(u32, u32)> {
    let (passed, failed) = line.trim().strip_suffix(" failed")?.split_once(" passed, ")?;
    Some((passed.parse().ok()?, failed.parse().ok()?))
}

/// `ok     director/director        58157 of 400000 instructions verified, …`.
fn program(line: &str) -> Option<Program> {
    let mut words = line.split_whitespace();
    let (result, name, verified, of, budget) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    if !["ok", "FAILED"].contains(&result) || of != "of" || words.next()? != "instructions" {
        return None;
    }
    Some(Program { name: name.to_owned(), verified: verified.parse().ok(), budget: budget.parse().ok()? })
}

/// The kernels beside each other: instructions verified for each program, and its budget.
pub(super) fn table(reports: &[Report]) -> String {
    let mut table = format!("{:<26}{:>10}", "instructions verified", "budget");
    let widths: Vec<_> = reports.iter().map(|report| report.release.len().max(10) + 2).collect();
    let row = |table: &mut String, cells: Vec<String>| {
        for (cell, width) in cells.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(table, "{cell:>width$}");
        }
        table.push('\n');
    };
    row(&mut table, reports.iter().map(|report| report.release.clone()).collect());
    for program in reports.first().map_or(&[][..], |report| &report.programs) {
        let _ = write!(table, "{:<26}{:>10}", program.name, program.budget);
        let verified = |report: &Report| {
            let here = report.programs.iter().find(|here| here.name == program.name);
            here.and_then(|here| here.verified).map_or_else(|| "-".to_owned(), |count| count.to_string())
        };
        row(&mut table, reports.iter().map(verified).collect());
    }
    table
}

/// The kernels in a few words.
pub(super) fn summary(reports: &[Report]) -> String {
    let words = |report: &Report| format!("{} checks on {}", report.passed, report.release);
    format!("check-kernels: {}", reports.iter().map(words).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\u{1b}[2J[    0.812345] some warning of the kernel\r\n\
        kernel 6.1.0-56-cloud-amd64, jit on\r\n\
        ok     director/director        23716 of 400000 instructions verified, 28360 bytes, 15398 bytes of machine code\r\n\
        FAILED agent/clamp_mss          50000 of 45000 instructions verified, 9 bytes, 9 bytes of machine code: over its budget\r\n\
        ok     pass/pass                - of 10 instructions verified, 16 bytes, 19 bytes of machine code\r\n\
        ok     one of many fixtures\r\n\
        3 passed, 1 failed\r\n\
        [    3.346147] reboot: Power down\r\n";

    #[test]
    fn a_report_is_read_from_between_the_consoles_lines() {
        let report = Report::parse(CONSOLE).expect("complete");
        assert_eq!((report.release.as_str(), report.passed, report.failed), ("6.1.0-56-cloud-amd64", 3, 1));
        let program = |name: &str, verified, budget| Program { name: name.to_owned(), verified, budget };
        let expected = [
            program("director/director", Some(23_716), 400_000),
            program("agent/clamp_mss", Some(50_000), 45_000),
            program("pass/pass", None, 10),
        ];
        assert_eq!(report.programs, expected);
    }

    #[test]
    fn a_machine_that_died_has_no_report() {
        let cut = CONSOLE.split("3 passed").next().expect("some");
        assert_eq!(Report::parse(cut), None);
        assert_eq!(Report::parse("kernel 6.1, jit on\n0 passed, 0 failed\n"), None, "nothing was checked");
    }

    #[test]
    fn kernels_stand_side_by_side() {
        let reports = [Report::parse(CONSOLE), Report::parse(&CONSOLE.replace("23716", "58157"))];
        let table = table(&reports.map(|report| report.expect("complete")));
        let director = table.lines().nth(1).expect("a row");
        assert_eq!(
            director.split_whitespace().collect::<Vec<_>>(),
            ["director/director", "400000", "23716", "58157"]
        );
        assert!(table.lines().all(|line| line.len() == director.len()), "{table}");
    }
}
