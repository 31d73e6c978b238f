//! A machine that is ready to run.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use kvm_bindings::{CpuId, kvm_clock_data, kvm_cpuid_entry2};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};
use vmrun_devices::{ConsoleLog, Memory, MmioBus, heap};
use vmrun_spec::{HostPort, MachineSpec};

use crate::boot::{Initramfs, Kernel, cmdline, mp_table, write_params};
use crate::devices::{Devices, check_count};
use crate::end::EndSignal;
use crate::error::{BootError, DeviceError, KvmError, MachineError, SpecError};
use crate::io_apic::IoApic;
use crate::io_bus::IoBus;
use crate::mapped::MappedPages;
use crate::running::Running;
use crate::snapshot::{
    Checkpoint, Savers, Snapshot, SnapshotError, can_map_ahead, map_ahead, room_for_mappings, set_apart,
};
use crate::stamps::Stamps;
use crate::vcpu::{Entry, VcpuThread, guest_cpuid, set_boot_state, set_firmware_state, write_tables};
use crate::virtual_machine::VirtualMachine;
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
    kvm: Kvm,
    vcpus: Vec<VcpuFd>,
    /// The first one's.
    cpuid: Vec<kvm_cpuid_entry2>,
    bus: IoBus,
    devices: Devices,
    console: ConsoleLog,
    end: EndSignal,
    savers: Option<Savers>,
    /// Whether it will be seen which of its pages are read.
    knows_reads: bool,
    vm: Arc<VirtualMachine>,
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
        let load = |memory: &Memory| Ok(images.load(memory, spec.memory_bytes())?);
        let (machine, (kernel, initramfs)) = Self::assemble(spec, host_port, load)?;
        let memory = &machine.memory;
        let cmdline = cmdline(&machine.devices.windows(), &spec.cmdline)?;
        linux_loader::loader::load_cmdline(memory, GuestAddress(layout::CMDLINE), &cmdline)
            .map_err(BootError::Kernel)?;
        memory
            .write_slice(&mp_table(spec.vcpus, machine.devices.irqs()), GuestAddress(layout::MP_TABLE))
            .map_err(BootError::Write)?;
        write_tables(memory).map_err(BootError::Write)?;
        write_params(memory, &kernel, initramfs, spec.memory_bytes())?;
        for (vcpu, cpuid) in &machine.vcpus {
            set_firmware_state(vcpu, cpuid)?;
        }
        if let Some((first, _)) = machine.vcpus.first() {
            set_boot_state(first, Entry { rip: kernel.entry, rsi: layout::ZERO_PAGE })?;
        }
        Ok(machine.finish(spec))
    }

    /// Builds a machine that goes on where another of the same specification was saved.
    pub fn restored(
        spec: &MachineSpec,
        snapshot: Snapshot<'_>,
        host_port: Option<HostPort>,
    ) -> Result<Self, MachineError> {
        let state = snapshot.state;
        let load = |memory: &Memory| Ok(snapshot.place(memory)?);
        let (mut machine, ()) = Self::assemble(spec, host_port, load)?;
        let clock = kvm_clock_data { flags: 0, ..state.clock };
        let set = machine.vm.set_clock(&clock).map_err(KvmError::call("set the guest's clock"));
        set.map_err(SnapshotError::from)?;
        match machine.io_apic.restore(&state.io_apic) {
            Ok(true) => {}
            Ok(false) => return Err(SnapshotError::Foreign("its interrupts").into()),
            Err(_) => return Err(SnapshotError::Foreign("a route that KVM refuses").into()),
        }
        if state.vcpus.len() != machine.vcpus.len() {
            return Err(SnapshotError::Foreign("its vCPUs").into());
        }
        let said = machine.vcpus.first().map(|(_, cpuid)| cpuid.as_slice());
        if said != Some(&*state.cpuid) {
            return Err(SnapshotError::Foreign("its processor, or what KVM makes of that").into());
        }
        for (number, (state, (vcpu, cpuid))) in state.vcpus.iter().zip(&machine.vcpus).enumerate() {
            state.restore(vcpu, cpuid, number == 0)?;
        }
        // Behind the routes, by which they interrupt.
        machine.devices.restore(&state.devices)?;
        let saved = snapshot.ranges();
        let knows_reads = snapshot.is_recorded
            && can_map_ahead(&machine.kvm)
            && set_apart(&machine.memory, &saved, room_for_mappings()).is_ok();
        if let Some((vcpu, _)) = machine.vcpus.first() {
            map_ahead(vcpu, &machine.memory, snapshot.working_set, &saved);
        }
        Ok(Built { knows_reads, ..machine.finish(spec) })
    }

    /// What a machine consists of, whatever its guest begins with; `load` fills the memory.
    fn assemble<L: Send>(
        spec: &MachineSpec,
        host_port: Option<HostPort>,
        load: impl FnOnce(&Memory) -> Result<L, MachineError> + Send,
    ) -> Result<(Parts, L), MachineError> {
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
            let loading = scope.spawn(|| load(&memory));
            (kvm::create_vm(&kvm, inputs), loading.join())
        });
        let vm = Arc::new(vm?);
        let loaded = loaded.unwrap_or_else(|panic| resume_unwind(panic))?;
        kvm::set_memory(&vm, &memory)?;
        let console = ConsoleLog::create(&spec.console_log)
            .map_err(|source| DeviceError::Console { path: spec.console_log.clone(), source })?;
        let end = EndSignal::new(console.clone()).map_err(DeviceError::Event)?;
        let (devices, mmio) = Devices::attach(spec, host_port, &vm, &memory, &end)?;
        let vcpus = make_vcpus(&vm, &cpuid, spec.vcpus)?;
        let routed = Arc::clone(&vm);
        let io_apic = IoApic::new(inputs, move |routing| Ok(routed.set_gsi_routing(routing)?));
        Ok((Parts { kvm, vcpus, mmio, io_apic, devices, console, end, vm, memory }, loaded))
    }

    /// Has the guest stop, once, when it writes to this port, so that the machine can be saved there.
    ///
    /// # Errors
    /// KVM does not tell what is needed for that: the machine is as it was.
    pub fn stop_at(&mut self, port: u16) -> Result<(), MachineError> {
        let savers = Savers::of(&self.kvm, &self.vm, &self.vcpus, std::mem::take(&mut self.cpuid))?;
        self.bus.stop_at(Checkpoint::at(port)?);
        self.savers = Some(savers);
        Ok(())
    }

    /// Starts the vCPUs.
    pub fn start(self) -> Result<Running, MachineError> {
        let running = self.hold()?;
        running.release();
        Ok(running)
    }

    /// Makes the vCPUs' threads, which are held: after the first [`Running::release`] they enter the guest.
    pub fn hold(self) -> Result<Running, MachineError> {
        let Self { vcpus, bus, devices, console, end, savers, knows_reads, vm, memory, .. } = self;
        let mut threads = Vec::with_capacity(vcpus.len());
        for (id, vcpu) in (0..).zip(vcpus) {
            threads.push(VcpuThread::start(id, vcpu, bus.clone(), end.clone())?);
        }
        Ok(Running::new(threads, (bus, devices), console, end, (savers, knows_reads), (vm, memory)))
    }
}

