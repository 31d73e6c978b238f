//! What is left of a device that has stopped, and what it starts from again.

use serde::{Deserialize, Serialize};
use virtio_queue::{Error as RingError, Queue, QueueState};

use crate::virtio::queue::ActiveQueue;

/// A device that was active and is not any more. To drop it is to reset the device.
#[derive(Debug)]
pub struct Suspended {
    /// Its queues, where it has left them.
    pub queues: Vec<ActiveQueue>,
    /// What another device of its kind needs to go on with them.
    pub state: Result<DeviceState, StateError>,
}

/// What a device knows besides its queues: plain data. It may come from anywhere, so whoever
/// restores it believes nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Device id of its kind.
    pub device_type: u32,
    /// Of the bytes' form.
    pub version: u16,
    /// What they say is the device's own affair.
    pub bytes: Vec<u8>,
}

/// What a driver has made of a device behind its registers (virtio 1.2, §4.2.2): plain data, of which whoever
/// restores it believes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// The `Status` register.
    pub status: u32,
    /// Which queue the driver has selected.
    pub queue_select: u32,
    /// Which half of the device's features.
    pub device_features_select: u32,
    /// Which half of its own.
    pub driver_features_select: u32,
    /// The features that it has taken.
    pub driver_features: u64,
    /// Of a device that was active.
    pub active: Option<ActiveState>,
}

/// What a device has that its driver has activated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveState {
    /// The queues that are set up, each behind its number.
    pub queues: Vec<(u16, SavedQueue)>,
    /// What it knows besides.
    pub device: DeviceState,
}

/// A queue: where it lies in guest memory, and how far both sides have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedQueue {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Index of the next available chain.
    pub next_avail: u16,
    /// Index of the next used element.
    pub next_used: u16,
    /// Guest physical addresses.
    pub desc_table: u64,
    /// See above.
    pub avail_ring: u64,
    /// See above.
    pub used_ring: u64,
}

impl SavedQueue {
    /// What is to be known of `queue`.
    pub(crate) fn of(queue: &QueueState) -> Self {
        let &QueueState { size, next_avail, next_used, desc_table, avail_ring, used_ring, .. } = queue;
        Self { size, next_avail, next_used, desc_table, avail_ring, used_ring }
    }

    /// The queue that has at most `max_size` descriptors.
    pub(crate) fn queue(&self, max_size: u16, event_idx_enabled: bool) -> Result<Queue, RingError> {
        let &Self { size, next_avail, next_used, desc_table, avail_ring, used_ring } = self;
        Queue::try_from(QueueState {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled,
            size,
            ready: true,
            desc_table,
            avail_ring,
            used_ring,
        })
    }
}

/// Why a device's state cannot be had, or cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It has what only this process has: connections, open files, a card on the host.
    #[error("{0} is in use: it keeps what only this process has")]
    InUse(&'static str),
    /// Nobody has taught it.
    #[error("{0} cannot be saved and restored: it keeps what only this process has")]
    NotImplemented(&'static str),
    /// It is another's.
    #[error("the state is that of device type {found}, version {version}, which {device} cannot take")]
    Foreign {
        /// Whose state was wanted.
        device: &'static str,
        /// Whose came.
        found: u32,
        /// And of which form.
        version: u16,
    },
    /// It is not what it says.
    #[error("the state of {0} is damaged")]
    Damaged(&'static str),
    /// The device did not take its queues again.
    #[error("{device} does not go on: {why}")]
    Stuck {
        /// Which.
        device: &'static str,
        /// One line.
        why: String,
    },
}

impl DeviceState {
    /// The state of a device that knows nothing besides its queues.
    pub(crate) const fn nothing(device_type: u32) -> Self {
        Self { device_type, version: 1, bytes: Vec::new() }
    }

    /// The bytes, if this is the state of such a device in this form.
    pub fn of(&self, device: &'static str, device_type: u32, version: u16) -> Result<&[u8], StateError> {
        if self.device_type != device_type || self.version != version {
            return Err(StateError::Foreign { device, found: self.device_type, version: self.version });
        }
        Ok(&self.bytes)
    }

    /// Whether this is [`Self::nothing`] of such a device.
    pub(crate) fn is_nothing(&self, device: &'static str, device_type: u32) -> Result<(), StateError> {
        let bytes = self.of(device, device_type, 1)?;
        if bytes.is_empty() { Ok(()) } else { Err(StateError::Damaged(device)) }
    }
}
