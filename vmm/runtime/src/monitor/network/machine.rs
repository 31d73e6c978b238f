//! The machine's slots.

use vmrun_machine::Running;
use vmrun_spec::{DeviceSpec, Frames, Handles, NetSpec, NicSlot};

use super::slots::Slots;
use crate::error::chain;

impl Slots for Running {
    fn plug(&self, slot: NicSlot, mac: [u8; 6], frames: Frames) -> Result<(), String> {
        // The interface's may be raised later: the agent sets it.
        let spec = DeviceSpec::Net(NetSpec { mac, mtu: None, rx: None, tx: None });
        let handles = Handles { frames: Some(frames) };
        Running::plug(self, slot.number(), &spec, handles).map_err(|error| chain(&error))
    }

    fn unplug(&self, slot: NicSlot) -> Result<(), String> {
        Running::unplug(self, slot.number()).map_err(|error| chain(&error))
    }

    fn set_link(&self, slot: NicSlot, up: bool) -> Result<(), String> {
        Running::set_link(self, slot.number(), up).map_err(|error| chain(&error))
    }
}
