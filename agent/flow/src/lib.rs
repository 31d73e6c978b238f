//! Bytes from one descriptor to another, without waiting: for the host's side and the guest's.
//!
//! ```text
//!   Flow   source ─▶ buffer ─▶ sink          one direction, until the source's end
//!   Pair   near   ◀─ Flow, Flow ─▶   far     a connection that is carried from one socket to another
//!   Pairs  all that one thread carries, each of which has its turn
//! ```
//!
//! Descriptors are non-blocking, and watched edge-triggered: who pumps goes on until it would wait, or is told that
//! there is more to do.
#![deny(missing_docs)]

mod flow;
mod pair;
mod pairs;

pub use flow::{End, Flow, Pumped};
pub use pair::{Pair, Progress, Side};
pub use pairs::{Pairs, WATCHED};
