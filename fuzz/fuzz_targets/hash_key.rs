//! Fuzz target: a hash key file; what must hold is said at [`weir_testkit::fuzz::hash_key`].
#![cfg_attr(fuzzing, no_main)]

weir_fuzz::target!(hash_key);
