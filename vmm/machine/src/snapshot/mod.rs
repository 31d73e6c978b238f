//! A machine, saved where its guest has come to a checkpoint, and machines that go on from there.
//!
//! ```text
//!   Built::stop_at(port) ─▶ Running ── the guest writes to the port ─▶ all stands still
//!                                            save: MachineState + pages in a file ─▶ it goes on
//!   Built::restored(snapshot) ─▶ Running ── the guest goes on behind that write
//! ```
//!
//! The checkpoint is where nothing is under way: no connection, no open file, no request. What is
//! saved is plain data, and of what is restored nothing is believed: it is checked as the guest's own words are.
//!
//! The serial port has no state that counts: the kernel's early console only ever looks whether it may write.

mod checkpoint;
mod memory;
mod pagemap;
mod pre_fault;
mod vcpu;
mod working_set;

use std::fs::File;
use std::io;
use std::ops::Range;

use kvm_bindings::{kvm_clock_data, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};
use vmrun_devices::Memory;
use vmrun_devices::virtio::{StateError, TransportState};

use crate::error::KvmError;
use crate::io_apic::IoApicState;
use crate::mapped::MappedPages;

pub(crate) use checkpoint::{Checkpoint, Savers};
#[cfg(feature = "fuzzing")]
pub(crate) use memory::check;
use memory::place;
pub(crate) use memory::save;
pub use memory::{Extent, SavedPages};
pub(crate) use pre_fault::is_possible as can_map_ahead;
pub(crate) use vcpu::VcpuState;
use working_set::copy_ahead;
pub use working_set::{Ahead, PageRun};
pub(crate) use working_set::{join, map_ahead, record, room_for_mappings, set_apart};

/// A machine besides the content of its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// What the first vCPU said of itself.
    pub(crate) cpuid: Vec<kvm_cpuid_entry2>,
    pub(crate) vcpus: Vec<VcpuState>,
    pub(crate) clock: kvm_clock_data,
    pub(crate) io_apic: IoApicState,
    /// Of the devices that it booted with, in their order.
    pub(crate) devices: Vec<TransportState>,
    /// Which of its memory is where in the file.
    pub(crate) memory: Vec<Extent>,
}

impl MachineState {
    /// Of no machine, with so many bytes of memory: for tests of those who keep such states.
    #[doc(hidden)]
    pub fn nothing(bytes: u64) -> Self {
        let memory = vec![Extent { address: 0, offset: 0, bytes }];
        Self {
            cpuid: Vec::new(),
            vcpus: Vec::new(),
            clock: kvm_clock_data::default(),
            io_apic: IoApicState::default(),
            devices: Vec::new(),
            memory,
        }
    }

    /// How long the file with the pages has to be, bytes; none where the sum is no number.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.memory.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.bytes))
    }
}

/// All of a saved machine.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// What it is.
    pub state: &'a MachineState,
    /// Its pages.
    pub pages: &'a File,
    /// Those that it had from the kernel's file.
    pub kernel: &'a [MappedPages],
    /// Those that are copied or mapped before the guest runs.
    pub working_set: &'a [PageRun],
    /// Whether it is to be told which pages its start takes ([`crate::Running::working_set`]).
    pub is_recorded: bool,
}

impl Snapshot<'_> {
    /// Puts its pages into the memory of a new machine.
    pub(crate) fn place(&self, memory: &Memory) -> Result<(), SnapshotError> {
        for pages in self.kernel {
            pages.place(memory).map_err(|_| SnapshotError::Foreign("its kernel"))?;
        }
        place(memory, &self.state.memory, self.pages)?;
        copy_ahead(memory, self.working_set, &self.ranges());
        Ok(())
    }

    /// Where in the guest's memory they are, in guest physical addresses.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let range = |address: u64, bytes: u64| address..address.saturating_add(bytes);
        let kernel = self.kernel.iter().map(|pages| range(pages.address, pages.bytes.len() as u64));
        let saved = self.state.memory.iter().map(|extent| range(extent.address, extent.bytes));
        kernel.chain(saved).collect()
    }
}

/// A machine could not be saved, or a saved one is none.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It was not to stop, or has gone on.
    #[error("the machine is not at its checkpoint")]
    NotThere,
    /// A vCPU does not leave the guest.
    #[error("a vCPU does not stand still")]
    Moves,
    /// It is in the middle of an access.
    #[error("a vCPU has not finished what it does")]
    Unfinished,
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A device.
    #[error(transparent)]
    Device(#[from] StateError),
    /// The file with the pages.
    #[error("cannot {act} the guest's memory")]
    Memory {
        /// What was to be done.
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It does not fit this machine.
    #[error("it is another machine's: {0}")]
    Foreign(&'static str),
}
