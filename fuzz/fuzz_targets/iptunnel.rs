//! Fuzz target: a frame through `weir iptunnel`; what must hold is said at [`weir_testkit::fuzz::iptunnel`].
#![cfg_attr(fuzzing, no_main)]

weir_fuzz::target!(iptunnel);
