//! How many instructions the verifier may walk for each program.
//!
//! Owns: the table, the only one, and the rule. May not touch: the kernel. A kernel gives up at a million
//! (`BPF_COMPLEXITY_LIMIT_INSNS`), and one counts differently from the next for the same program; a budget leaves room
//! for both, and for a program to grow in, yet not to where the next kernel might refuse it. Raise one with a reason.

use weir_kernel::bpf::ProgramInfo;

/// A program, and what it may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// The object it is in.
    pub(crate) object: &'static str,
    /// Its name there.
    pub(crate) program: &'static str,
    /// Instructions walked, at most.
    pub(crate) instructions: u32,
}

const fn budget(object: &'static str, program: &'static str, instructions: u32) -> Budget {
    Budget { object, program, instructions }
}

/// Every program that is attached to an interface.
pub(crate) const BUDGETS: [Budget; 8] = [
    budget("director", "director", 400_000),
    budget("director", "director_frags", 400_000),
    budget("agent", "unwrap_xdp", 45_000),
    budget("agent", "unwrap_frags", 45_000),
    budget("agent", "unwrap_tc", 20_000),
    budget("agent", "clamp_mss", 45_000),
    budget("iptunnel", "xdp_tx_iptunnel", 7_000),
    budget("pass", "pass", 10),
];

/// Objects that weir never attaches, and may need a newer kernel than weir.
pub(crate) const NEVER_ATTACHED: [&str; 1] = ["bench"];

/// Holds what the kernel says of a program against its budget: what it cost, as words, either way.
pub(crate) fn within(budget: Budget, info: &ProgramInfo) -> Result<String, String> {
    let limit = budget.instructions;
    // A kernel before 5.16 does not say; that it accepts the program is all there is to know then.
    let verified = info.verified_insns.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let cost = format!(
        "{verified} of {limit} instructions verified, {} bytes, {} bytes of machine code",
        info.xlated_bytes, info.jited_bytes
    );
    match info.verified_insns {
        Some(count) if count > limit => Err(format!("{cost}: over its budget")),
        _ => Ok(cost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(verified_insns: Option<u32>) -> Result<String, String> {
        let info = ProgramInfo {
            id: 1,
            tag: 2,
            name: "director".to_owned(),
            verified_insns,
            xlated_bytes: 800,
            jited_bytes: 500,
        };
        within(budget("director", "director", 1000), &info)
    }

    #[test]
    fn one_instruction_over_the_budget_fails() {
        let detail = "1000 of 1000 instructions verified, 800 bytes, 500 bytes of machine code";
        assert_eq!(cost(Some(1000)).as_deref(), Ok(detail));
        let why = cost(Some(1001)).expect_err("over");
        assert!(why.starts_with("1001 of 1000 ") && why.ends_with("over its budget"), "{why}");
    }

    #[test]
    fn a_kernel_that_does_not_count_only_has_to_accept() {
        assert!(cost(None).expect("accepted").starts_with("- of 1000 "));
    }
}
