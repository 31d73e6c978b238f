//! A machine that is ready to run.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};
use vmrun_devices::{ConsoleLog, Memory, heap};
use vmrun_spec::{HostPort, MachineSpec};

use crate::boot::{Initramfs, Kernel, cmdline, mp_table, write_params};
use crate::devices::{Devices, check_count};
use crate::end::EndSignal;
use crate::error::{BootError, DeviceError, KvmError, MachineError, SpecError};
use crate::io_apic::IoApic;
use crate::io_bus::IoBus;
use crate::mapped::MappedPages;
use crate::running::Running;
use crate::stamps::Stamps;
use crate::vcpu::{Entry, VcpuThread, guest_cpuid, set_boot_state, set_firmware_state, write_tables};
use crate::{check, kvm, layout, memory};

/// The bytes of the boot images.
#[derive(Clone, Copy, Debug)]
pub struct BootImages<'a> {
    /// ELF `vmlinux` or `bzImage`.
    pub kernel: &'a [u8],
    /// Pages of the kernel that `kernel` leaves out.
    pub kernel_pages: &'a [MappedPages],
    /// cpio archive with the agent as `/init`.
    pub initramfs: &'a [u8],
}

impl BootImages<'_> {
    /// Puts kernel and boot image into the `ram` bytes of `memory`.
    fn load(self, memory: &Memory, ram: u64) -> Result<(Kernel, Initramfs), BootError> {
        let kernel = Kernel::load(memory, self.kernel)?;
        for pages in self.kernel_pages {
            pages.place(memory)?;
        }
        let initramfs = Initramfs::load(memory, self.initramfs, ram, kernel.end)?;
        Ok((kernel, initramfs))
    }
}

/// A machine whose memory is loaded and whose devices exist; nothing runs yet.
#[derive(Debug)]
pub struct Built {
    vcpus: Vec<VcpuFd>,
    bus: IoBus,
    devices: Devices,
    console: ConsoleLog,
    end: EndSignal,
    vm: Arc<VmFd>,
    memory: Memory,
}

impl Built {
    /// Builds a machine:
    ///
    /// 1. opens `/dev/kvm`, makes the virtual machine and its memory, loads kernel and boot image;
    /// 2. makes the devices and ties their events to KVM;
    /// 3. writes the boot parameters;
    /// 4. makes the vCPUs and puts the first at the kernel's entry.
    ///
    /// `host_port` is whom the guest reaches by its vsock device, if anybody.
    pub fn new(
        spec: &MachineSpec,
        images: BootImages<'_>,
        host_port: Option<HostPort>,
    ) -> Result<Self, MachineError> {
        check_spec(spec)?;
        heap::one_for_all_threads();
        let kvm = kvm::open()?;
        check::require_usable()?;
        let most = kvm.get_max_vcpus().min(usize::from(MachineSpec::MAX_VCPUS));
        if spec.vcpus == 0 || usize::from(spec.vcpus) > most {
            return Err(SpecError::Vcpus { asked: spec.vcpus, most }.into());
        }
        let cpuid = kvm::supported_cpuid(&kvm)?;
        let inputs = layout::irqs(spec.devices.len());
        let memory = memory::map(spec.memory_mib)?;
        // The host's kernel makes a virtual machine in a while, most of which it waits.
        let (vm, loaded) = thread::scope(|scope| {
            let loading = scope.spawn(|| images.load(&memory, spec.memory_bytes()));
            (kvm::create_vm(&kvm, inputs), loading.join())
        });
        let vm = Arc::new(vm?);
        let (kernel, initramfs) = loaded.unwrap_or_else(|panic| resume_unwind(panic))?;
        kvm::set_memory(&vm, &memory)?;

        let console = ConsoleLog::create(&spec.console_log)
            .map_err(|source| DeviceError::Console { path: spec.console_log.clone(), source })?;
        let end = EndSignal::new(console.clone()).map_err(DeviceError::Event)?;
        let (devices, bus) = Devices::attach(spec, host_port, &vm, &memory, &end)?;

        let cmdline = cmdline(&devices.windows(), &spec.cmdline)?;
        linux_loader::loader::load_cmdline(&memory, GuestAddress(layout::CMDLINE), &cmdline)
            .map_err(BootError::Kernel)?;
        memory
            .write_slice(&mp_table(spec.vcpus, devices.irqs()), GuestAddress(layout::MP_TABLE))
            .map_err(BootError::Write)?;
        write_tables(&memory).map_err(BootError::Write)?;
        write_params(&memory, &kernel, initramfs, spec.memory_bytes())?;

        let vcpus = make_vcpus(&vm, &cpuid, spec.vcpus)?;
        if let Some(first) = vcpus.first() {
            set_boot_state(first, Entry { rip: kernel.entry, rsi: layout::ZERO_PAGE })?;
        }
        let routed = Arc::clone(&vm);
        let io_apic = IoApic::new(inputs, move |routing| Ok(routed.set_gsi_routing(routing)?));
        let bus = IoBus::new(bus, io_apic, console.clone(), spec.mark_port.map(Stamps::new));
        Ok(Self { vcpus, bus, devices, console, end, vm, memory })
    }

    /// Starts the vCPUs.
    pub fn start(self) -> Result<Running, MachineError> {
        let Self { vcpus, bus, devices, console, end, vm, memory } = self;
        let mut threads = Vec::with_capacity(vcpus.len());
        for (id, vcpu) in (0..).zip(vcpus) {
            threads.push(VcpuThread::start(id, vcpu, bus.clone(), end.clone())?);
        }
        Ok(Running::new(threads, (bus, devices), console, end, (vm, memory)))
    }
}

fn check_spec(spec: &MachineSpec) -> Result<(), SpecError> {
    check_count(spec)?;
    if spec.memory_mib < MachineSpec::MIN_MEMORY_MIB {
        return Err(SpecError::Memory { asked: spec.memory_mib, least: MachineSpec::MIN_MEMORY_MIB.into() });
    }
    Ok(())
}

fn make_vcpus(vm: &VmFd, supported: &CpuId, count: u8) -> Result<Vec<VcpuFd>, KvmError> {
    (0..count)
        .map(|id| {
            let vcpu = vm.create_vcpu(id.into()).map_err(KvmError::call("make a vCPU"))?;
            let cpuid = guest_cpuid(supported, id, count)
                .map_err(|_| KvmError::Capability("room for CPUID entries"))?;
            vcpu.set_cpuid2(&cpuid).map_err(KvmError::call("set a vCPU's CPUID"))?;
            set_firmware_state(&vcpu, &cpuid)?;
            Ok(vcpu)
        })
        .collect()
}
