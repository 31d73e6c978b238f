//! The devices of a machine and their wiring into KVM.

use std::sync::{Arc, Mutex};

use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmrun_devices::virtio::fs::Fs;
use vmrun_devices::virtio::rng::Rng;
use vmrun_devices::virtio::vsock::Vsock;
use vmrun_devices::virtio::{ACKNOWLEDGE_USED, MmioTransport, NOTIFY_OFFSET, TRANSPORT_BYTES, VirtioDevice};
use vmrun_devices::{EventLoop, FailureSink, LoopHandle, Memory, MmioBus, MmioDevice};
use vmrun_spec::MachineSpec;

use crate::boot::Window;
use crate::end::{EndSignal, MachineEnd};
use crate::error::{DeviceError, KvmError, SpecError};
use crate::{kvm, layout};

/// What runs the devices. The transports hold the devices, and so their workers,
/// and are dropped before the loop that the workers run on.
#[derive(Debug)]
pub(crate) struct Devices {
    pub(crate) bus: MmioBus,
    pub(crate) windows: Vec<Window>,
    pub(crate) events: EventLoop,
}

/// Makes the devices of `spec` and ties their events to `vm`.
pub(crate) fn attach(
    spec: &MachineSpec,
    vm: &VmFd,
    memory: &Memory,
    end: &EndSignal,
) -> Result<Devices, DeviceError> {
    let (failed, device_failed) = (end.clone(), end.clone());
    let failures = FailureSink::new(move |why| device_failed.set(MachineEnd::Device(why)));
    let events = EventLoop::start(move |why| {
        failed.set(MachineEnd::Failed(format!("the device event loop failed: {why}")));
    })?;
    let unread = EventFd::new(EFD_NONBLOCK).map_err(DeviceError::Event)?;
    let bus = MmioBus::new(layout::MMIO, TRANSPORT_BYTES);
    let mut attached = Attacher { vm, memory, bus, windows: Vec::new(), unread, failures: failures.clone() };
    for device in devices(spec, &events.handle(), &failures)? {
        attached.add(device)?;
    }
    Ok(Devices { bus: attached.bus, windows: attached.windows, events })
}

/// Devices of every machine: vsock and rng.
const ALWAYS: usize = 2;

/// There is an interrupt for each device.
pub(crate) fn check_count(spec: &MachineSpec) -> Result<(), SpecError> {
    let most = layout::LAST_IRQ - layout::FIRST_IRQ + 1;
    let asked = spec.shares.len() + ALWAYS;
    match u32::try_from(asked) {
        Ok(count) if count <= most => Ok(()),
        _ => Err(SpecError::Devices { asked, most }),
    }
}

/// How many devices `spec` makes, once [`check_count`] has let it pass.
pub(crate) fn device_count(spec: &MachineSpec) -> u8 {
    u8::try_from(spec.shares.len() + ALWAYS).unwrap_or(u8::MAX)
}

/// The one list of devices. The guest's kernel probes them in this order.
fn devices(
    spec: &MachineSpec,
    events: &LoopHandle,
    failures: &FailureSink,
) -> Result<Vec<Box<dyn VirtioDevice>>, DeviceError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> =
        vec![Box::new(Vsock::new(&spec.vsock, events.clone())?), Box::new(Rng::new(events.clone()))];
    for share in &spec.shares {
        devices.push(Box::new(Fs::new(share, failures.clone())?));
    }
    Ok(devices)
}

struct Attacher<'a> {
    vm: &'a VmFd,
    memory: &'a Memory,
    bus: MmioBus,
    windows: Vec<Window>,
    /// Takes the writes that mean nothing to anybody, inside KVM: nobody reads it.
    unread: EventFd,
    failures: FailureSink,
}

impl Attacher<'_> {
    fn add(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), DeviceError> {
        let irq = layout::FIRST_IRQ + u32::try_from(self.windows.len()).unwrap_or(layout::LAST_IRQ);
        let line = EventFd::new(EFD_NONBLOCK).map_err(DeviceError::Event)?;
        self.vm.register_irqfd(&line, irq).map_err(KvmError::call("tie an event to an interrupt"))?;
        let transport = MmioTransport::new(device, self.memory.clone(), line, self.failures.clone())?;
        let transport = Arc::new(Mutex::new(transport));
        let address =
            self.bus.add(Arc::<Mutex<MmioTransport>>::clone(&transport) as Arc<Mutex<dyn MmioDevice>>);
        let transport = transport.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kvm::set_registers(self.vm, self.windows.len(), address, transport.registers())?;
        let (register, used) = ACKNOWLEDGE_USED;
        self.vm
            .register_ioevent(&self.unread, &IoEventAddress::Mmio(address + register), used)
            .map_err(KvmError::call("swallow the writes to a register"))?;
        for (queue, kick) in (0u32..).zip(transport.kicks()) {
            let notify = IoEventAddress::Mmio(address + NOTIFY_OFFSET);
            self.vm
                .register_ioevent(kick, &notify, queue)
                .map_err(KvmError::call("tie an event to a register"))?;
        }
        self.windows.push(Window { address, bytes: TRANSPORT_BYTES, irq });
        Ok(())
    }
}
