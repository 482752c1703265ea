//! What is done with a packet, and why.
use weir_abi::{Reason, Verdict};

/// What the caller must do with the frame now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hand it to the kernel's network stack.
    Pass,
    /// Discard it.
    Drop,
    /// Send it out of the interface with this index; the frame is complete from its Ethernet header on.
    Send {
        /// Egress interface index, as the kernel numbers it.
        ifindex: u32,
    },
    /// Send it out of the interface it came in by; the frame is complete from its Ethernet header on.
    Reply,
}

/// Action and reason of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What to do.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

impl Outcome {
    /// The outcome of a packet that is not sent anywhere: the reason says whether it is passed or dropped.
    #[inline(always)]
    pub(crate) fn unforwarded(reason: Reason) -> Self {
        let action = if matches!(reason.verdict(), Verdict::Pass) { Action::Pass } else { Action::Drop };
        Self { action, reason }
    }
}

/// An outcome in one word, which a BPF function can return: reason (bits 0-15), action (16-31), interface (32-63).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedOutcome(u64);

impl PackedOutcome {
    const PASS: u64 = 0;
    const DROP: u64 = 1;
    const SEND: u64 = 2;
    const REPLY: u64 = 3;

    /// Packs.
    #[inline(always)]
    pub(crate) fn new(outcome: Outcome) -> Self {
        let (kind, ifindex) = match outcome.action {
            Action::Pass => (Self::PASS, 0),
            Action::Drop => (Self::DROP, 0),
            Action::Send { ifindex } => (Self::SEND, ifindex),
            Action::Reply => (Self::REPLY, 0),
        };
        Self(outcome.reason as u64 | kind << 16 | (ifindex as u64) << 32)
    }
    /// What to do.
    #[inline(always)]
    pub fn action(self) -> Action {
        match self.0 >> 16 & 0xffff {
            Self::PASS => Action::Pass,
            Self::SEND => Action::Send { ifindex: (self.0 >> 32) as u32 },
            Self::REPLY => Action::Reply,
            _ => Action::Drop,
        }
    }
    /// Both. (`None` for a reason that does not exist, which is never packed.)
    pub fn outcome(self) -> Option<Outcome> {
        Some(Outcome { action: self.action(), reason: Reason::from_index(self.0 as u32 & 0xffff)? })
    }
}
