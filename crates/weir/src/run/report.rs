//! What the director tells about itself.
//!
//! Owns: the reply to `Status`. Changes nothing. Invariant: numbers and states are read from the kernel at the time of
//! the call; names come from the configuration in force.

use std::collections::HashMap;
use std::net::IpAddr;

use weir_abi::{BackendState, Count, Encapsulation, Family, Reason, Verdict};
use weir_api::v1::{
    Backend, Configuration, Counter, FlowTable, Interface, Program, ProgramArray, Service, StatusReply,
};
use weir_config::State;
use weir_kernel::bpf::{Start, query};
use weir_kernel::net::MacAddress;
use weir_plan::{Observed, ObservedBackend, ObservedService, service_key};

use super::daemon::{Daemon, boot_time};
use super::server::version;
use crate::advice::{cause_line, of_bpf};

/// The whole report.
pub(super) fn status(daemon: &Daemon) -> anyhow::Result<StatusReply> {
    let observed = daemon.observed()?;
    let highest = observed.backends.keys().next_back().map_or(0, |id| id + 1);
    let counts = daemon.director.all_backend_counts(highest).map_err(|error| of_bpf(&error))?;
    let now = boot_time()?;
    let links: HashMap<u32, String> =
        daemon.rtnl.links()?.into_iter().map(|link| (link.index, link.name)).collect();
    let masks = observed.masks;
    let spread = (32 - masks.v4.count_ones(), 128 - masks.v6.count_ones());
    let context = Context { daemon, observed: &observed, counts: &counts, links: &links, now, spread };
    let info = daemon.director.program_info().map_err(|error| of_bpf(&error))?;
    Ok(StatusReply {
        build: Some(version()),
        uptime_seconds: daemon.started.elapsed().as_secs(),
        adopted: daemon.director.start() == Start::Adopted,
        configuration: Some(configuration(daemon)),
        interfaces: if daemon.config.director.program_array.is_some() {
            called_from(daemon)?
        } else {
            interfaces(daemon)
        },
        program_array: program_array(daemon)?,
        programs: vec![Program {
            name: info.name,
            id: info.id,
            verified_instructions: info.verified_insns.unwrap_or(0),
            jited_bytes: info.jited_bytes,
        }],
        services: daemon.config.services.iter().map(|service| context.service(service)).collect(),
        counters: counters(daemon)?,
        flow_table: Some(FlowTable {
            entries: u64::from(daemon.director.flows().len()) * weir_abi::FLOWS_PER_BUCKET as u64,
            tick_milliseconds: daemon.director.tick().as_millis() as u32,
        }),
    })
}

fn configuration(daemon: &Daemon) -> Configuration {
    let last = &daemon.last_load;
    Configuration {
        path: daemon.config_path.display().to_string(),
        last_result: if last.error.is_some() { "refused" } else { "applied" }.to_owned(),
        last_error: last.error.clone().unwrap_or_default(),
        last_seconds_ago: last.at.elapsed().as_secs(),
        reloads: daemon.reloads,
    }
}

fn interfaces(daemon: &Daemon) -> Vec<Interface> {
    let interface = |(name, (ifindex, attached)): (&String, &(u32, weir_kernel::bpf::Attached))| Interface {
        name: name.clone(),
        ifindex: *ifindex,
        xdp_mode: attached.mode.to_string(),
        fallback_reason: attached.fell_back.clone().unwrap_or_default(),
        advertised: daemon.addresses.on(name),
    };
    daemon.attached.iter().map(interface).collect()
}

/// The interfaces whose programs are to call the director.
fn called_from(daemon: &Daemon) -> anyhow::Result<Vec<Interface>> {
    let names = daemon.config.director.interfaces.iter().map(weir_config::InterfaceName::as_str);
    let interface = |name: &str| {
        let Some(link) = daemon.rtnl.find_link(name)? else {
            return Ok(Interface {
                name: name.to_owned(),
                xdp_mode: "none".to_owned(),
                ..Interface::default()
            });
        };
        let there = query(link.index).map_err(|error| of_bpf(&error))?;
        let mode = there.map(|there| there.mode.map_or("offload".to_owned(), |mode| mode.to_string()));
        Ok(Interface {
            advertised: daemon.addresses.on(name),
            name: link.name,
            ifindex: link.index,
            xdp_mode: mode.unwrap_or_else(|| "none".to_owned()),
            fallback_reason: String::new(),
        })
    };
    names.map(interface).collect()
}

fn program_array(daemon: &Daemon) -> anyhow::Result<Option<ProgramArray>> {
    let Some(array) = &daemon.config.director.program_array else { return Ok(None) };
    Ok(Some(ProgramArray {
        path: array.path.display().to_string(),
        position: array.position,
        next_position: array.next,
        program_id: daemon.director.placed().map_err(|error| of_bpf(&error))?.unwrap_or(0),
        problem: daemon.check_place(array).err().map(|error| cause_line(&error)).unwrap_or_default(),
    }))
}

fn counters(daemon: &Daemon) -> anyhow::Result<Vec<Counter>> {
    let counts = daemon.director.reasons().map_err(|error| of_bpf(&error))?;
    let counter = |(reason, count): (&Reason, &Count)| Counter {
        reason: reason.label().to_owned(),
        verdict: match reason.verdict() {
            Verdict::Pass => "pass",
            Verdict::Drop => "drop",
            Verdict::Forward => "forward",
            Verdict::Reply => "reply",
        }
        .to_owned(),
        packets: count.packets,
        bytes: count.bytes,
        explanation: reason.explain().trim().to_owned(),
    };
    Ok(Reason::ALL.iter().zip(&counts).map(counter).collect())
}

