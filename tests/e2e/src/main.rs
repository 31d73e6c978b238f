//! End-to-end tests: real bundles, run by the built `vmrun`. Where the
//! behaviour of a container runtime is settled, `crun` runs the same bundle
//! first and has to give the same answer.
//!
//! `tests/e2e/run` builds them, and what they need, and runs them where KVM
//! works. Nothing is ever skipped: what is missing fails.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod support;
