//! What a driver has made of the registers, taken out and put in again.
//!
//! ```text
//!   save:     suspend ─▶ queues, what the device knows ─▶ (memory is saved) ─▶ resume with them
//!   restore:  what was saved, believed in nothing ─▶ registers, queues ─▶ activate
//! ```

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use virtio_queue::QueueT;

use super::MmioTransport;
use crate::virtio::device::Activation;
use crate::virtio::queue::ActiveQueue;
use crate::virtio::state::{ActiveState, StateError, Suspended, TransportState};

/// What a driver that has not failed may have said.
const STATUSES: [u32; 5] = [
    0,
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK,
    ACTIVE,
];
const ACTIVE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_DRIVER_OK;

impl MmioTransport {
    /// What its driver has made of it. The guest stands still, and so does the device from here on, until
    /// [`Self::resume`]. One that refuses has lost what it had with its driver.
    pub fn suspend(&mut self) -> Result<TransportState, StateError> {
        let active = if self.active { Some(self.suspend_active()?) } else { None };
        Ok(TransportState {
            status: self.line.status(),
            queue_select: self.queue_select,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            driver_features: self.driver_features,
            active,
        })
    }

    fn suspend_active(&mut self) -> Result<ActiveState, StateError> {
        let Some(Suspended { queues, state }) = self.device.suspend() else {
            let why = "its thread has ended".to_owned();
            return Err(StateError::Stuck { device: self.device.name(), why });
        };
        let saved = queues.iter().map(|queue| (queue.number(), queue.save())).collect();
        self.suspended = queues;
        Ok(ActiveState { queues: saved, device: state? })
    }

    /// Goes on after [`Self::suspend`].
    pub fn resume(&mut self) -> Result<(), StateError> {
        let queues = std::mem::take(&mut self.suspended);
        if queues.is_empty() {
            return Ok(());
        }
        let device = self.device.name();
        self.activate_again(queues).map_err(|why| StateError::Stuck { device, why })
    }

    /// Gives the device queues that it, or another of its kind, has served before.
    fn activate_again(&mut self, queues: Vec<ActiveQueue>) -> Result<(), String> {
        let mut places: Vec<_> = self.kicks.iter().map(|_| None).collect();
        for queue in queues {
            // What came meanwhile is seen. A full counter means that it is kicked already.
            let _ = queue.kick().write(1);
            if let Some(place) = places.get_mut(usize::from(queue.number())) {
                *place = Some(queue);
            }
        }
        let activation = Activation {
            queues: places,
            memory: self.memory.clone(),
            interrupt: self.interrupt.clone(),
            features: self.driver_features,
        };
        self.device.activate(activation).map_err(|error| error.to_string())
    }

    /// Becomes what another's driver, which is in the guest's memory, has made of that one. An active
    /// device interrupts its driver once: an interrupt may have been under way.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), StateError> {
        let damaged = StateError::Damaged(self.device.name());
        let is_active = state.status == ACTIVE;
        if !STATUSES.contains(&state.status) || is_active != state.active.is_some() {
            return Err(damaged);
        }
        if state.driver_features & !self.features() != 0
            || (is_active && state.driver_features & 1 << VIRTIO_F_VERSION_1 == 0)
        {
            return Err(damaged);
        }
        self.queue_select = state.queue_select;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.driver_features = state.driver_features;
        self.line.set_status(state.status);
        if let Some(active) = &state.active {
            self.restore_active(active)?;
            self.active = true;
            self.interrupt.used(0);
        }
        self.write_selected();
        Ok(())
    }

    fn restore_active(&mut self, state: &ActiveState) -> Result<(), StateError> {
        let device = self.device.name();
        let damaged = || StateError::Damaged(device);
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(state.queues.len());
        let mut numbers = state.queues.iter().map(|(number, _)| *number);
        // Each once.
        if !numbers.clone().zip(numbers.by_ref().skip(1)).all(|(one, next)| one < next) {
            return Err(damaged());
        }
        for (number, saved) in &state.queues {
            let index = usize::from(*number);
            let (Some(place), Some(kick)) = (self.queues.get(index), self.kicks.get(index)) else {
                return Err(damaged());
            };
            let queue = saved.queue(place.max_size(), event_idx).map_err(|_| damaged())?;
            if !queue.is_valid(&self.memory) {
                return Err(damaged());
            }
            let kick =
                kick.try_clone().map_err(|error| StateError::Stuck { device, why: error.to_string() })?;
            let (interrupt, counters) = (self.interrupt.clone(), self.counters.clone());
            queues.push(ActiveQueue::new(queue, *number, kick, interrupt, self.memory.clone(), counters));
        }
        self.device.restore(&state.device)?;
        self.activate_again(queues).map_err(|why| StateError::Stuck { device, why })
    }
}
