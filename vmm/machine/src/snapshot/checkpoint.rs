//! Where a guest stops so that its machine can be saved.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::SnapshotError;
use super::vcpu::{VcpuState, read_msrs};
use crate::error::KvmError;

/// A write of the guest's at which it stops, once.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    port: u16,
    place: Arc<Mutex<Place>>,
    event: Arc<EventFd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ahead,
    Reached,
    Passed,
}

impl Checkpoint {
    pub(crate) fn at(port: u16) -> Result<Self, KvmError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(KvmError::call("make the event of a checkpoint"))?;
        Ok(Self { port, place: Arc::new(Mutex::new(Place::Ahead)), event: Arc::new(event) })
    }

    /// Whether the guest stops by a write to `port`.
    pub(crate) fn is_at(&self, port: u16) -> bool {
        self.port == port && *self.place() == Place::Ahead
    }

    /// The guest is there: `hold` has the vCPU wait, unless nobody wants that any more.
    pub(crate) fn reach(&self, hold: impl FnOnce()) {
        let mut place = self.place();
        if *place == Place::Ahead {
            *place = Place::Reached;
            hold();
            // A counter that was never written to has room for one.
            let _ = self.event.write(1);
        }
    }

    /// From now on the guest does not stop there.
    pub(crate) fn pass(&self) {
        *self.place() = Place::Passed;
    }

    pub(crate) fn is_reached(&self) -> bool {
        *self.place() == Place::Reached
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Checkpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is owned by `self.event`, which the returned borrow keeps alive.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }
}

/// The owner's own handles of the vCPUs, and what those knew before the guest ran.
#[derive(Debug)]
pub(crate) struct Savers {
    vcpus: Vec<(VcpuFd, Vec<kvm_msr_entry>)>,
    /// Of the first one.
    cpuid: Vec<kvm_cpuid_entry2>,
    msrs: Vec<u32>,
}

impl Savers {
    /// Of vCPUs that have just been made.
    pub(crate) fn of(
        kvm: &Kvm,
        vm: &VmFd,
        vcpus: &[VcpuFd],
        cpuid: Vec<kvm_cpuid_entry2>,
    ) -> Result<Self, KvmError> {
        let list = kvm.get_msr_index_list();
        let list = list.map_err(KvmError::call("list its model-specific registers"))?;
        let msrs: Vec<u32> =
            list.as_slice().iter().copied().filter(|msr| !super::vcpu::is_not_kept(*msr)).collect();
        let savers = vcpus.iter().map(|vcpu| {
            let second = second_handle(vm, vcpu)?;
            let fresh = read_msrs(&second, &msrs)?;
            Ok((second, fresh))
        });
        Ok(Self { vcpus: savers.collect::<Result<_, KvmError>>()?, cpuid, msrs })
    }

    /// What the first vCPU says of itself, and the state of all, whose threads wait outside the guest.
    pub(crate) fn save(&mut self) -> Result<(Vec<kvm_cpuid_entry2>, Vec<VcpuState>), SnapshotError> {
        let Self { vcpus, cpuid, msrs } = self;
        let states = vcpus.iter_mut().map(|(vcpu, fresh)| VcpuState::save(vcpu, msrs, fresh));
        Ok((cpuid.clone(), states.collect::<Result<_, _>>()?))
    }
}

/// Another descriptor of the same vCPU.
fn second_handle(vm: &VmFd, vcpu: &VcpuFd) -> Result<VcpuFd, KvmError> {
    let act = "give a second handle of a vCPU";
    // SAFETY: borrows the descriptor for as long as `vcpu` lives.
    let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
    let second = fd.try_clone_to_owned().map_err(KvmError::call(act))?;
    // SAFETY: it is a vCPU's descriptor of this machine, and the new handle owns it.
    unsafe { vm.create_vcpu_from_rawfd(second.into_raw_fd()) }.map_err(KvmError::call(act))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_stops_once_and_not_where_nobody_wants_it() {
        let checkpoint = Checkpoint::at(0xea).unwrap();
        assert!(checkpoint.is_at(0xea) && !checkpoint.is_at(0xe8));
        let mut held = 0;
        checkpoint.clone().reach(|| held += 1);
        checkpoint.reach(|| held += 1);
        assert!(held == 1 && checkpoint.is_reached() && !checkpoint.is_at(0xea));
        assert_eq!(checkpoint.event.read().unwrap(), 1);
        let other = Checkpoint::at(0xea).unwrap();
        other.pass();
        other.reach(|| held += 1);
        assert!(held == 1 && !other.is_at(0xea) && !other.is_reached());
    }
}
