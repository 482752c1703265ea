//! The BPF objects, embedded when weir was built.

use super::Error;

// `OBJECTS: &[(&str, &[u8])]`, written by the build script.
include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// The bytes of the ELF object `name`, such as `director`.
pub fn get(name: &str) -> Result<&'static [u8], Error> {
    OBJECTS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, bytes)| *bytes)
        .ok_or_else(|| Error::NoObject { name: name.to_owned(), known: names().collect() })
}

/// The names of all objects.
pub fn names() -> impl Iterator<Item = &'static str> {
    OBJECTS.iter().map(|(name, _)| *name)
}
