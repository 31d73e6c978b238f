//! A machine that runs.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use kvm_ioctls::VmFd;
use vmrun_devices::{ConsoleLog, EventLoop, Memory};

use crate::end::{EndSignal, MachineEnd};
use crate::io_bus::IoBus;
use crate::vcpu::VcpuThread;

/// A machine whose vCPUs run. Dropping it stops it.
///
/// The order of the fields is the order of the end: first the vCPUs, then the
/// devices and their workers, then the loop, and the memory last.
#[derive(Debug)]
pub struct Running {
    vcpus: Vec<VcpuThread>,
    bus: Option<IoBus>,
    console: Console,
    end: EndSignal,
    /// Held, not used: the devices run on the first, the vCPUs in the others.
    _held: (EventLoop, Arc<VmFd>, Memory),
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
        bus: IoBus,
        console: ConsoleLog,
        end: EndSignal,
        held: (EventLoop, Arc<VmFd>, Memory),
    ) -> Self {
        Self { vcpus, bus: Some(bus), console: Console { log: console }, end, _held: held }
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
    pub fn failing(&self) -> impl FnOnce(String) + Send + 'static {
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

    /// Stops the vCPUs and the devices and joins every thread.
    pub fn stop(mut self) {
        self.vcpus.clear();
        self.bus = None;
    }
}
