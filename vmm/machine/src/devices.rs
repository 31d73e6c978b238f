//! The devices of a machine: those that it boots with, and those that come and go while it runs.

use std::sync::Arc;

use vmrun_devices::virtio::balloon::Balloon;
use vmrun_devices::virtio::block::Block;
use vmrun_devices::virtio::fs::Fs;
use vmrun_devices::virtio::mmio::MmioTransport;
use vmrun_devices::virtio::net::Net;
use vmrun_devices::virtio::rng::Rng;
use vmrun_devices::virtio::vsock::Vsock;
use vmrun_devices::virtio::{StateError, TransportState, VirtioDevice};
use vmrun_devices::{EventLoop, FailureSink, LoopHandle, Memory, MmioBus};
use vmrun_spec::{DeviceChange, DeviceSpec, Handles, HostPort, MachineSpec, NicSlot, Slot};

use crate::board::{Board, Place};
use crate::boot::Window;
use crate::end::{EndSignal, MachineEnd};
use crate::error::{DeviceError, PlugError, SpecError};
use crate::layout;
use crate::snapshot::SnapshotError;
use crate::virtual_machine::VirtualMachine;

/// The windows with the devices, and what runs those. The windows hold the devices, and so their
/// workers, and are dropped before the loop that the workers run on.
#[derive(Debug)]
pub(crate) struct Devices {
    board: Board,
    maker: Maker,
    /// Held, not used.
    _events: EventLoop,
}

/// What a device has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCounters {
    /// What failures call it.
    pub device: &'static str,
    /// The slot that it was plugged into, of those of its kind.
    pub slot: Option<u8>,
    /// Its figures, each with its name.
    pub figures: Vec<(&'static str, u64)>,
}

/// What devices are made with.
#[derive(Debug)]
struct Maker {
    events: LoopHandle,
    failures: FailureSink,
}

const NO_FRAMES: DeviceError = DeviceError::Handle { device: "network interface", handle: "frames" };
const NO_DISK: DeviceError = DeviceError::Handle { device: "disk", handle: "file" };

impl Maker {
    /// The one list of devices.
    fn make(&self, spec: &DeviceSpec, handles: Handles) -> Result<Box<dyn VirtioDevice>, DeviceError> {
        let (events, failures) = (self.events.clone(), self.failures.clone());
        Ok(match spec {
            DeviceSpec::Vsock(spec) => Box::new(Vsock::new(spec, handles.host_port, events)?),
            DeviceSpec::Rng => Box::new(Rng::new(events)),
            DeviceSpec::Balloon => Box::new(Balloon::new(events)),
            DeviceSpec::Fs(spec) => Box::new(Fs::new(spec, failures)?),
            DeviceSpec::Disk(spec) => Box::new(Block::new(spec, handles.disk.ok_or(NO_DISK)?, failures)?),
            DeviceSpec::Net(spec) => Box::new(Net::new(spec, handles.frames.ok_or(NO_FRAMES)?, failures)?),
        })
    }
}

/// There is an interrupt for each device.
pub(crate) fn check_count(spec: &MachineSpec) -> Result<(), SpecError> {
    let (asked, most) = (spec.devices.len(), layout::MAX_DEVICES);
    if asked <= usize::from(most) { Ok(()) } else { Err(SpecError::Devices { asked, most }) }
}

impl Devices {
    /// Makes the devices of `spec` and ties their events to `vm`; the slots for others are empty.
    pub(crate) fn attach(
        spec: &MachineSpec,
        mut host_port: Option<HostPort>,
        vm: &Arc<VirtualMachine>,
        memory: &Memory,
        end: &EndSignal,
    ) -> Result<(Self, MmioBus), DeviceError> {
        let (failed, device_failed) = (end.clone(), end.clone());
        let failures = FailureSink::new(move |why| device_failed.set(MachineEnd::Device(why)));
        let events = EventLoop::start(move |why| {
            failed.set(MachineEnd::Failed(format!("the device event loop failed: {why}")));
        })?;
        let fixed = (0..).zip(layout::FIRST_IRQ..).take(spec.devices.len());
        let slots = Slot::all().map(|slot| (slot.window(), NicSlot::IRQ));
        let (board, bus) = Board::new(Arc::clone(vm), memory.clone(), failures.clone(), slots.chain(fixed))?;
        let maker = Maker { events: events.handle(), failures };
        let devices = Self { board, maker, _events: events };
        for (place, spec) in devices.fixed().iter().zip(&spec.devices) {
            let host_port = host_port.take_if(|_| matches!(spec, DeviceSpec::Vsock(_)));
            let device = devices.maker.make(spec, Handles { host_port, ..Handles::default() })?;
            devices.board.put(place.enter(), device)?;
        }
        Ok((devices, bus))
    }

