//! The machine's slots.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use vmrun_machine::Running;
use vmrun_spec::{DeviceSpec, Frames, Handles, NetSpec, NetworkRates, NicSlot};

use super::slots::Slots;
use crate::error::chain;
use crate::figures::CardFigures;

/// The network cards of a machine.
pub(crate) struct Cards {
    machine: Arc<Running>,
    rates: NetworkRates,
    /// Of the interfaces, by the slots of their cards.
    names: Mutex<BTreeMap<u8, String>>,
}

impl Cards {
    /// None yet; each that comes may carry so much.
    pub(crate) fn new(machine: Arc<Running>, rates: NetworkRates) -> Self {
        Self { machine, rates, names: Mutex::default() }
    }

    /// What they have counted by now. Waits for none of them.
    pub(crate) fn figures(&self) -> Vec<CardFigures> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let counters = self.machine.counters().into_iter();
        let figures = counters.filter_map(|device| {
            let slot = device.slot?;
            let counters = device.figures.into_iter().map(|(name, figure)| (name.to_owned(), figure));
            Some(CardFigures { name: names.get(&slot)?.clone(), slot, counters: counters.collect() })
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
        let spec = DeviceSpec::Net(NetSpec { mac, mtu: None, rx, tx });
        let handles = Handles { frames: Some(frames), ..Handles::default() };
        self.machine.plug(slot.number(), &spec, handles).map_err(|error| chain(&error))?;
        self.is_for(slot, name);
        Ok(())
    }

    fn rename(&self, slot: NicSlot, name: &str) {
        self.is_for(slot, name);
    }

    fn unplug(&self, slot: NicSlot) -> Result<(), String> {
        self.machine.unplug(slot.number()).map_err(|error| chain(&error))
    }

    fn set_link(&self, slot: NicSlot, up: bool) -> Result<(), String> {
        self.machine.set_link(slot.number(), up).map_err(|error| chain(&error))
    }
}
