//! The sample's periodic output.
//!
//! Owns: the lines about traffic, character for character. Touches neither maps nor the terminal.

/// Packets by IP protocol since the beginning.
pub(super) type Totals = [u64; 256];

/// What was reported last.
pub(super) struct Report {
    last: Box<Totals>,
}

impl Report {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { last: Box::new([0; 256]) }
    }

    /// The lines for an interval of `seconds` (at least one) that ended with these totals: one for each protocol that
    /// had traffic in it.
    pub(super) fn lines(&mut self, totals: &Totals, seconds: u64) -> Vec<String> {
        let mut lines = Vec::new();
        for (protocol, (now, last)) in totals.iter().zip(self.last.iter_mut()).enumerate() {
            let sum = now.wrapping_sub(*last);
            if sum > 0 {
                let rate = sum / seconds.max(1);
                lines.push(format!("proto {protocol}: sum:{sum:>10} pkts, rate:{rate:>10} pkts/s"));
            }
            *last = *now;
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_samples() {
        let mut report = Report::new();
        let mut totals = [0; 256];
        assert!(report.lines(&totals, 2).is_empty());
        totals[6] = 20;
        totals[17] = 3;
        assert_eq!(
            report.lines(&totals, 2),
            [
                "proto 6: sum:        20 pkts, rate:        10 pkts/s",
                "proto 17: sum:         3 pkts, rate:         1 pkts/s"
            ]
        );
        assert!(report.lines(&totals, 2).is_empty(), "no traffic, no line");
        totals[6] += 12_345_678_901;
        assert_eq!(report.lines(&totals, 1), ["proto 6: sum:12345678901 pkts, rate:12345678901 pkts/s"]);
    }
}