    /// What the devices that the guest booted with, and their drivers, have come to. They stand still, as the guest
    /// does, until [`Self::resume`].
    pub(crate) fn suspend(&self) -> Result<Vec<TransportState>, StateError> {
        let suspended =
            self.fixed().iter().filter_map(|place| place.enter().with_device(MmioTransport::suspend));
        // Each of them, also behind one that refuses.
        suspended.collect::<Vec<_>>().into_iter().collect()
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) -> Result<(), StateError> {
        self.fixed().iter().filter_map(|place| place.enter().with_device(MmioTransport::resume)).collect()
    }

    /// Makes the devices, which are new, go on where others were.
    pub(crate) fn restore(&self, states: &[TransportState]) -> Result<(), SnapshotError> {
        if states.len() != self.fixed().len() {
            return Err(SnapshotError::Foreign("its devices"));
        }
        for (place, state) in self.fixed().iter().zip(states) {
            if let Some(restored) = place.enter().with_device(|device| device.restore(state)) {
                restored?;
            }
        }
        Ok(())
    }

    /// The windows of the devices that the guest boots with, in the order of the specification.
    pub(crate) fn windows(&self) -> Vec<Window> {
        self.fixed().iter().map(|place| place.window).collect()
    }

    /// The interrupts of all windows; the slots share one.
    pub(crate) fn irqs(&self) -> impl Iterator<Item = u8> + '_ {
        self.fixed().iter().map(|place| place.window.irq).chain([NicSlot::IRQ])
    }

    /// Puts a device into an empty slot.
    pub(crate) fn plug(&self, slot: Slot, spec: &DeviceSpec, handles: Handles) -> Result<(), PlugError> {
        let entry = self.place(slot)?.enter();
        if !entry.is_empty() {
            return Err(PlugError::Occupied(slot));
        }
        self.maker
            .make(spec, handles)
            .and_then(|device| self.board.put(entry, device))
            .map_err(|source| PlugError::Device { slot, source })
    }

    /// Takes the device out of a slot, and waits until it is gone.
    pub(crate) fn unplug(&self, slot: Slot) -> Result<(), PlugError> {
        let entry = self.place(slot)?.enter();
        if entry.is_empty() {
            return Err(PlugError::Empty(slot));
        }
        self.board.take(entry);
        Ok(())
    }

    /// Changes the device in a slot.
    pub(crate) fn change(&self, slot: Slot, change: DeviceChange) -> Result<(), PlugError> {
        let entry = self.place(slot)?.enter();
        let changed = entry.with_device(|device| device.change(change)).ok_or(PlugError::Empty(slot))?;
        changed.map_err(|source| PlugError::Change { slot, source })
    }

    /// What all devices have counted.
    pub(crate) fn counters(&self) -> Vec<DeviceCounters> {
        let numbers = Slot::all().map(|slot| match slot {
            Slot::Interface(slot) => Some(slot.number()),
            Slot::Disk(slot) => Some(slot.number()),
            Slot::Balloon => None,
        });
        let numbers = numbers.chain(std::iter::repeat(None));
        let places = numbers.zip(self.board.places());
        let occupied = places.filter_map(|(slot, place)| Some((slot, place.occupant()?)));
        occupied
            .map(|(slot, occupant)| DeviceCounters {
                device: occupant.name,
                slot,
                figures: occupant.counters.read(),
            })
            .collect()
    }

    /// Behind the slots.
    fn fixed(&self) -> &[Place] {
        self.board.places().get(Slot::all().count()..).unwrap_or_default()
    }

    fn place(&self, slot: Slot) -> Result<&Place, PlugError> {
        let place = Slot::all().position(|known| known == slot).and_then(|at| self.board.places().get(at));
        place.ok_or(PlugError::Empty(slot))
    }
}
