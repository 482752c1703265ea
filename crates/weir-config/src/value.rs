//! Single values: what may be written, and what it means.
//!
//! Owns: the reading of one value at a time, but for addresses (`address`). May not touch: other keys, other tables.
//! Invariant: whoever gets a value from here need not check it again by itself.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use crate::model::{InterfaceName, RingSlots};
use crate::section::{Wrong, closest};
use crate::words::Word;

/// A day: the longest draining may take.
const DAY: u64 = 24 * 60 * 60;
/// The longest idle timeout: the flow table's clock goes round every five to nine hours.
const IDLE_MAX: u64 = 4 * 60 * 60;

pub(crate) fn text<'d>(value: &'d DeValue<'_>) -> Result<&'d str, Wrong> {
    value.as_str().ok_or_else(|| Wrong::type_of(value, "a string in quotes"))
}

/// An integer in a range that may be written in any way TOML has.
pub(crate) fn integer(value: &DeValue<'_>, range: RangeInclusive<u32>) -> Result<u32, Wrong> {
    let DeValue::Integer(integer) = value else { return Err(Wrong::type_of(value, "an integer")) };
    u32::from_str_radix(integer.as_str(), integer.radix())
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| Wrong::new(format!("must be {} to {}, not {integer}", range.start(), range.end())))
}

/// One of an enumeration's words.
pub(crate) fn word<T: Word>(value: &DeValue<'_>) -> Result<T, Wrong> {
    let written = text(value)?;
    if let Some(&(_, found)) = T::WORDS.iter().find(|(word, _)| *word == written) {
        return Ok(found);
    }
    let names = || T::WORDS.iter().map(|(word, _)| *word);
    let folded = written.to_lowercase();
    let known_as = T::KNOWN_AS.iter().find(|(other, _)| *other == folded).map(|(_, word)| *word);
    let wrong = Wrong::new(format!("cannot be \"{}\"", written.escape_debug()));
    Err(wrong.help(match known_as.or_else(|| closest(&folded, names())) {
        Some(name) => format!("did you mean \"{name}\"?"),
        None => format!(
            "available are {}",
            names().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
        ),
    }))
}

/// Yes or no.
pub(crate) fn boolean(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| Wrong::type_of(value, "true or false"))
}

/// A port, or 0 for `"*"`.
pub(crate) fn port(value: &DeValue<'_>) -> Result<u16, Wrong> {
    const HELP: &str =
        "write a port such as `port = 80`, or `port = \"*\"` for all that have no service of their own";
    match value {
        DeValue::String(written) if written == "*" => Ok(0),
        DeValue::String(written) => {
            let wrong =
                Wrong::new(format!("must be an integer or \"*\", not \"{}\"", written.escape_debug()));
            Err(match written.parse::<u16>() {
                Ok(number) if number > 0 => wrong.help(format!("write `port = {number}`, without quotes")),
                _ => wrong.help(HELP),
            })
        }
        DeValue::Integer(_) => Ok(integer(value, 1..=65535).map_err(|wrong| wrong.help(HELP))? as u16),
        _ => Err(Wrong::type_of(value, "an integer or \"*\"").help(HELP)),
    }
}

/// Seconds as an integer, or a string with a unit, within `range` in seconds.
pub(crate) fn duration(value: &DeValue<'_>, range: RangeInclusive<u64>) -> Result<Duration, Wrong> {
    let (seconds, written) = match value {
        DeValue::Integer(integer) => {
            (u64::from_str_radix(integer.as_str(), integer.radix()).ok(), integer.to_string())
        }
        DeValue::String(written) => {
            let seconds = seconds_of(written).ok_or_else(|| {
                Wrong::new(format!("is not a time: \"{}\"", written.escape_debug()))
                    .help("write a whole number and s, m or h, such as \"90s\", \"15m\" or \"2h\"")
            })?;
            (Some(seconds), format!("\"{written}\""))
        }
        _ => return Err(Wrong::type_of(value, "a time such as \"15m\"")),
    };
    seconds.filter(|seconds| range.contains(seconds)).map(Duration::from_secs).ok_or_else(|| {
        let [from, to] =
            [range.start(), range.end()].map(|&seconds| duration_text(Duration::from_secs(seconds)));
        Wrong::new(format!("must be {from} to {to}, not {written}"))
    })
}

/// `None` if it is not a time. (One that no clock can tell is as long as any.)
fn seconds_of(written: &str) -> Option<u64> {
    let unit = match written.as_bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3600,
        _ => return None,
    };
    let digits = &written[..written.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit))
}

