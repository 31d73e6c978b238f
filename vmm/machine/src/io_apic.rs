//! The I/O APIC (Intel 82093AA).
//!
//! The local APICs are KVM's; the I/O APIC is here ("split irqchip", KVM API
//! §7.5), and there is no 8259 PIC. A kernel that finds no PIC does not clear and
//! probe every input of the I/O APIC first, which with KVM's own pair of chips is
//! half of all exits of a boot. Afterwards this costs nothing: an input that the
//! kernel has programmed becomes a route in KVM, from the device's event straight
//! to the local APIC.
//!
//! All inputs are edge-triggered, as virtio-mmio needs them; there is no end of
//! interrupt to wait for.

use std::io;

use crate::layout;
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi,
};
use serde::{Deserialize, Serialize};

/// Size of the register window.
pub(crate) const WINDOW_BYTES: u64 = 0x1000;

/// Memory-mapped registers (82093AA, table 1).
const REGISTER_SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;

/// Indirect registers (table 2).
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const REDIRECTION: u8 = 0x10;

const CHIP_VERSION: u32 = 0x11;
const ID_BITS: u32 = 0x0f00_0000;
const MASKED: u64 = 1 << 16;
/// Delivery status and remote IRR are the chip's to set, and are always zero here.
const READ_ONLY: u64 = 1 << 12 | 1 << 14;

/// Takes the routes of all inputs that are not masked.
type Router = Box<dyn Fn(&KvmIrqRouting) -> io::Result<()> + Send>;

/// Interrupts of the guest would be lost, and whatever waits for them would sleep for ever.
#[derive(Debug, thiserror::Error)]
#[error("the guest has programmed an interrupt that KVM cannot route: {0}")]
pub(crate) struct RouteError(io::Error);

/// What the guest has made of the chip.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IoApicState {
    id: u32,
    select: u8,
    entries: Vec<u64>,
}

/// The chip.
pub(crate) struct IoApic {
    router: Router,
    id: u32,
    select: u8,
    entries: Vec<u64>,
}

impl std::fmt::Debug for IoApic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoApic").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl IoApic {
    /// A chip with `inputs` inputs, all masked; `router` hands routes to KVM.
    pub(crate) fn new(
        inputs: u8,
        router: impl Fn(&KvmIrqRouting) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self { router: Box::new(router), id: 0, select: 0, entries: vec![MASKED; inputs.into()] }
    }

    /// What the guest has made of it.
    pub(crate) fn save(&self) -> IoApicState {
        IoApicState { id: self.id, select: self.select, entries: self.entries.clone() }
    }

    /// Becomes what a guest has made of another, and routes what that has routed; false where that one had
    /// another number of inputs.
    pub(crate) fn restore(&mut self, state: &IoApicState) -> Result<bool, RouteError> {
        if state.entries.len() != self.entries.len() {
            return Ok(false);
        }
        (self.id, self.select) = (state.id & ID_BITS, state.select);
        self.entries = state.entries.iter().map(|entry| entry & !READ_ONLY).collect();
        self.route().map(|()| true)
    }

    /// The guest reads a register; all are 32 bits wide.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            REGISTER_SELECT => self.select.into(),
            WINDOW => self.read_indirect(),
            _ => 0,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    /// The guest writes a register.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), RouteError> {
        let Ok(data) = <[u8; 4]>::try_from(data) else { return Ok(()) };
        match offset {
            REGISTER_SELECT => self.select = data[0],
            WINDOW => return self.write_indirect(u32::from_le_bytes(data)),
            _ => {}
        }
        Ok(())
    }

    fn read_indirect(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => self.id,
            VERSION => {
                let last = u32::try_from(self.entries.len()).unwrap_or(1).saturating_sub(1);
                CHIP_VERSION | last << 16
            }
            _ => self.entry().map_or(0, |(index, shift)| low_half(self.entries[index] >> shift)),
        }
    }

    fn write_indirect(&mut self, value: u32) -> Result<(), RouteError> {
        if self.select == ID {
            self.id = value & ID_BITS;
            return Ok(());
        }
        let Some((index, shift)) = self.entry() else { return Ok(()) };
        let entry = &mut self.entries[index];
        let before = *entry;
        *entry = (before & !(0xffff_ffff << shift) | u64::from(value) << shift) & !READ_ONLY;
        // What changes behind a mask does not reach KVM, so programming an input costs one route.
        if *entry != before && before & *entry & MASKED == 0 {
            self.route()?;
        }
        Ok(())
    }

    /// The redirection entry that is selected, and where its half starts.
    fn entry(&self) -> Option<(usize, u32)> {
        let register = self.select.checked_sub(REDIRECTION)?;
        let index = usize::from(register / 2);
        (index < self.entries.len()).then_some((index, u32::from(register % 2) * 32))
    }

    /// Tells KVM where the interrupts go that are not masked.
    fn route(&self) -> Result<(), RouteError> {
        let unmasked = (0..).zip(&self.entries).filter(|(_, entry)| *entry & MASKED == 0);
        let routes: Vec<_> = unmasked.map(|(gsi, &entry)| msi_route(gsi, entry)).collect();
        let routing = KvmIrqRouting::from_entries(&routes).map_err(io::Error::other);
        routing.and_then(|routing| (self.router)(&routing)).map_err(RouteError)
    }
}

