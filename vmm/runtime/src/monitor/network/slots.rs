//! Where network cards are plugged in.

use vmrun_spec::{Frames, NicSlot};

/// The machine, as the mirror of a network needs it.
pub(crate) trait Slots: Send + Sync {
    /// Puts a card with this address into a slot, for the interface of that name.
    fn plug(&self, slot: NicSlot, name: &str, mac: [u8; 6], frames: Frames) -> Result<(), String>;

    /// The interface has another name by now.
    fn rename(&self, slot: NicSlot, name: &str);

    /// Takes the card out of a slot.
    fn unplug(&self, slot: NicSlot) -> Result<(), String>;

    /// Tells the guest whether the cable is in.
    fn set_link(&self, slot: NicSlot, up: bool) -> Result<(), String>;
}
