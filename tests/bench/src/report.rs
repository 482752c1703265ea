//! The figures, as a table and as JSON.
use crate::{
    case::{Case, Samples},
    machine,
    rig::Rig,
};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// One case's figures.
struct Row {
    name: String,
    best: u32,
    median: u32,
    x_iptunnel: Option<f64>,
    x_lru: Option<f64>,
    verified_insns: Option<u32>,
}

/// All figures of a run.
pub(crate) struct Report(Vec<Row>);

impl Report {
    pub(crate) fn new(cases: &[Case], samples: &[Samples], rig: &Rig) -> anyhow::Result<Self> {
        let best = |name: &str| {
            let at = cases.iter().position(|case| case.name == name)?;
            Some(f64::from(samples[at].best())).filter(|ns| *ns > 0.0)
        };
        let row = |(case, samples): (&Case, &Samples)| {
            let ns = f64::from(samples.best());
            let lru = best(&format!("lru_{}", case.name.trim_start_matches("lru_")));
            Ok(Row {
                name: case.name.clone(),
                best: samples.best(),
                median: samples.median(),
                x_iptunnel: best("iptunnel").map(|reference| ns / reference),
                x_lru: lru.map(|reference| ns / reference),
                verified_insns: rig.verified_insns(case.target)?,
            })
        };
        Ok(Self(cases.iter().zip(samples).map(row).collect::<anyhow::Result<_>>()?))
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> Value {
        let round = |ratio: Option<f64>| ratio.map(|ratio| (ratio * 1000.0).round() / 1000.0);
        let cases: Vec<Value> = self
            .0
            .iter()
            .map(|row| {
                json!({
                    "name": row.name,
                    "ns_best": row.best,
                    "ns_median": row.median,
                    "x_iptunnel": round(row.x_iptunnel),
                    "x_lru": round(row.x_lru),
                    "verified_insns": row.verified_insns,
                })
            })
            .collect();
        json!({ "machine": machine::describe(), "cases": cases })
    }

    /// A table for people.
    pub(crate) fn table(&self) -> String {
        let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let mut text = format!(
            "nanoseconds a packet, net of the harness, on {}\n\n{:<18} {:>7} {:>7} {:>11} {:>7} {:>9}\n",
            machine::describe(),
            "case",
            "best",
            "median",
            "x iptunnel",
            "x lru",
            "verified"
        );
        for row in &self.0 {
            let insns = row.verified_insns.map_or("-".to_owned(), |count| count.to_string());
            let _ = writeln!(
                text,
                "{:<18} {:>7} {:>7} {:>11} {:>7} {:>9}",
                row.name,
                row.best,
                row.median,
                ratio(row.x_iptunnel),
                ratio(row.x_lru),
                insns
            );
        }
        text
    }
}
