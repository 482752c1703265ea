//! The real servers of an image, as their agent's tables.
use crate::image::{SPREAD_NETWORK_V4, SPREAD_NETWORK_V6, director_address};
use crate::{Image, Inside};
use std::net::IpAddr;
use weir_abi::{Address, Family, agent};
use weir_datapath::decap;

/// All of them as one machine.
#[derive(Clone, Copy, Debug)]
pub struct RealServers<'a>(pub &'a Image);

impl RealServers<'_> {
    /// Checks that they make of `output`, which the director made of `input` and wrapped, what was sent to it. `Err` says
    /// what they do instead.
    pub fn get_back(&self, input: &[u8], output: &[u8]) -> Result<(), String> {
        let mut frame = crate::MemoryFrame::new(output);
        let reason = decap::unwrap_tagged(&mut frame, self);
        if reason.verdict() != agent::Verdict::Unwrap {
            return Err(format!("a real server does not unwrap it: {}", reason.label()));
        }
        let inside = Inside::of(input, self.0);
        let (sent, got) = (crate::outer::untagged(inside.or(input)), crate::outer::untagged(frame.bytes()));
        if sent == got { Ok(()) } else { Err(format!("a real server gets {got:02x?}, not {sent:02x?}")) }
    }
}

impl decap::AgentTables for RealServers<'_> {
    fn is_director(&self, family: Family, address: Address) -> bool {
        let address = address.to_ip(family);
        let spread = match address {
            IpAddr::V4(v4) => v4.octets()[..2] == SPREAD_NETWORK_V4.octets()[..2],
            IpAddr::V6(v6) => v6.octets()[..8] == SPREAD_NETWORK_V6.octets()[..8],
        };
        director_address(address) == address || spread
    }
    fn is_own(&self, family: Family, address: Address) -> bool {
        self.0.specs.iter().any(|spec| spec.backends.contains(&address.to_ip(family)))
    }
    fn is_vip(&self, family: Family, address: Address) -> bool {
        self.0.specs.iter().any(|spec| spec.has_vip(address.to_ip(family)))
    }
    fn gue_port(&self) -> agent::GuePort {
        agent::GuePort::new(self.0.director.gue_port)
    }
    fn count(&self, _: agent::Reason, _: u64) {}
}
