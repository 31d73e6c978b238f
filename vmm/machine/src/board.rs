//! The register windows of a machine, and what ties a device in one of them to KVM.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::IoEventAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmrun_devices::virtio::mmio::{
    ACKNOWLEDGE_USED, MmioTransport, NOTIFY_OFFSET, RegisterBoard, Slot, TRANSPORT_BYTES,
};
use vmrun_devices::virtio::{Counters, VirtioDevice};
use vmrun_devices::{FailureSink, Memory, MmioBus};

use crate::boot::Window;
use crate::error::{DeviceError, KvmError};
use crate::virtual_machine::VirtualMachine;
use crate::{kvm, layout};

/// All windows.
#[derive(Debug)]
pub(crate) struct Board {
    vm: Arc<VirtualMachine>,
    memory: Memory,
    /// Takes the writes that mean nothing to anybody, inside KVM: nobody reads it.
    unread: EventFd,
    failures: FailureSink,
    places: Vec<Place>,
}

const NO_PAGE: DeviceError = DeviceError::Kvm(KvmError::Capability("a page for each window"));

/// A window and what is in it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) window: Window,
    slot: Arc<Mutex<Slot>>,
    /// Held while a device comes or goes; the guest's accesses do not take it.
    occupant: Mutex<Option<Occupant>>,
}

/// What is known of a device without asking it.
#[derive(Clone, Debug)]
pub(crate) struct Occupant {
    pub(crate) name: &'static str,
    pub(crate) counters: Counters,
}

impl Board {
    /// Windows, all empty, and the bus by which the guest writes to them. Each has a number, by which it
    /// lies in memory, and an interrupt.
    pub(crate) fn new(
        vm: Arc<VirtualMachine>,
        memory: Memory,
        failures: FailureSink,
        windows: impl IntoIterator<Item = (u8, u8)>,
    ) -> Result<(Self, MmioBus), DeviceError> {
        let windows: Vec<_> = windows.into_iter().collect();
        let last = windows.iter().map(|(number, _)| usize::from(*number)).max().unwrap_or(0);
        let registers = RegisterBoard::new(last + 1).map_err(DeviceError::Registers)?;
        let mut bus = MmioBus::new(layout::MMIO, TRANSPORT_BYTES);
        let mut places = Vec::with_capacity(windows.len());
        for (number, irq) in windows {
            let page = registers.page(number.into()).ok_or(NO_PAGE)?;
            let slot = Arc::new(Mutex::new(Slot::new(page)));
            let address = bus.put(number, Arc::<Mutex<Slot>>::clone(&slot));
            let window = Window { address, bytes: TRANSPORT_BYTES, irq };
            places.push(Place { window, slot, occupant: Mutex::default() });
        }
        kvm::set_registers(&vm, layout::MMIO, &registers)?;
        let unread = EventFd::new(EFD_NONBLOCK).map_err(DeviceError::Event)?;
        Ok((Self { vm, memory, unread, failures, places }, bus))
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Puts `device` into an empty window.
    pub(crate) fn put(&self, mut entry: Entry<'_>, device: Box<dyn VirtioDevice>) -> Result<(), DeviceError> {
        let Place { window, slot, .. } = entry.place;
        let page = Arc::clone(lock(slot).page());
        let line = EventFd::new(EFD_NONBLOCK).map_err(DeviceError::Event)?;
        let transport = MmioTransport::new(device, self.memory.clone(), page, line, self.failures.clone())?;
        if let Err(error) = self.wire(*window, &transport) {
            self.unwire(*window, &transport);
            return Err(error.into());
        }
        *entry.occupant = Some(Occupant { name: transport.name(), counters: transport.counters() });
        lock(slot).put(transport);
        Ok(())
    }

    /// Takes the device out of a window. It is gone when this returns: its thread has ended, and its
    /// descriptors are closed. The guest need not agree.
    pub(crate) fn take(&self, mut entry: Entry<'_>) {
        let taken = lock(&entry.place.slot).take();
        if let Some(transport) = taken {
            self.unwire(entry.place.window, &transport);
        }
        *entry.occupant = None;
    }

    fn wire(&self, window: Window, transport: &MmioTransport) -> Result<(), KvmError> {
        let (register, used) = ACKNOWLEDGE_USED;
        self.vm
            .register_irqfd(transport.line(), window.irq.into())
            .map_err(KvmError::call("tie an event to an interrupt"))?;
        self.vm
            .register_ioevent(&self.unread, &IoEventAddress::Mmio(window.address + register), used)
            .map_err(KvmError::call("swallow the writes to a register"))?;
        for (queue, kick) in (0u32..).zip(transport.kicks()) {
            let notify = IoEventAddress::Mmio(window.address + NOTIFY_OFFSET);
            self.vm
                .register_ioevent(kick, &notify, queue)
                .map_err(KvmError::call("tie an event to a register"))?;
        }
        Ok(())
    }

    /// Unties whatever was tied: what was not is refused, and nothing else can fail.
    fn unwire(&self, window: Window, transport: &MmioTransport) {
        let (register, used) = ACKNOWLEDGE_USED;
        let _ = self.vm.unregister_irqfd(transport.line(), window.irq.into());
        let _ =
            self.vm.unregister_ioevent(&self.unread, &IoEventAddress::Mmio(window.address + register), used);
        for (queue, kick) in (0u32..).zip(transport.kicks()) {
            let notify = IoEventAddress::Mmio(window.address + NOTIFY_OFFSET);
            let _ = self.vm.unregister_ioevent(kick, &notify, queue);
        }
    }
}

/// A window that nobody else puts a device into, or takes one out of.
pub(crate) struct Entry<'b> {
    place: &'b Place,
    occupant: MutexGuard<'b, Option<Occupant>>,
}

impl Place {
    /// Waits until it is this caller's.
    pub(crate) fn enter(&self) -> Entry<'_> {
        Entry { place: self, occupant: lock(&self.occupant) }
    }

    /// The device that is in it.
    pub(crate) fn occupant(&self) -> Option<Occupant> {
        lock(&self.occupant).clone()
    }
}

impl Entry<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.occupant.is_none()
    }

    /// Does something with the device that is in it.
    pub(crate) fn with_device<T>(&self, act: impl FnOnce(&mut MmioTransport) -> T) -> Option<T> {
        lock(&self.place.slot).transport_mut().map(act)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
