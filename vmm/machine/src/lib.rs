//! The KVM machine: memory, boot, vCPUs, exits.
//!
//! ```text
//!  MachineSpec --Built::new--> Built --start--> Running --stop--> gone
//!                                      hold, release
//!                 memory        vCPU threads     ended_fd, end,
//!                 devices       run              console_tail
//!         restored                               save, plug, unplug
//! ```
//!
//! A machine knows nothing of containers. It boots a kernel with a boot image
//! and serves devices; when it ends by itself, it says how.

mod board;
mod boot;
mod built;
mod check;
mod devices;
mod end;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod io_apic;
mod io_bus;
mod kvm;
mod kvm_run;
mod layout;
mod mapped;
mod memory;
mod owner;
mod running;
mod snapshot;
mod stamps;
mod vcpu;
mod virtual_machine;

pub use built::{BootImages, Built};
pub use check::{CheckReport, Verdict, check};
pub use devices::DeviceCounters;
pub use end::MachineEnd;
pub use error::{BootError, DeviceError, KvmError, MachineError, MemoryError, PlugError, SpecError};
pub use mapped::MappedPages;
pub use owner::{OWNER, RECORDER, SAVER};
pub use running::{Console, Running};
pub use snapshot::{Ahead, Extent, MachineState, PageRun, SavedPages, Snapshot, SnapshotError};
pub use stamps::Stamp;
/// For the threads beside the machine's, and its process.
pub use vmrun_devices::heap::one_for_all_threads as one_heap_for_all_threads;
pub use vmrun_devices::{
    Call, ConfineError, ThreadClass, ThreadFailure, confine_process, confine_this_thread,
};