fn msi_route(gsi: u32, entry: u64) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        flags: 0,
        pad: 0,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi: message(entry) },
    }
}

/// The message that stands for a redirection entry (Intel SDM 3A, 11.11).
fn message(entry: u64) -> kvm_irq_routing_msi {
    let destination = low_half(entry >> 56);
    let logical = low_half(entry >> 11) & 1;
    let vector_and_delivery = low_half(entry) & 0x7ff;
    kvm_irq_routing_msi {
        address_lo: layout::LOCAL_APIC | destination << 12 | logical << 2,
        address_hi: 0,
        data: vector_and_delivery,
        ..Default::default()
    }
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    /// A chip that notes which inputs were routed, call by call.
    fn chip(inputs: u8) -> (IoApic, Arc<Mutex<Vec<Vec<u32>>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        let router = move |routing: &KvmIrqRouting| {
            notes.lock().unwrap().push(routing.as_slice().iter().map(|entry| entry.gsi).collect());
            Ok(())
        };
        (IoApic::new(inputs, router), seen)
    }

    fn write(chip: &mut IoApic, register: u8, value: u32) {
        chip.write(REGISTER_SELECT, &u32::from(register).to_le_bytes()).unwrap();
        chip.write(WINDOW, &value.to_le_bytes()).unwrap();
    }

    fn read(chip: &mut IoApic, register: u8) -> u32 {
        chip.write(REGISTER_SELECT, &u32::from(register).to_le_bytes()).unwrap();
        let mut data = [0; 4];
        chip.read(WINDOW, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn entry_becomes_the_message_of_its_destination_and_vector() {
        let message = message(0x0200_0000_0000_0031 | 1 << 11);
        assert_eq!((message.address_lo, message.data), (0xfee0_2004, 0x31));
    }

    #[test]
    fn version_tells_the_number_of_inputs() {
        assert_eq!(read(&mut chip(4).0, VERSION), 0x0003_0011);
    }

    #[test]
    fn input_is_routed_when_it_is_unmasked_and_only_then() {
        let (mut chip, seen) = chip(4);
        write(&mut chip, 0x15, 0x0100_0000);
        write(&mut chip, 0x14, 0x1_0030);
        assert!(seen.lock().unwrap().is_empty());
        write(&mut chip, 0x14, 0x30);
        write(&mut chip, 0x14, 0x30);
        assert_eq!(*seen.lock().unwrap(), [vec![2]]);
        assert_eq!((read(&mut chip, 0x14), read(&mut chip, 0x15)), (0x30, 0x0100_0000));
        write(&mut chip, 0x14, 0x1_0030);
        assert_eq!(seen.lock().unwrap()[1], Vec::<u32>::new());
    }

    #[test]
    fn restored_chip_has_the_routes_of_the_saved_one() {
        let (mut saved, _) = chip(4);
        write(&mut saved, ID, 0x0300_0000);
        write(&mut saved, 0x15, 0x0100_0000);
        write(&mut saved, 0x14, 0x30);
        let (mut restored, seen) = chip(4);
        assert!(restored.restore(&saved.save()).unwrap());
        assert_eq!(*seen.lock().unwrap(), [vec![2]]);
        assert_eq!(restored.save(), saved.save());
        assert!(!chip(5).0.restore(&saved.save()).unwrap());
    }

    proptest! {
        #[test]
        fn arbitrary_accesses_never_panic(
            inputs in 1u8..24,
            accesses in prop::collection::vec((0u64..0x20, prop::collection::vec(any::<u8>(), 0..9), any::<bool>()), 0..100)
        ) {
            let (mut chip, _) = chip(inputs);
            for (offset, mut data, is_write) in accesses {
                if is_write { chip.write(offset, &data).unwrap() } else { chip.read(offset, &mut data) }
            }
        }
    }
}
