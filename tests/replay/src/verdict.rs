//! Return codes of XDP and tc programs.
//!
//! Owns: their numbers, names and what they mean for a packet.

use crate::schema::Fixture;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Xdp,
    Tc,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The kernel gets it.
    Pass,
    /// Nobody does.
    Drop,
    /// It is sent out.
    Send,
}

pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_TX: u32 = 3;
pub(crate) const TC_ACT_UNSPEC: u32 = u32::MAX;
pub(crate) const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;

const XDP: [(&str, u32); 5] = [
    ("XDP_ABORTED", 0),
    ("XDP_DROP", XDP_DROP),
    ("XDP_PASS", XDP_PASS),
    ("XDP_TX", XDP_TX),
    ("XDP_REDIRECT", 4),
];

const TC: [(&str, u32); 9] = [
    ("TC_ACT_UNSPEC", TC_ACT_UNSPEC),
    ("TC_ACT_OK", TC_ACT_OK),
    ("TC_ACT_RECLASSIFY", 1),
    ("TC_ACT_SHOT", TC_ACT_SHOT),
    ("TC_ACT_PIPE", 3),
    ("TC_ACT_STOLEN", 4),
    ("TC_ACT_QUEUED", 5),
    ("TC_ACT_REPEAT", 6),
    ("TC_ACT_REDIRECT", 7),
];

impl Side {
    fn codes(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::Xdp => &XDP,
            Self::Tc => &TC,
        }
    }

    /// The return code a fixture expects: its name and its number must agree.
    pub(crate) fn expected(self, fixture: &Fixture) -> Result<u32, String> {
        let named = self.codes().iter().find(|(name, _)| *name == fixture.verdict).map(|(_, code)| *code);
        // tc's codes are signed, and the kernel hands them on as 32 bits.
        let given = fixture.expected_rc.map(|code| (code & 0xffff_ffff).cast_unsigned() as u32);
        match (named, given) {
            (Some(named), Some(given)) if named != given => {
                Err(format!("the fixture contradicts itself: {} is {named}, not {given}", fixture.verdict))
            }
            (Some(code), _) | (None, Some(code)) => Ok(code),
            (None, None) => Err(format!("\"{}\" is no return code", fixture.verdict)),
        }
    }

    pub(crate) fn name(self, code: u32) -> String {
        let named = self.codes().iter().find(|(_, number)| *number == code);
        named.map_or_else(|| code.to_string(), |(name, _)| (*name).to_owned())
    }

    pub(crate) fn verdict(self, code: u32) -> Verdict {
        match (self, code) {
            (Self::Xdp, XDP_PASS) | (Self::Tc, TC_ACT_OK | TC_ACT_UNSPEC | 3) => Verdict::Pass,
            (Self::Xdp, XDP_TX | 4) | (Self::Tc, 7) => Verdict::Send,
            _ => Verdict::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Bytes, Class};

    #[test]
    fn a_name_and_a_number_must_agree() {
        let expected = |side: Side, verdict: &str, expected_rc| {
            side.expected(&Fixture {
                index: 1,
                description: String::new(),
                verdict: verdict.to_owned(),
                expected_rc,
                class: Class::Agnostic,
                encap: None,
                specific_ranges: Vec::new(),
                input: Bytes::default(),
                output: Bytes::default(),
            })
        };
        assert_eq!(expected(Side::Xdp, "XDP_TX", Some(3)), Ok(XDP_TX));
        assert_eq!(expected(Side::Xdp, "XDP_TX", None), Ok(XDP_TX));
        assert_eq!(expected(Side::Xdp, "what", Some(2)), Ok(XDP_PASS));
        assert!(expected(Side::Xdp, "XDP_TX", Some(2)).is_err_and(|why| why.contains("contradicts")));
        assert!(expected(Side::Xdp, "what", None).is_err());
        assert_eq!(expected(Side::Tc, "TC_ACT_UNSPEC", Some(-1)), Ok(TC_ACT_UNSPEC));
        assert_eq!(expected(Side::Tc, "TC_ACT_UNSPEC", Some(0xffff_ffff)), Ok(TC_ACT_UNSPEC));
        assert_eq!((Side::Tc.name(2), Side::Xdp.name(9)), ("TC_ACT_SHOT".to_owned(), "9".to_owned()));
    }

    #[test]
    fn the_same_number_means_something_else_on_each_side() {
        assert_eq!((Side::Xdp.verdict(2), Side::Tc.verdict(2)), (Verdict::Pass, Verdict::Drop));
        assert_eq!((Side::Xdp.verdict(3), Side::Tc.verdict(3)), (Verdict::Send, Verdict::Pass));
        assert_eq!((Side::Xdp.verdict(0), Side::Tc.verdict(0)), (Verdict::Drop, Verdict::Pass));
    }
}
