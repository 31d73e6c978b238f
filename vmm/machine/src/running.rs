//! A machine that runs.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use vmrun_devices::{ConsoleLog, Memory};
use vmrun_spec::{DeviceChange, DeviceSpec, Handles, NicSlot, Slot};

use crate::devices::{DeviceCounters, Devices};
use crate::end::{EndSignal, MachineEnd};
use crate::error::{KvmError, PlugError};
use crate::io_bus::IoBus;
use crate::snapshot::{self, Checkpoint, MachineState, PageRun, SavedPages, Savers, SnapshotError};
use crate::stamps::{Stamp, Stamps};
use crate::vcpu::VcpuThread;
use crate::virtual_machine::VirtualMachine;

/// A machine whose vCPUs run, or are held. Dropping it stops it.
///
/// The order of the fields is the order of the end: first the vCPUs, then the
/// devices with their workers, and the memory last.
#[derive(Debug)]
pub struct Running {
    vcpus: Vec<VcpuThread>,
    /// The vCPUs have clones.
    bus: IoBus,
    devices: Devices,
    console: Console,
    end: EndSignal,
    /// Of a machine that is to be saved.
    savers: Option<Savers>,
    /// Whether each page that was touched is there by itself ([`snapshot::set_apart`]).
    knows_reads: bool,
    /// The vCPUs run in them.
    held: (Arc<VirtualMachine>, Memory),
}

/// The guest's console; outlives the machine.
#[derive(Clone, Debug)]
pub struct Console {
    log: ConsoleLog,
}

impl Console {
    /// The last lines that the guest printed, at most `lines`, oldest first.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        self.log.tail(lines)
    }
}

impl Running {
    pub(crate) fn new(
        vcpus: Vec<VcpuThread>,
        (bus, devices): (IoBus, Devices),
        console: ConsoleLog,
        end: EndSignal,
        (savers, knows_reads): (Option<Savers>, bool),
        held: (Arc<VirtualMachine>, Memory),
    ) -> Self {
        Self { vcpus, bus, devices, console: Console { log: console }, end, savers, knows_reads, held }
    }

    /// Readable once the guest has come to the checkpoint, where it waits.
    pub fn checkpoint_fd(&self) -> Option<BorrowedFd<'_>> {
        self.bus.checkpoint().map(AsFd::as_fd)
    }

    /// Saves the machine, whose guest is at the checkpoint: its memory to `pages.file`, but for what
    /// `pages.kernel` is alike. All vCPUs have to stand still within `limit`. A machine that cannot go on afterwards
    /// ends with the reason.
    pub fn save(&mut self, pages: &SavedPages<'_>, limit: Duration) -> Result<MachineState, SnapshotError> {
        if !self.bus.checkpoint().is_some_and(Checkpoint::is_reached) {
            return Err(SnapshotError::NotThere);
        }
        if !self.hold_within(limit) {
            return Err(SnapshotError::Moves);
        }
        let saved = self.save_still(pages);
        let lost = match &saved {
            // An access without an answer, or a device that has forgotten its driver.
            Err(SnapshotError::Unfinished | SnapshotError::Device(_)) => {
                saved.as_ref().err().map(ToString::to_string)
            }
            _ => None,
        };
        let resumed = self.devices.resume().err().map(|error| error.to_string());
        if let Some(why) = lost.or(resumed) {
            self.end.set(MachineEnd::Failed(format!("it cannot go on after it was to be saved: {why}")));
        }
        saved
    }

    /// While nothing moves.
    fn save_still(&mut self, pages: &SavedPages<'_>) -> Result<MachineState, SnapshotError> {
        let devices = self.devices.suspend()?;
        let (cpuid, vcpus) = self.savers.as_mut().ok_or(SnapshotError::NotThere)?.save()?;
        let (vm, memory) = &self.held;
        let clock = vm.get_clock().map_err(KvmError::call("tell the guest's clock"))?;
        let memory = snapshot::save(memory, pages)?;
        Ok(MachineState { cpuid, vcpus, clock, io_apic: self.bus.io_apic_state(), devices, memory })
    }

    /// Which pages of `saved` ([`crate::Snapshot::ranges`]) the start has taken since the machine was restored: those that were
    /// written, and where KVM can map pages ahead those that were touched. `pagemap` is `/proc/self/pagemap` of this process.
    pub fn working_set(&self, saved: &[Range<u64>], pagemap: &File) -> io::Result<Vec<PageRun>> {
        let memory = &self.held.1;
        let set = snapshot::record(memory, saved, pagemap, self.knows_reads);
        if self.knows_reads {
            snapshot::join(memory, saved);
        }
        set
    }

    /// Lets the guest go on behind the checkpoint, or not stop there at all.
    pub fn pass_checkpoint(&mut self) {
        self.savers = None;
        if let Some(checkpoint) = self.bus.checkpoint() {
            checkpoint.pass();
            self.release();
        }
    }

    /// Readable once the machine has ended by itself: for `poll`.
    pub fn ended_fd(&self) -> BorrowedFd<'_> {
        self.end.fd()
    }

    /// How it ended, once it has.
    pub fn end(&self) -> Option<MachineEnd> {
        self.end.get().cloned()
    }

    /// Ends the machine for a reason that its owner has found, from any thread.
    pub fn failing(&self) -> impl Fn(String) + Send + Sync + 'static {
        let end = self.end.clone();
        move |why| end.set(MachineEnd::Failed(why))
    }

    /// The guest's console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Holds every vCPU: the guest stands still. Its devices go on with what they have.
    pub fn hold(&self) {
        self.vcpus.iter().for_each(VcpuThread::hold);
    }

    /// Holds every vCPU, and waits until all have left the guest; false when one does not within `limit`.
    pub fn hold_within(&self, limit: Duration) -> bool {
        self.hold();
        self.vcpus.iter().all(|vcpu| vcpu.await_outside(limit))
    }

    /// Lets the vCPUs go on.
    pub fn release(&self) {
        self.vcpus.iter().for_each(VcpuThread::release);
    }

    /// Puts a device into an empty slot. The guest does not see it by itself: somebody in it has to announce the
    /// slot, or to bind it again.
    pub fn plug(&self, slot: Slot, device: &DeviceSpec, handles: Handles) -> Result<(), PlugError> {
        self.devices.plug(slot, device, handles)
    }

    /// Takes the device out of a slot. When this returns its thread has ended and its descriptors are
    /// closed, whether or not the guest has unbound its driver: it is the guest's own affair when that finds
    /// nothing any more.
    pub fn unplug(&self, slot: Slot) -> Result<(), PlugError> {
        self.devices.unplug(slot)
    }

    /// Sets the link of the network interface in a slot up or down; the guest's driver is told.
    pub fn set_link(&self, slot: NicSlot, up: bool) -> Result<(), PlugError> {
        self.devices.change(Slot::Interface(slot), DeviceChange::Link(up))
    }

    /// What the devices have counted by now. Waits for none of them.
    pub fn counters(&self) -> Vec<DeviceCounters> {
        self.devices.counters()
    }

    /// When the guest was how far, if it was to say (`MachineSpec::mark_port`).
    pub fn stamps(&self) -> Vec<Stamp> {
        self.bus.stamps().map(Stamps::read).unwrap_or_default()
    }

    /// Stops the vCPUs and the devices and joins every thread.
    pub fn stop(self) {
        drop(self);
    }
}
