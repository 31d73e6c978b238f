//! Saved machines that nobody has saved, for `tests/fuzz`: all of them that is checked without asking KVM.

use std::sync::LazyLock;

use kvm_bindings::{KvmIrqRouting, kvm_clock_data};
use serde::Deserialize;
use vm_memory::{GuestAddress, GuestMemory};
use vmrun_devices::Memory;
use vmrun_devices::virtio::TransportState;

use crate::io_apic::{IoApic, IoApicState};
use crate::snapshot::{Extent, MachineState, check};
use crate::{layout, memory};

/// Of the memory of a small machine.
static MEMORY: LazyLock<Memory> = LazyLock::new(|| memory::map(64).expect("64 MiB can be mapped"));

const DEVICES: usize = 3;

/// A state without processors, whose thousands of bytes KVM judges.
#[derive(Debug, Deserialize)]
pub struct Bare {
    io_apic: IoApicState,
    devices: Vec<TransportState>,
    memory: Vec<Extent>,
}

impl From<Bare> for MachineState {
    fn from(Bare { io_apic, devices, memory }: Bare) -> Self {
        let clock = kvm_clock_data::default();
        Self { cpuid: Vec::new(), vcpus: Vec::new(), clock, io_apic, devices, memory }
    }
}

/// Restores what of a machine is not KVM's. Its guest's memory begins with `pages`.
pub fn restore(state: &MachineState, pages: &[u8]) {
    pages_are_in_memory(state);
    inputs_are_routed_that_there_are(&state.io_apic);
    vmrun_devices::fuzz::restored(&state.devices, pages);
}

fn pages_are_in_memory(state: &MachineState) {
    if check(&MEMORY, &state.memory).is_err() {
        return;
    }
    let mut end = 0;
    for extent in &state.memory {
        let length = usize::try_from(extent.bytes).expect("a length in this memory");
        assert!(extent.address >= end && MEMORY.check_range(GuestAddress(extent.address), length));
        end = extent.address + extent.bytes;
    }
    assert!(state.memory_bytes().is_some_and(|bytes| bytes <= 64 << 20));
}

fn inputs_are_routed_that_there_are(state: &IoApicState) {
    let inputs = layout::irqs(DEVICES);
    let mut chip = IoApic::new(inputs, move |routes: &KvmIrqRouting| {
        assert!(routes.as_slice().iter().all(|route| route.gsi < inputs.into()));
        Ok(())
    });
    // False where it is a chip with more inputs, or fewer.
    let restored = chip.restore(state).expect("a router that takes all");
    let again = chip.save();
    assert!(!restored || chip.restore(&again).expect("a router that takes all") && chip.save() == again);
}
