//! What the driver is told of the link, in the configuration space (virtio 1.2, §5.1.4).

use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_net::{VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP};
use vmrun_spec::NetSpec;

use crate::virtio::config_space::ConfigSpace;

/// `struct virtio_net_config`: MAC, status, number of queue pairs, MTU.
const CONFIG_BYTES: usize = 12;
const STATUS: usize = 6;
const QUEUE_PAIRS: usize = 8;
const MTU: usize = 10;

/// The configuration space and why it is as it is.
#[derive(Debug)]
pub(super) struct Link {
    config: ConfigSpace,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// As the host wants it.
    up: bool,
    /// The tap is there.
    carrier: bool,
    /// The driver shall announce itself, and has not said yet that it does.
    announce: bool,
}

impl Link {
    /// A link that is up.
    pub(super) fn new(spec: &NetSpec) -> Self {
        let mut bytes = [0; CONFIG_BYTES];
        bytes[..STATUS].copy_from_slice(&spec.mac);
        bytes[QUEUE_PAIRS..MTU].copy_from_slice(&1u16.to_le_bytes());
        bytes[MTU..].copy_from_slice(&spec.mtu.unwrap_or(0).to_le_bytes());
        let link = Self {
            config: ConfigSpace::new(bytes),
            state: Mutex::new(State { up: true, carrier: true, announce: false }),
        };
        link.change(|_| {});
        link
    }

    pub(super) fn config(&self) -> &ConfigSpace {
        &self.config
    }

    /// Frames go through.
    pub(super) fn is_up(&self) -> bool {
        let state = self.lock();
        state.up && state.carrier
    }

    /// The host wants it up, or down.
    pub(super) fn set(&self, up: bool) {
        self.change(|state| state.up = up);
    }

    /// The tap is gone, for good.
    pub(super) fn lose(&self) {
        self.change(|state| state.carrier = false);
    }

    /// The driver shall announce itself; or it does.
    pub(super) fn announce(&self, wanted: bool) {
        self.change(|state| state.announce = wanted);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        let up = state.up && state.carrier;
        let status = bit(up, VIRTIO_NET_S_LINK_UP) | bit(state.announce, VIRTIO_NET_S_ANNOUNCE);
        self.config.set(STATUS, &status.to_le_bytes()[..QUEUE_PAIRS - STATUS]);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_reads_address_mtu_and_what_becomes_of_the_link() {
        let spec = NetSpec { mac: [2, 3, 4, 5, 6, 7], mtu: Some(1400), rx: None, tx: None };
        let link = Link::new(&spec);
        assert_eq!(link.config().bytes(), [2, 3, 4, 5, 6, 7, 1, 0, 1, 0, 0x78, 5]);
        let status = || link.config().bytes()[STATUS];
        link.announce(true);
        assert_eq!(status(), 3);
        link.set(false);
        assert_eq!((status(), link.is_up()), (2, false));
        link.announce(false);
        link.lose();
        link.set(true);
        assert_eq!((status(), link.is_up()), (0, false), "there is nothing that it could lead to");
    }
}
