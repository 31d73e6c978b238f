//! What an interface may carry.

use std::time::{Duration, Instant};

use vmrun_spec::NetSpec;

use super::MAX_FRAME_BYTES;
use crate::virtio::rate::Limit;

/// The limits of both directions, and the clock that they go by. They outlive an activation, so that a
/// driver which begins anew has nothing of it.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) rx: Limit,
    pub(super) tx: Limit,
    pub(super) start: Instant,
}

impl Limits {
    pub(super) fn new(spec: &NetSpec) -> Self {
        let limit = |rate| Limit::new(rate, MAX_FRAME_BYTES, Duration::ZERO);
        Self { rx: limit(spec.rx), tx: limit(spec.tx), start: Instant::now() }
    }
}
