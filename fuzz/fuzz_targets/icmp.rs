//! Fuzz target: an ICMP message to a VIP; what must hold is said at [`weir_testkit::fuzz::icmp`].
#![cfg_attr(fuzzing, no_main)]

weir_fuzz::target!(icmp);
