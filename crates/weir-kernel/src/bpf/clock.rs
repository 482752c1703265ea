//! The flow table's clock: coarse ticks of the kernel's jiffies.

use std::time::Duration;

use nix::time::{ClockId, clock_getres};

use super::Error;

/// What a tick should last, about.
const WANTED: Duration = Duration::from_secs(8);

/// Jiffies in a second (CONFIG_HZ).
///
/// Coarse clocks advance once a jiffy, and the kernel says so: their resolution is one jiffy's length.
pub(crate) fn hz() -> Result<u32, Error> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(|errno| Error::doing("ask for the length of a jiffy")(errno.into()))?;
    let jiffy = Duration::from(resolution).as_nanos().max(1);
    Ok((Duration::from_secs(1).as_nanos() + jiffy / 2).checked_div(jiffy).unwrap_or(1).max(1) as u32)
}

/// The shift that makes ticks of about eight seconds out of jiffies: the nearest power of two.
pub(crate) fn tick_shift(hz: u32) -> u32 {
    let wanted = hz * WANTED.as_secs() as u32;
    // Nearest on a logarithmic scale: round up from wanted * sqrt(1/2).
    (wanted * 181 / 128).max(1).ilog2()
}

/// How long a tick lasts.
pub(crate) fn tick(hz: u32, shift: u32) -> Duration {
    Duration::from_nanos((1_000_000_000u64 << shift) / u64::from(hz))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_last_about_eight_seconds_at_every_hz() {
        for hz in [100, 250, 300, 1000] {
            let tick = tick(hz, tick_shift(hz));
            assert!((5.6..11.4).contains(&tick.as_secs_f64()), "{hz} Hz: {tick:?}");
        }
        assert_eq!(tick(1000, tick_shift(1000)), Duration::from_millis(8192));
        assert_eq!(tick(250, tick_shift(250)), Duration::from_millis(8192));
    }

    /// `/proc/timer_list` (root) prints the real jiffies.
    #[test]
    fn hz_is_the_rate_of_jiffies() {
        let jiffies = || -> u64 {
            let text = std::fs::read_to_string("/proc/timer_list").expect("root can read the timer list");
            let line = text.lines().find_map(|line| line.trim().strip_prefix("jiffies: "));
            line.expect("the timer list has the jiffies").parse().expect("a number")
        };
        let (began, first) = (std::time::Instant::now(), jiffies());
        std::thread::sleep(Duration::from_millis(300));
        let (elapsed, last) = (began.elapsed(), jiffies());
        let rate = f64::from((last - first) as u32) / elapsed.as_secs_f64();
        let hz = f64::from(hz().expect("the kernel tells"));
        assert!((rate / hz - 1.0).abs() < 0.1, "{rate} jiffies a second, {hz} said");
    }
}
