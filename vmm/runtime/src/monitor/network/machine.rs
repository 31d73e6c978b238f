//! The machine's slots.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use vmrun_spec::{Frames, NetSpec, NetworkRates, NicSlot};

use super::slots::Slots;
use crate::error::chain;
use crate::figures::CardFigures;
use crate::machine::Machine;

/// What the device is called.
const CARD: &str = "virtio-net";

/// The network cards of a machine.
pub(crate) struct Cards {
    machine: Machine,
    rates: NetworkRates,
    /// Of the interfaces, by the slots of their cards.
    names: Mutex<BTreeMap<u8, String>>,
}

impl Cards {
    /// None yet; each that comes may carry so much.
    pub(crate) fn new(machine: Machine, rates: NetworkRates) -> Self {
        Self { machine, rates, names: Mutex::default() }
    }

    /// Whether there has been none.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What they have counted by now.
    pub(crate) fn figures(&self) -> Vec<CardFigures> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let counters = self.machine.counters().into_iter().filter(|device| device.device == CARD);
        let figures = counters.filter_map(|device| {
            let slot = device.slot?;
            Some(CardFigures { name: names.get(&slot)?.clone(), slot, counters: device.figures })
        });
        figures.collect()
    }

    fn is_for(&self, slot: NicSlot, name: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(slot.number(), name.to_owned());
    }
}

impl Slots for Cards {
    fn plug(&self, slot: NicSlot, name: &str, mac: [u8; 6], frames: Frames) -> Result<(), String> {
        let NetworkRates { rx, tx } = self.rates;
        // The interface's MTU may be raised later: the agent sets it.
        let device = NetSpec { mac, mtu: None, rx, tx };
        self.machine.plug(slot, device, &frames).map_err(|error| chain(&error))?;
        self.is_for(slot, name);
        Ok(())
    }

    fn rename(&self, slot: NicSlot, name: &str) {
        self.is_for(slot, name);
    }

    fn unplug(&self, slot: NicSlot) -> Result<(), String> {
        self.machine.unplug(slot).map_err(|error| chain(&error))
    }

    fn set_link(&self, slot: NicSlot, up: bool) -> Result<(), String> {
        self.machine.set_link(slot, up).map_err(|error| chain(&error))
    }
}
