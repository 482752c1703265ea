//! What is done with a packet, and why.
use weir_abi::Reason;

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
    /// The outcome of a packet that is not forwarded: the reason says whether it is passed or dropped.
    #[inline(always)]
    pub(crate) fn unforwarded(reason: Reason) -> Self {
        let action =
            if matches!(reason.verdict(), weir_abi::Verdict::Pass) { Action::Pass } else { Action::Drop };
        Self { action, reason }
    }
}
