//! Fuzz target: a frame that leaves a real server; what must hold is said at [`weir_testkit::fuzz::mss`].
#![cfg_attr(fuzzing, no_main)]

weir_fuzz::target!(mss);