/// A machine whose guest has not got a beginning yet.
struct Parts {
    kvm: Kvm,
    vcpus: Vec<(VcpuFd, CpuId)>,
    mmio: MmioBus,
    io_apic: IoApic,
    devices: Devices,
    console: ConsoleLog,
    end: EndSignal,
    vm: Arc<VirtualMachine>,
    memory: Memory,
}

impl Parts {
    fn finish(self, spec: &MachineSpec) -> Built {
        let Self { kvm, vcpus, mmio, io_apic, devices, console, end, vm, memory } = self;
        #[cfg(feature = "planted-holes")]
        vmrun_devices::planted::know(&memory);
        let bus = IoBus::new(mmio, io_apic, console.clone(), spec.mark_port.map(Stamps::new));
        let cpuid = vcpus.first().map(|(_, cpuid)| cpuid.as_slice().to_vec()).unwrap_or_default();
        let vcpus = vcpus.into_iter().map(|(vcpu, _)| vcpu).collect();
        Built { kvm, vcpus, cpuid, bus, devices, console, end, savers: None, knows_reads: false, vm, memory }
    }
}

fn check_spec(spec: &MachineSpec) -> Result<(), SpecError> {
    check_count(spec)?;
    if spec.memory_mib < MachineSpec::MIN_MEMORY_MIB {
        return Err(SpecError::Memory { asked: spec.memory_mib, least: MachineSpec::MIN_MEMORY_MIB.into() });
    }
    Ok(())
}

fn make_vcpus(vm: &VmFd, supported: &CpuId, count: u8) -> Result<Vec<(VcpuFd, CpuId)>, KvmError> {
    (0..count)
        .map(|id| {
            let vcpu = vm.create_vcpu(id.into()).map_err(KvmError::call("make a vCPU"))?;
            let cpuid = guest_cpuid(supported, id, count)
                .map_err(|_| KvmError::Capability("room for CPUID entries"))?;
            vcpu.set_cpuid2(&cpuid).map_err(KvmError::call("set a vCPU's CPUID"))?;
            Ok((vcpu, cpuid))
        })
        .collect()
}