/// What a service's report is put together from.
struct Context<'a> {
    daemon: &'a Daemon,
    observed: &'a Observed,
    counts: &'a [Count],
    links: &'a HashMap<u32, String>,
    now: u32,
    /// Lengths of the networks of outer sources, of IPv4 and IPv6.
    spread: (u32, u32),
}

impl Context<'_> {
    fn service(&self, service: &weir_config::Service) -> Service {
        let live = self.observed.service(&service_key(&service.key));
        let id = live.map_or(0, ObservedService::id);
        let mut slots: HashMap<u32, u32> = HashMap::new();
        for slot in live.iter().flat_map(|live| &live.slots) {
            *slots.entry(*slot).or_default() += 1;
        }
        let mut records: Vec<(u32, &ObservedBackend)> = self
            .observed
            .backends
            .iter()
            .filter(|(_, b)| b.service_id() == id)
            .map(|(id, b)| (*id, b))
            .collect();
        let mut backends: Vec<Backend> = service
            .backends
            .iter()
            .map(|backend| {
                // The one that is up comes first: another of the same address has an old outer source, and drains.
                let found = (0..records.len())
                    .filter(|&at| records[at].1.address() == weir_abi::Address::from(backend.address))
                    .max_by_key(|&at| records[at].1.state() == BackendState::Up)
                    .map(|at| records.remove(at));
                self.configured(backend, found, &slots)
            })
            .collect();
        // Of one that is not configured any more, and has no outer header, the VIP's family is as good a guess as any.
        let family = Family::of(service.key.vip);
        backends.extend(records.into_iter().map(|(id, record)| self.stored(id, record, family, &slots)));
        Service {
            name: service.name.clone(),
            vip: service.key.vips().to_string(),
            port: u32::from(service.key.port),
            protocol: service.key.protocol.as_str().to_owned(),
            scheduler: service.scheduler.as_str().to_owned(),
            ring_slots: live.map_or(0, |live| live.ring().slots()),
            ring_fingerprint: match live.map_or(0, ObservedService::fingerprint) {
                0 => String::new(),
                fingerprint => format!("{fingerprint:016x}"),
            },
            backends,
            id,
            hash: service.hash.as_str().to_owned(),
            encapsulation: service.encapsulation.as_str().to_owned(),
            client_prefixes: service.sources.len() as u64,
        }
    }

    fn configured(
        &self,
        backend: &weir_config::Backend,
        record: Option<(u32, &ObservedBackend)>,
        slots: &HashMap<u32, u32>,
    ) -> Backend {
        let problem = self.daemon.ways.problem(backend).unwrap_or_default().to_owned();
        let base = match record {
            Some((id, record)) => self.stored(id, record, Family::of(backend.address), slots),
            None => Backend {
                address: backend.address.to_string(),
                state: if backend.state == State::Down { "down" } else { "waiting" }.to_owned(),
                ..Backend::default()
            },
        };
        let next_hop = self.daemon.ways.next_hop(backend).map(|ip| ip.to_string()).unwrap_or_default();
        Backend {
            name: backend.name.clone(),
            weight: u32::from(backend.weight),
            next_hop,
            problem,
            server_ids: backend.server_ids.clone(),
            ..base
        }
    }

    /// `family`: the address's, where its record does not say.
    fn stored(
        &self,
        id: u32,
        record: &ObservedBackend,
        family: Family,
        slots: &HashMap<u32, u32>,
    ) -> Backend {
        let encapsulation = record.encapsulation();
        let outer = encapsulation.and_then(Encapsulation::outer_family);
        let family = outer.unwrap_or(family);
        let encapsulation = match encapsulation {
            Some(Encapsulation::Ip4InIp4) => "ip4-in-ip4",
            Some(Encapsulation::Ip6InIp6) => "ip6-in-ip6",
            Some(Encapsulation::Ip4InIp6) => "ip4-in-ip6",
            Some(Encapsulation::Ip6InIp4) => "ip6-in-ip4",
            Some(Encapsulation::GueInIp4) => "gue-in-ip4",
            Some(Encapsulation::GueInIp6) => "gue-in-ip6",
            Some(Encapsulation::Layer2) => "l2",
            Some(Encapsulation::Local) => "local",
            None => "",
        };
        let is_local = record.encapsulation() == Some(Encapsulation::Local);
        let text = |ip: IpAddr| ip.to_string();
        let count = self.counts.get(id as usize).copied().unwrap_or_default();
        let state = match record.state() {
            BackendState::Up => "up",
            BackendState::Draining => "draining",
            BackendState::Down => "down",
        };
        Backend {
            address: text(record.address().to_ip(family)),
            state: state.to_owned(),
            ring_slots: slots.get(&id).copied().unwrap_or(0),
            packets: count.packets,
            bytes: count.bytes,
            mac: if is_local { String::new() } else { MacAddress(record.next_hop_mac()).to_string() },
            interface: self.links.get(&record.egress().ifindex()).cloned().unwrap_or_default(),
            vlan: u32::from(record.egress().vlan()),
            mtu: u32::from(record.mtu()),
            encapsulation: encapsulation.to_owned(),
            source: match (outer, record.spreads_source()) {
                (None, _) => String::new(),
                (Some(family), false) => text(record.source().to_ip(family)),
                (Some(Family::V4), true) => {
                    format!("{}/{}", text(record.source().to_ip(Family::V4)), self.spread.0)
                }
                (Some(Family::V6), true) => {
                    format!("{}/{}", text(record.source().to_ip(Family::V6)), self.spread.1)
                }
            },
            draining_seconds: u64::from(record.drain_until().saturating_sub(self.now)),
            id,
            ..Backend::default()
        }
    }
}
