//! `weir lab status`: what there is of a lab, and what to do with it.
//!
//! Owns: rendering. May not touch: anything; it only looks.

use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::{Value, json};
use weir_kernel::net::Netns;

use super::director::{self, url};
use super::layout::{HTTP, Layout, PORT};
use super::process;
use super::state::{Name, Record};
use crate::advice::Advise as _;

/// Shows a lab.
pub(super) fn status(lab: &Name, as_json: bool) -> anyhow::Result<ExitCode> {
    let Some(record) = Record::read(lab) else {
        return Err(anyhow!("lab {} is not up", lab.as_str()))
            .advise(format!("run `weir lab up{}`", lab.option()));
    };
    let layout = Layout::new(record.topology);
    let existing = Netns::list()?;
    let hosts: Vec<Value> = layout
        .hosts
        .iter()
        .map(|host| {
            let namespace = lab.namespace(host.name);
            json!({
                "name": host.name,
                "exists": existing.contains(&namespace),
                "namespace": namespace,
                "addresses": layout.addresses(host.name).map(|a| a.to_string()).collect::<Vec<_>>(),
            })
        })
        .collect();
    let processes: Vec<Value> = process::recorded(lab)
        .iter()
        .map(|p| json!({ "name": p.label, "pid": p.process.pid, "alive": p.process.is_alive() }))
        .collect();
    let services: Vec<Value> = layout
        .services
        .iter()
        .map(|s| json!({ "name": s.name, "vip": s.vip.to_string(), "url": url(s.vip, HTTP) }))
        .collect();
    let value = json!({
        "name": lab.as_str(),
        "topology": record.topology.as_str(),
        "complete": record.complete,
        "xdp_mode": director::xdp_mode(lab),
        "hosts": hosts,
        "processes": processes,
        "services": services,
        "config": lab.config(),
        "runtime_dir": lab.host_dir(director::LABEL),
    });
    if as_json {
        println!("{value:#}");
    } else {
        print!("{}", text(lab, record, &value));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(lab: &Name, record: Record, value: &Value) -> String {
    use std::fmt::Write as _;
    let word = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut text = String::new();
    let whole = if record.complete { "" } else { ", NOT COMPLETE: run `weir lab up` again" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "lab {}: {}{whole}", lab.as_str(), record.topology);
    if record.director {
        let _ = writeln!(text, "director: xdp {}", word(&value["xdp_mode"]));
    } else {
        let _ = writeln!(text, "director: not run by the lab; xdp {}", word(&value["xdp_mode"]));
    }
    let _ = writeln!(text, "\nhosts");
    for host in list(&value["hosts"]) {
        let addresses: Vec<_> = list(&host["addresses"]).iter().map(&word).collect();
        let addresses = if addresses.is_empty() { "-".to_owned() } else { addresses.join(" ") };
        let gone = if host["exists"] == true { "" } else { "  GONE" };
        let _ =
            writeln!(text, "  {:<10}{:<28} {addresses}{gone}", word(&host["name"]), word(&host["namespace"]));
    }
    let _ = writeln!(text, "\nprocesses");
    for process in list(&value["processes"]) {
        let state = if process["alive"] == true { "alive" } else { "ENDED" };
        let _ =
            writeln!(text, "  {:<10}pid {:<23} {state}", word(&process["name"]), process["pid"].to_string());
    }
    let weir = std::env::args().next().unwrap_or_else(|| "weir".to_owned());
    let option = lab.option();
    let (config, runtime) = (word(&value["config"]), word(&value["runtime_dir"]));
    let (see_in, see_on) = Layout::new(record.topology).director_peer().unwrap_or(("director", PORT));
    let _ = writeln!(text, "\ntry");
    for service in list(&value["services"]) {
        let _ = writeln!(text, "  {weir} lab exec{option} client -- curl '{}'", word(&service["url"]));
    }
    let _ =
        writeln!(text, "  {weir} lab exec{option} {see_in} -- tcpdump -ni {see_on} 'proto 4 or proto 41'");
    if record.director {
        let _ = writeln!(text, "  {weir} status --runtime-dir {runtime}");
        let _ = writeln!(text, "  $EDITOR {config} && {weir} reload --runtime-dir {runtime}");
    } else {
        let _ = writeln!(
            text,
            "  {weir} lab exec{option} --keep-mounts director -- {weir} run --config {config} --runtime-dir {runtime}"
        );
    }
    let _ = writeln!(text, "  {weir} lab down{option}");
    text
}
