//! The thread of one vCPU.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use kvm_bindings::KVM_EXIT_INTERNAL_ERROR;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::Killable;
use vmrun_devices::Worker;

use super::class::VCPU;
use super::kick::{self, Kickable};
use crate::end::{EndSignal, MachineEnd};
use crate::error::{KvmError, MachineError};
use crate::io_bus::{IoBus, Outcome};

/// A running vCPU; dropping it makes it stop and joins its thread.
#[derive(Debug)]
pub(crate) struct VcpuThread {
    orders: Arc<Orders>,
    worker: Worker,
}

/// What a vCPU shall do. It looks between two exits, to which it is kicked.
#[derive(Debug, Default)]
struct Orders {
    stop: AtomicBool,
    hold: AtomicBool,
    outside: Outside,
}

/// Whether the vCPU is known to be outside the guest, where it stays until it gets another order.
#[derive(Debug, Default)]
struct Outside {
    known: Mutex<bool>,
    changed: Condvar,
}

impl Outside {
    /// It is, if that is still wanted: whoever lets it go on says that under the same lock.
    fn enter_if(&self, wanted: impl FnOnce() -> bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted() {
            *known = true;
            self.changed.notify_all();
        }
    }

    /// It leaves, since `leave` says so.
    fn leave(&self, leave: impl FnOnce()) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = false;
        leave();
    }

    fn set(&self, outside: bool) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = outside;
        self.changed.notify_all();
    }

    /// Waits until it is; false when that takes longer than `limit`.
    fn await_true(&self, limit: Duration) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(known, limit, |outside| !*outside);
        waited.is_ok_and(|(known, _)| *known)
    }
}

impl Orders {
    /// Waits while the vCPU is held; false when it shall stop.
    fn go_on(&self) -> bool {
        loop {
            if self.stop.load(Ordering::Acquire) {
                return false;
            }
            if !self.hold.load(Ordering::Acquire) {
                return true;
            }
            self.outside.enter_if(|| self.hold.load(Ordering::Acquire));
            // Whoever changes an order unparks; a park that ends early looks again.
            std::thread::park();
        }
    }
}

impl VcpuThread {
    /// Makes `vcpu` a thread, which is held; released, it runs until the machine ends.
    pub(crate) fn start(id: u8, vcpu: VcpuFd, bus: IoBus, end: EndSignal) -> Result<Self, MachineError> {
        kick::install().map_err(KvmError::call("install the signal that stops vCPUs"))?;
        let orders = Arc::new(Orders { hold: AtomicBool::new(true), ..Orders::default() });
        let obeyed = Arc::clone(&orders);
        let failed = end.clone();
        let worker = Worker::start(
            &format!("vcpu{id}"),
            VCPU,
            move || {
                if obeyed.go_on()
                    && id == 0
                    && let Some(stamps) = bus.stamps()
                {
                    stamps.entry();
                }
                let cause = run(vcpu, &bus, &obeyed);
                obeyed.outside.set(true);
                if let Some(cause) = cause {
                    end.set(bus.explain(cause));
                }
            },
            move |why| failed.set(MachineEnd::Failed(format!("the thread of vCPU {id} failed: {why}"))),
        )?;
        Ok(Self { orders, worker })
    }

    /// Makes it leave the guest and wait.
    pub(crate) fn hold(&self) {
        self.orders.hold.store(true, Ordering::Release);
        self.kick();
    }

    /// Waits until it has left the guest as ordered; false when that takes longer than `limit`.
    pub(crate) fn await_outside(&self, limit: Duration) -> bool {
        self.orders.outside.await_true(limit)
    }

    /// Lets it enter the guest again.
    pub(crate) fn release(&self) {
        self.orders.outside.leave(|| self.orders.hold.store(false, Ordering::Release));
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = self.worker.handle() {
            thread.thread().unpark();
        }
    }

    /// Makes it look at its orders, from inside the guest or on its way there.
    fn kick(&self) {
        if let Some(thread) = self.worker.handle() {
            // Fails when the thread has ended already.
            let _ = thread.kill(kick::signal());
        }
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.orders.stop.store(true, Ordering::Release);
        self.unpark();
        self.kick();
    }
}

