//! Fuzz target: a frame that arrives at a real server; what must hold is said at [`weir_testkit::fuzz::unwrap`].
#![cfg_attr(fuzzing, no_main)]

weir_fuzz::target!(unwrap);
