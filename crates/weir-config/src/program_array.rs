//! The keys of `[director]` that say where a root program calls it.
//!
//! Owns: which of them go together. May not touch: other keys, but for `xdp_mode`, which says the opposite.

use crate::diagnostic::Report;
use crate::model::ProgramArray;
use crate::section::{Field, Reported, Section, Wrong};
use crate::value;
use crate::words::XdpMode;

const ARRAY: &str = "program_array";
const POSITION: &str = "program_position";
const NEXT: &str = "next_position";

/// The highest position: more programs in a row than the kernel lets call one another.
const MAX_POSITION: u32 = 63;

/// `None` if none of the keys is there.
pub(crate) fn read(
    section: &Section<'_>,
    xdp_mode: &Field<XdpMode>,
    report: &mut Report<'_>,
) -> Result<Option<ProgramArray>, Reported> {
    let array = section.read(report, ARRAY, value::absolute_path);
    let integer = |value| value::integer(value, 0..=MAX_POSITION);
    let next = section.read(report, NEXT, integer);
    if let Field::Absent = array {
        let mut alone = false;
        for (name, field) in [(POSITION, section.read(report, POSITION, integer)), (NEXT, next)] {
            alone |= !matches!(field, Field::Absent);
            if let Some(given) = field.given() {
                let wrong = Wrong::new("says nothing without `program_array`")
                    .help("add `program_array = \"/sys/fs/bpf/jmp_root\"`, where the root's array is pinned");
                section.wrong(report, name, &given.span, wrong);
            }
        }
        return if alone { Err(Reported) } else { Ok(None) };
    }
    let mut outcome = Ok(());
    if let Some(given) = xdp_mode.given() {
        let wrong = Wrong::new("cannot be given beside `program_array`")
            .help("remove it: packets come in the mode the root program is attached in");
        section.wrong(report, "xdp_mode", &given.span, wrong);
        outcome = Err(Reported);
    }
    let position = section.require(report, POSITION, integer).ok_or(Reported);
    if let (Ok(position), Some(next)) = (&position, next.given())
        && next.value <= position.value
    {
        let wrong = Wrong::new(format!(
            "must be higher than `program_position`, {}, not {}",
            position.value, next.value
        ))
        .help("give a position after weir's, so that packets cannot go round in circles");
        section.wrong(report, NEXT, &next.span, wrong);
        outcome = Err(Reported);
    }
    let (path, position, next) = (array.optional()?, position?.value, next.optional()?);
    outcome.map(|()| path.map(|path| ProgramArray { path, position, next }))
}
