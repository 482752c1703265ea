//! The daemon's API as both its ends see it.
//!
//! Owns: the definition (`proto/weir/v1/director.proto`) and the code made from it. May not touch: sockets, the kernel,
//! what the numbers mean. Invariant: within `v1` fields are only added, and their names are the keys of
//! `weir status -o json`.

/// Version 1 of the API.
pub mod v1 {
    // Generated: the documentation is the .proto file's comments, where it has any.
    #![allow(missing_docs, clippy::pedantic, unused_qualifications, unreachable_pub)]

    include!(concat!(env!("OUT_DIR"), "/weir.v1.rs"));
}

/// Name of the socket within the daemon's runtime directory.
pub const SOCKET: &str = "api.sock";
