//! Fuzz target: a packet that comes to the director wrapped; what must hold is said at [`weir_testkit::fuzz::wrapped`].
#![cfg_attr(fuzzing, no_main)]

weir_fuzz::target!(wrapped);
