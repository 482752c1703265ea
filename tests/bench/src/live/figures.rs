//! Packets a second, as a table and as JSON.
//!
//! Owns: the arithmetic of samples. May not touch: how they were taken.
use crate::machine;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// One sample of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Packets that the program counted.
    pub packets: u64,
    /// Packets that were sent to it.
    pub sent: u64,
    /// Time that sending took.
    pub elapsed: Duration,
    /// Time that the CPU spent in softirqs meanwhile.
    pub softirq: Duration,
}

/// The samples of one case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Sample>);

impl Samples {
    pub(crate) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Packets a second in each sample, the least first.
    fn rates(&self) -> Vec<f64> {
        let rate = |sample: &Sample| real(sample.packets) / sample.elapsed.as_secs_f64();
        let mut rates: Vec<f64> = self.0.iter().map(rate).filter(|rate| rate.is_finite()).collect();
        rates.sort_by(f64::total_cmp);
        rates
    }

    fn best(&self) -> Option<f64> {
        self.rates().last().copied()
    }

    fn median(&self) -> Option<f64> {
        let rates = self.rates();
        rates.get(rates.len() / 2).copied()
    }

    /// Packets a second of softirq time, over all samples: that time comes in units too coarse for one sample.
    fn per_core(&self) -> Option<f64> {
        let packets: u64 = self.0.iter().map(|sample| sample.packets).sum();
        let softirq: Duration = self.0.iter().map(|sample| sample.softirq).sum();
        (!softirq.is_zero()).then(|| real(packets) / softirq.as_secs_f64())
    }

    /// The share of packets sent that the program never saw.
    fn lost(&self) -> f64 {
        let (packets, sent) =
            self.0.iter().fold((0, 0), |(packets, sent), one| (packets + one.packets, sent + one.sent));
        if sent == 0 { 0.0 } else { 1.0 - real(packets) / real(sent) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "no run takes 2^53 packets")]
fn real(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_sign_loss, reason = "no rate is below zero")]
fn whole(rate: Option<f64>) -> Option<u64> {
    rate.map(|rate| rate.round() as u64)
}

/// All figures of a run.
pub(crate) struct Report {
    cases: Vec<(String, Samples)>,
    cpu: usize,
}

impl Report {
    pub(crate) fn new(cases: Vec<(String, Samples)>, cpu: usize) -> Self {
        Self { cases, cpu }
    }

    /// `best` as a multiple of the reference's.
    fn x_iptunnel(&self, samples: &Samples) -> Option<f64> {
        let (_, reference) = self.cases.iter().find(|(name, _)| name == "iptunnel")?;
        Some(samples.best()? / reference.best()?)
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> Value {
        json!({ "machine": machine::describe(), "live": self.live() })
    }

    fn live(&self) -> Value {
        let case = |(name, samples): &(String, Samples)| {
            let ratio = self.x_iptunnel(samples).map(|ratio| (ratio * 1000.0).round() / 1000.0);
            json!({
                "name": name,
                "pps_best": whole(samples.best()),
                "pps_median": whole(samples.median()),
                "pps_per_core": whole(samples.per_core()),
                "x_iptunnel": ratio,
                "lost": (samples.lost() * 10_000.0).round() / 10_000.0,
            })
        };
        self.cases.iter().map(case).collect()
    }

    /// A table for people.
    pub(crate) fn table(&self) -> String {
        let millions = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{:.3}", rate / 1e6));
        let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let mut text = format!(
            "million packets a second over a veth pair, all on CPU {} of {}\n\n\
             {:<18} {:>8} {:>8} {:>9} {:>11} {:>7}\n",
            self.cpu,
            machine::describe(),
            "case",
            "best",
            "median",
            "per core",
            "x iptunnel",
            "lost"
        );
        for (name, samples) in &self.cases {
            let _ = writeln!(
                text,
                "{name:<18} {:>8} {:>8} {:>9} {:>11} {:>6.2}%",
                millions(samples.best()),
                millions(samples.median()),
                millions(samples.per_core()),
                ratio(self.x_iptunnel(samples)),
                samples.lost() * 100.0
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(packets: &[(u64, u64)]) -> Samples {
        let sample = |&(packets, softirq)| Sample {
            packets,
            sent: packets + packets / 4,
            elapsed: Duration::from_millis(500),
            softirq: Duration::from_millis(softirq),
        };
        Samples(packets.iter().map(sample).collect())
    }

    #[test]
    fn rates_are_packets_over_time() {
        let samples = samples(&[(1000, 400), (4000, 0), (2000, 300)]);
        assert_eq!(samples.best(), Some(8000.0));
        assert_eq!(samples.median(), Some(4000.0));
        // 7,000 packets in 0.7 s, a sample without a tick included.
        assert_eq!(samples.per_core(), Some(10_000.0));
        assert!((samples.lost() - 0.2).abs() < 1e-9);
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        let nothing = Samples::default();
        assert_eq!((nothing.best(), nothing.median(), nothing.per_core()), (None, None, None));
        assert_eq!(samples(&[(1000, 0)]).per_core(), None, "no softirq time is no rate");
        let timeless = Sample { packets: 1, sent: 1, elapsed: Duration::ZERO, softirq: Duration::ZERO };
        assert_eq!(Samples(vec![timeless]).best(), None);
    }

    #[test]
    fn the_report_compares_with_the_tunnel_sample() {
        let cases = [("floor", 3000), ("iptunnel", 2000), ("tcp4_hit_1", 1500)];
        let cases = cases.map(|(name, packets)| (name.to_owned(), samples(&[(packets, 250)]))).to_vec();
        let report = Report::new(cases, 1);
        let expected = json!([
            { "name": "floor", "pps_best": 6000, "pps_median": 6000, "pps_per_core": 12000, "x_iptunnel": 1.5, "lost": 0.2 },
            { "name": "iptunnel", "pps_best": 4000, "pps_median": 4000, "pps_per_core": 8000, "x_iptunnel": 1.0, "lost": 0.2 },
            { "name": "tcp4_hit_1", "pps_best": 3000, "pps_median": 3000, "pps_per_core": 6000, "x_iptunnel": 0.75, "lost": 0.2 },
        ]);
        assert_eq!(report.live(), expected);
        let table = report.table();
        assert!(
            table.lines().any(|line| line.starts_with("tcp4_hit_1 ") && line.contains("0.75")),
            "{table}"
        );
    }
}
