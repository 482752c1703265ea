//! Fuzz target: a payload that may name its server; what must hold is said at [`weir_testkit::fuzz::server_id`].
#![cfg_attr(fuzzing, no_main)]

weir_fuzz::target!(server_id);
