//! What is left of a device that has stopped, and what it starts from again.

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceState {
    /// Device id of its kind.
    pub device_type: u32,
    /// Of the bytes' form.
    pub version: u16,
    /// What they say is the device's own affair.
    pub bytes: Vec<u8>,
}

/// Why a device's state cannot be had, or cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
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
}

impl DeviceState {
    /// The bytes, if this is the state of such a device in this form.
    pub fn of(&self, device: &'static str, device_type: u32, version: u16) -> Result<&[u8], StateError> {
        if self.device_type != device_type || self.version != version {
            return Err(StateError::Foreign { device, found: self.device_type, version: self.version });
        }
        Ok(&self.bytes)
    }
}
