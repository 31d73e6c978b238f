//! The rules that the compiler does not hold, held by tests.
//!
//! | module | rule |
//! |---|---|
//! | `layers` | which crate may depend on which; which crate may name KVM or OCI |
//! | `manifests` | one generation of rust-vmm, the workspace's lints and licence everywhere |
//! | `sources` | `unsafe` in few named files, no file too long to read |
//! | `documents` | paths and targets that documents name exist; no host or machine is named |
//!
//! Nothing is built and no network is used: the tests read the checkout and ask
//! `cargo metadata` for the manifests' contents.

#![cfg(test)]

mod checkout;
mod documents;
mod layers;
mod manifests;
mod sources;