/// Whole seconds in the largest unit that holds them: `15m`.
pub(crate) fn duration_text(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds > 0 && seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        seconds if seconds > 0 && seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// 10 s to 4 h.
pub(crate) fn idle_timeout(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    duration(value, 10..=IDLE_MAX)
}

/// None at all to a day.
pub(crate) fn drain(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    duration(value, 0..=DAY)
}

/// A MAC address of one machine, in wire order.
pub(crate) fn mac(value: &DeValue<'_>) -> Result<[u8; 6], Wrong> {
    let written = text(value)?;
    let wrong = |what: &str| Wrong::new(format!("{what}: \"{}\"", written.escape_debug()));
    let mut mac = [0; 6];
    let mut pairs = written.split([':', '-']);
    for byte in &mut mac {
        let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|c| c.is_ascii_hexdigit()));
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(|| {
            wrong("is not a MAC address").help("write six pairs of hex digits, such as \"02:00:00:00:00:01\"")
        })?;
    }
    if pairs.next().is_some() {
        return Err(wrong("has more than six bytes"));
    }
    if mac == [0; 6] || mac[0] & 1 != 0 {
        let help = "give the MAC address of the backend or of the router before it; `ip neigh` shows them";
        return Err(wrong("is not the MAC address of one machine").help(help));
    }
    Ok(mac)
}

/// A weight.
pub(crate) fn weight(value: &DeValue<'_>) -> Result<u16, Wrong> {
    integer(value, 0..=65535).map(|weight| weight as u16)
}

/// Flows a second that may enter the flow table; `None` is as many as there are.
pub(crate) fn new_flow_budget(value: &DeValue<'_>) -> Result<Option<u32>, Wrong> {
    match integer(value, 0..=100_000_000)? {
        0 => Ok(None),
        flows @ 64.. => Ok(Some(flows)),
        flows => Err(Wrong::new(format!("must be 0 or 64 to 100000000, not {flows}"))
            .help("write 64 or more, or 0 for no limit")),
    }
}

/// The number of a ring's slots; 0 is automatic.
pub(crate) fn ring_slots(value: &DeValue<'_>) -> Result<RingSlots, Wrong> {
    match integer(value, 0..=1 << 20)? {
        0 => Ok(RingSlots::Automatic),
        slots if slots >= 256 && slots.is_power_of_two() => Ok(RingSlots::Exactly(slots)),
        slots => Err(Wrong::new(format!("must be 0 or a power of two from 256 to 1048576, not {slots}"))
            .help(format!(
                "write `ring_slots = {}`, or 0 to have it chosen",
                slots.next_power_of_two().max(256)
            ))),
    }
}

/// The number of entries of the flow table, rounded up to a power of two.
pub(crate) fn flow_table_entries(value: &DeValue<'_>) -> Result<u32, Wrong> {
    integer(value, 8192..=1 << 28).map(u32::next_power_of_two)
}

/// The number of entries of the fragment table, rounded up to a power of two.
pub(crate) fn fragment_table_entries(value: &DeValue<'_>) -> Result<u32, Wrong> {
    integer(value, 8..=1 << 24).map(u32::next_power_of_two)
}

/// A path that means the same wherever the process was started.
pub(crate) fn absolute_path(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let written = text(value)?;
    if written.contains('\0') {
        return Err(Wrong::new("cannot contain a NUL"));
    }
    if !Path::new(written).is_absolute() {
        return Err(Wrong::new(format!("must be an absolute path, not \"{}\"", written.escape_debug())));
    }
    Ok(PathBuf::from(written))
}

/// The name of a service or a backend, as it goes into metrics and command lines.
pub(crate) fn name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let written = text(value)?;
    let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\');
    if written.is_empty() || written.len() > 64 || !written.chars().all(fits) {
        let help = "write 1 to 64 letters, digits and signs of ASCII, without spaces, quotes and backslashes";
        return Err(Wrong::new(format!("cannot be \"{}\"", written.escape_debug())).help(help));
    }
    Ok(written.to_owned())
}

/// The name of a network interface.
pub(crate) fn interface(value: &DeValue<'_>) -> Result<InterfaceName, Wrong> {
    let written = text(value)?;
    InterfaceName::new(written).ok_or_else(|| {
        Wrong::new(format!(
            "contains \"{}\", which cannot be the name of an interface",
            written.escape_debug()
        ))
        .help("write names as `ip link` shows them (before any @): 1 to 15 bytes")
    })
}
