//! Fuzz target: a configuration file; what must hold is said at [`weir_testkit::fuzz::config`].
#![cfg_attr(fuzzing, no_main)]

weir_fuzz::target!(config);
