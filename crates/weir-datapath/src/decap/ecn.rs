//! Congestion marks on leaving a tunnel (RFC 6040, section 4.2, figure 4).

const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The inner header's DSCP-and-ECN byte after decapsulation; `outer` is the outer header's.
///
/// | inner \ outer | Not-ECT | ECT(0) | ECT(1) | CE |
/// | --- | --- | --- | --- | --- |
/// | Not-ECT | Not-ECT | Not-ECT | Not-ECT | drop |
/// | ECT(0) | ECT(0) | ECT(0) | ECT(1) | CE |
/// | ECT(1) | ECT(1) | ECT(1) | ECT(1) | CE |
/// | CE | CE | CE | CE | CE |
///
/// `None`: the packet has to be dropped, because its sender would not understand the mark it should carry. The DSCP
/// stays the inner one.
#[inline(always)]
pub const fn ecn_on_exit(inner: u8, outer: u8) -> Option<u8> {
    match (inner & ECN, outer & ECN) {
        (NOT_ECT, CE) => None,
        (_, CE) => Some(inner | CE),
        (ECT_0, ECT_1) => Some(inner & !ECN | ECT_1),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_rfc_6040() {
        let rows = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, expected) in rows {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(expected) {
                for dscp in [0u8, 0b1011_1000, 0b1111_1100] {
                    let got = ecn_on_exit(dscp | inner, !dscp & !ECN | outer);
                    assert_eq!(got, expected.map(|ecn| dscp | ecn), "inner {inner:#b} outer {outer:#b}");
                }
            }
        }
    }
}
