//! Fuzz target: tables and packets through the director; what must hold is said at [`weir_testkit::fuzz::process`].
#![cfg_attr(fuzzing, no_main)]

weir_fuzz::target!(process);
