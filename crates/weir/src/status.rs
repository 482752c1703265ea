//! `weir status`: what the director does now.
//!
//! Owns: how a report looks. Everything in it comes from the daemon.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use weir_api::v1::director_client::DirectorClient;
use weir_api::v1::{Backend, ProgramArray, Service, StatusReply, StatusRequest};

use crate::client::converse;

/// Options of `weir status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// The daemon's runtime directory.
    #[arg(long, default_value = crate::run::RUNTIME_DIR)]
    runtime_dir: PathBuf,
    /// How the report looks. `json` has all of it, under the names of the API's fields.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs the command.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let call = async |mut client: DirectorClient<_>| client.status(StatusRequest {}).await;
    let reply = converse(&args.runtime_dir, call)?.into_inner();
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&reply).context("cannot write JSON")?),
        Output::Text => print!("{}", render(&reply, std::io::stdout().is_terminal())),
    }
    Ok(ExitCode::SUCCESS)
}

/// The report for people.
fn render(reply: &StatusReply, colours: bool) -> String {
    let paint = Paint(colours);
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    if let (Some(build), Some(config)) = (&reply.build, &reply.configuration) {
        let _ = writeln!(
            text,
            "weir {} (process {}), up {}{}",
            build.version,
            build.pid,
            duration(reply.uptime_seconds),
            if reply.adopted { ", with the tables of an earlier run" } else { "" }
        );
        let _ = writeln!(
            text,
            "configuration {}: {} {} ago",
            config.path,
            paint.unless(&config.last_result, "applied"),
            duration(config.last_seconds_ago)
        );
        for line in config.last_error.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    for interface in &reply.interfaces {
        let _ =
            write!(text, "interface {}: xdp {}", interface.name, paint.unless(&interface.xdp_mode, "native"));
        if !interface.fallback_reason.is_empty() {
            let _ = write!(text, " ({})", interface.fallback_reason);
        }
        if !interface.advertised.is_empty() {
            let _ = write!(text, ", holds {}", interface.advertised.join(", "));
        }
        text.push('\n');
    }
    if let Some(array) = &reply.program_array {
        program_array_text(&mut text, array, paint);
    }
    for service in &reply.services {
        text.push('\n');
        service_text(&mut text, service, paint);
    }
    counters_text(&mut text, reply);
    text
}

fn program_array_text(text: &mut String, array: &ProgramArray, paint: Paint) {
    let _ = write!(text, "program array {}: position {}", array.path, array.position);
    if array.program_id != 0 {
        let _ = write!(text, ", program {}", array.program_id);
    }
    if let Some(next) = array.next_position {
        let _ = write!(text, ", passed packets go on to {next}");
    }
    text.push('\n');
    if !array.problem.is_empty() {
        let _ = writeln!(text, "  {}", paint.bad(&array.problem));
    }
}

fn service_text(text: &mut String, service: &Service, paint: Paint) {
    let port = if service.port == 0 { "*".to_owned() } else { service.port.to_string() };
    let vip = if service.vip.contains(':') { format!("[{}]", service.vip) } else { service.vip.clone() };
    let address = format!("{vip}:{port}/{}", service.protocol);
    let name = if service.name == address { String::new() } else { format!(" ({})", service.name) };
    let ring = match service.ring_slots {
        0 => paint.bad("no backend can take a flow"),
        slots => format!("{} ring of {slots} slots {}", service.scheduler, service.ring_fingerprint),
    };
    let mut ring = ring;
    if service.hash != "flow" {
        let _ = write!(ring, ", by {}", service.hash);
    }
    if service.encapsulation != "ipip" {
        let _ = write!(ring, ", {}", service.encapsulation);
    }
    if service.client_prefixes > 0 {
        let _ = write!(ring, ", {} prefixes of clients", service.client_prefixes);
    }
    let _ = writeln!(text, "service {address}{name}: {ring}");
    let mut rows =
        vec![["", "BACKEND", "STATE", "WEIGHT", "SHARE", "PACKETS", "BYTES", "NEXT HOP"].map(str::to_owned)];
    rows.extend(service.backends.iter().map(|backend| backend_row(backend, service.ring_slots)));
    table(text, &rows, &[false, false, false, true, true, true, true, false]);
    for backend in service.backends.iter().filter(|backend| !backend.problem.is_empty()) {
        let _ = writeln!(text, "  {}: {}", backend.address, paint.bad(&backend.problem));
    }
}

fn backend_row(backend: &Backend, slots: u32) -> [String; 8] {
    let name = match backend.name.as_str() {
        "" => format!("{} (removed)", backend.address),
        name if name == backend.address => name.to_owned(),
        name => format!("{name} {}", backend.address),
    };
    let state = match backend.draining_seconds {
        0 => backend.state.clone(),
        left => format!("{} {}", backend.state, duration(left)),
    };
    let share = f64::from(backend.ring_slots) * 100.0 / f64::from(slots.max(1));
    let interface = match backend.vlan {
        0 => backend.interface.clone(),
        vlan => format!("{} vlan {vlan}", backend.interface),
    };
    let way = match (backend.mac.as_str(), backend.next_hop.as_str()) {
        ("", _) if backend.encapsulation == "local" => "this machine".to_owned(),
        ("", _) => String::new(),
        (mac, "") => format!("{mac} {interface}"),
        (mac, hop) if hop == backend.address => format!("{mac} {interface}"),
        (mac, hop) => format!("{mac} {interface} via {hop}"),
    };
    [
        String::new(),
        name,
        state,
        backend.weight.to_string(),
        format!("{share:.1}%"),
        backend.packets.to_string(),
        backend.bytes.to_string(),
        way,
    ]
}

fn counters_text(text: &mut String, reply: &StatusReply) {
    let counted: Vec<_> = reply.counters.iter().filter(|counter| counter.packets > 0).collect();
    text.push('\n');
    if counted.is_empty() {
        text.push_str("no packet so far\n");
        return;
    }
    let mut rows = vec![["", "VERDICT", "REASON", "PACKETS", "BYTES", ""].map(str::to_owned)];
    rows.extend(counted.iter().map(|counter| {
        let numbers = [counter.packets.to_string(), counter.bytes.to_string()];
        let [packets, bytes] = numbers;
        [
            String::new(),
            counter.verdict.clone(),
            counter.reason.clone(),
            packets,
            bytes,
            counter.explanation.clone(),
        ]
    }));
    table(text, &rows, &[false, false, false, true, true, false]);
}

/// Rows in columns as wide as need be; `right` says which are aligned to the right.
fn table<const N: usize>(text: &mut String, rows: &[[String; N]], right: &[bool; N]) {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if right[column] {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// `3d 4h`, `2h 5m`, `7m 9s`, `12s`.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Marks what deserves attention, on a terminal.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn bad(self, text: &str) -> String {
        if self.0 { format!("\x1b[1;33m{text}\x1b[0m") } else { text.to_owned() }
    }
    fn unless(self, text: &str, good: &str) -> String {
        if text == good { text.to_owned() } else { self.bad(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_aligned_and_says_what_is_wrong() {
        let backend = |name: &str, address: &str, slots, packets| Backend {
            name: name.to_owned(),
            address: address.to_owned(),
            weight: 1,
            state: "up".to_owned(),
            ring_slots: slots,
            packets,
            bytes: packets * 60,
            next_hop: address.to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            interface: "eth0".to_owned(),
            ..Backend::default()
        };
        let waiting = Backend {
            address: "10.0.0.13".to_owned(),
            name: "10.0.0.13".to_owned(),
            state: "waiting".to_owned(),
            problem: "10.0.0.13 does not answer".to_owned(),
            ..Backend::default()
        };
        let service = Service {
            name: "web".to_owned(),
            vip: "192.0.2.10".to_owned(),
            port: 80,
            protocol: "tcp".to_owned(),
            scheduler: "maglev".to_owned(),
            ring_slots: 256,
            ring_fingerprint: "00ff00ff00ff00ff".to_owned(),
            backends: vec![
                backend("rs1", "10.0.0.11", 128, 5),
                backend("rs2", "10.0.0.12", 128, 12_345),
                waiting,
            ],
            id: 1,
            hash: "flow".to_owned(),
            encapsulation: "ipip".to_owned(),
            client_prefixes: 0,
        };
        let mut text = String::new();
        service_text(&mut text, &service, Paint(false));
        assert_eq!(
            text,
            "service 192.0.2.10:80/tcp (web): maglev ring of 256 slots 00ff00ff00ff00ff\n\
             \u{20} BACKEND        STATE    WEIGHT  SHARE  PACKETS   BYTES  NEXT HOP\n\
             \u{20} rs1 10.0.0.11  up            1  50.0%        5     300  02:00:00:00:00:01 eth0\n\
             \u{20} rs2 10.0.0.12  up            1  50.0%    12345  740700  02:00:00:00:00:01 eth0\n\
             \u{20} 10.0.0.13      waiting       0   0.0%        0       0\n\
             \u{20} 10.0.0.13: 10.0.0.13 does not answer\n"
        );
    }

    #[test]
    fn what_is_not_as_usual_is_said() {
        let service = Service {
            name: "[2001:db8::/48]:*/udp".to_owned(),
            vip: "2001:db8::/48".to_owned(),
            protocol: "udp".to_owned(),
            scheduler: "wrr".to_owned(),
            ring_slots: 256,
            ring_fingerprint: "00ff00ff00ff00ff".to_owned(),
            hash: "source".to_owned(),
            encapsulation: "gue".to_owned(),
            client_prefixes: 3,
            backends: vec![
                Backend {
                    address: "10.0.0.11".to_owned(),
                    name: "10.0.0.11".to_owned(),
                    state: "up".to_owned(),
                    mac: "02:00:00:00:00:01".to_owned(),
                    interface: "eth0".to_owned(),
                    vlan: 7,
                    ..Backend::default()
                },
                Backend {
                    address: "10.0.0.2".to_owned(),
                    name: "10.0.0.2".to_owned(),
                    state: "down".to_owned(),
                    encapsulation: "local".to_owned(),
                    ..Backend::default()
                },
            ],
            ..Service::default()
        };
        let mut text = String::new();
        service_text(&mut text, &service, Paint(false));
        assert_eq!(
            text,
            "service [2001:db8::/48]:*/udp: wrr ring of 256 slots 00ff00ff00ff00ff, by source, gue, 3 prefixes of \
             clients\n\
             \u{20} BACKEND    STATE  WEIGHT  SHARE  PACKETS  BYTES  NEXT HOP\n\
             \u{20} 10.0.0.11  up          0   0.0%        0      0  02:00:00:00:00:01 eth0 vlan 7\n\
             \u{20} 10.0.0.2   down        0   0.0%        0      0  this machine\n"
        );
    }

    #[test]
    fn a_place_in_a_program_array_and_what_is_wrong_with_it() {
        let array = ProgramArray {
            path: "/sys/fs/bpf/jmp_root".to_owned(),
            position: 2,
            next_position: Some(3),
            program_id: 42,
            problem: String::new(),
        };
        let mut text = String::new();
        program_array_text(&mut text, &array, Paint(false));
        let lost = ProgramArray { program_id: 0, next_position: None, problem: "gone".to_owned(), ..array };
        program_array_text(&mut text, &lost, Paint(false));
        assert_eq!(
            text,
            "program array /sys/fs/bpf/jmp_root: position 2, program 42, passed packets go on to 3\n\
             program array /sys/fs/bpf/jmp_root: position 2\n\
             \u{20} gone\n"
        );
    }

    #[test]
    fn durations_have_two_units() {
        let texts = [0, 59, 61, 7265, 180_000].map(duration);
        assert_eq!(texts, ["0s", "59s", "1m 1s", "2h 1m", "2d 2h"]);
    }
}