/// Runs until told to stop (`None`) or until the machine ends by itself.
fn run(mut vcpu: VcpuFd, bus: &IoBus, orders: &Orders) -> Option<MachineEnd> {
    let mut kickable = Kickable::new(&mut vcpu);
    loop {
        // A kick sets it for good. First this, then the orders: whoever changes
        // them kicks afterwards, so a kick that is undone here has been obeyed below.
        kickable.vcpu().set_kvm_immediate_exit(0);
        if !orders.go_on() {
            return None;
        }
        match step(kickable.vcpu(), bus) {
            Outcome::Continue => {}
            Outcome::Stop => {
                if let Some(checkpoint) = bus.checkpoint() {
                    checkpoint.reach(|| orders.hold.store(true, Ordering::Release));
                }
            }
            Outcome::End(end) => return Some(end),
        }
    }
}

fn step(vcpu: &mut VcpuFd, bus: &IoBus) -> Outcome {
    let outcome = match vcpu.run() {
        Ok(exit) => handle(exit, bus),
        Err(error) => match io::Error::from(error).kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Some(Outcome::Continue),
            _ => Some(Outcome::End(MachineEnd::Failed(format!("KVM cannot run a vCPU: {error}")))),
        },
    };
    outcome.unwrap_or_else(|| Outcome::End(unexpected(vcpu)))
}

/// `None` is an exit that only `kvm_run` can explain.
fn handle(exit: VcpuExit<'_>, bus: &IoBus) -> Option<Outcome> {
    Some(match exit {
        VcpuExit::MmioRead(address, data) => bus.mmio_read(address, data),
        VcpuExit::MmioWrite(address, data) => bus.mmio_write(address, data),
        VcpuExit::IoIn(port, data) => bus.port_read(port, data),
        VcpuExit::IoOut(port, data) => bus.port_write(port, data),
        // A triple fault is how this kernel resets; a machine that is reset is done.
        VcpuExit::Shutdown | VcpuExit::SystemEvent(..) => Outcome::End(MachineEnd::Reset),
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => Outcome::Continue,
        VcpuExit::FailEntry(reason, cpu) => Outcome::End(MachineEnd::Failed(format!(
            "the processor refuses to enter the guest (KVM_EXIT_FAIL_ENTRY, reason {reason:#x}, CPU {cpu})"
        ))),
        _ => return None,
    })
}

/// An exit after which nothing goes on, with the reason and the place.
fn unexpected(vcpu: &mut VcpuFd) -> MachineEnd {
    /// `KVM_INTERNAL_ERROR_EMULATION`
    const EMULATION: u32 = 1;
    let place = vcpu.get_regs().map(|regs| format!(" at {:#x}", regs.rip)).unwrap_or_default();
    let reason = vcpu.get_kvm_run().exit_reason;
    if reason != KVM_EXIT_INTERNAL_ERROR {
        let why =
            format!("KVM left the guest{place} for a reason that is unknown here (exit reason {reason})");
        return MachineEnd::Failed(why);
    }
    let suberror = crate::kvm_run::internal_suberror(vcpu);
    let what = if suberror == EMULATION {
        "cannot emulate an instruction of the guest kernel"
    } else {
        "had an internal error"
    };
    MachineEnd::Failed(format!("KVM {what} (KVM_EXIT_INTERNAL_ERROR, suberror {suberror}{place})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpu_that_is_held_is_outside_until_it_is_released() {
        let orders = Arc::new(Orders::default());
        assert!(orders.go_on());
        assert!(!orders.outside.await_true(Duration::ZERO));
        orders.hold.store(true, Ordering::Release);
        let obeyed = Arc::clone(&orders);
        let vcpu = std::thread::spawn(move || obeyed.go_on());
        assert!(orders.outside.await_true(Duration::from_secs(60)));
        orders.outside.leave(|| orders.hold.store(false, Ordering::Release));
        vcpu.thread().unpark();
        assert!(vcpu.join().unwrap());
        assert!(!orders.outside.await_true(Duration::ZERO));
    }
}
