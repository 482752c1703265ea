//! Weighted Maglev rings with a power-of-two number of slots.
//!
//! Owns: how slots are dealt to backends. May not touch: the kernel, maps, clocks, configuration.
//! Invariant: a ring is a function of its size and of the *set* of its members: not of the order they are listed
//! in, not of the machine, the process or the values they are called by. Two directors with the same configuration
//! hold identical rings, and [`Ring::fingerprint`] says so.
//!
//! The algorithm is Maglev's (Eisenbud et al., *Maglev: A Fast and Reliable Software Network Load Balancer*, NSDI
//! 2016, section 3.4) with four changes:
//!
//! - The number of slots is a power of two and strides are odd instead of the size being prime. An odd stride visits
//!   each slot of such a ring once, as any stride does for a prime, and a packet finds its slot by a mask.
//! - A member's stride grows by a step of its own, which takes away the rare clusters in which one backend's going moves
//!   a tenth of the others' slots (`deal` has the figures).
//! - How many slots each member gets is settled before the first is dealt (largest remainder), so weights are met as
//!   exactly as whole slots allow; the turns are then spread evenly over the dealing. See [`build`].
//! - No randomness but SipHash-2-4 under a fixed, published key.
//!
//! [`rotation`] makes rings of another kind, whose slots are taken one after the other instead of by a hash.
//!
//! ```
//! use weir_maglev::{Identity, Member, RingSize, build};
//!
//! let backends = ["10.0.0.11", "10.0.0.12", "10.0.0.13"];
//! let members: Vec<Member> = (0..)
//!     .zip(backends)
//!     .map(|(value, address)| Member { identity: Identity::of_address(address.parse().unwrap()), weight: 1, value })
//!     .collect();
//! let ring = build(RingSize::automatic(members.iter().map(|m| m.weight)), &members)?.expect("has weight");
//! let flow_hash = 0x1234_5678_u32;
//! let slot = flow_hash & ring.size().mask();
//! assert!(ring.slots()[slot as usize] < 3);
//! # Ok::<(), weir_maglev::BuildError>(())
//! ```

mod deal;
mod identity;
mod ring;
mod rotation;
mod share;
mod size;

pub use identity::Identity;
pub use ring::{BuildError, Member, Ring, build, fingerprint, rotation};
pub use size::RingSize;
