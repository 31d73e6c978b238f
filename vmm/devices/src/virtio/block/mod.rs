//! virtio-blk: a disk on a file or a block device of the host's (virtio 1.2, §5.2).
//!
//! ```text
//!   guest driver      worker.rs                              host
//!    queue ─▶ request.rs: checked once ─▶ what is at once ─▶ preadv2, pwritev2 on guest memory
//!                                     └─▶ pool.rs: what waits for the disk ─▶ reads, fdatasync, holes
//!    used ◀── ring.rs ◀── execute.rs: whoever is done, in any order
//! ```
//!
//! Data goes between the file and the guest's memory in one copy, the kernel's ([`backend`]), so nobody here looks at
//! it. What is in the host's page cache is read, and what has room there is written, by the thread that takes requests:
//! to hand it on would cost more. The rest waits on threads of its own, so that a flush holds nobody up.
//!
//! What the file does not do is told to the driver as the status of its request, which is an error of that program's.

mod backend;
mod class;
mod config;
mod counters;
mod execute;
mod pool;
mod request;
mod ring;
mod watch;
mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use class::CALLS;
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vmrun_spec::DiskSpec;

use crate::failure::FailureSink;
use crate::thread::ThreadError;
use crate::virtio::config_space::ConfigSpace;
use crate::virtio::counters::Counters;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::session::{SessionError, SessionThread};
use crate::virtio::state::{DeviceState, StateError, Suspended};
use backend::Backend;
use class::BLOCK;
use counters::BlockCounters;
use pool::Pool;
use worker::{Disk, DiskQueue, Limiter};

/// What failures call it.
const NAME: &str = "virtio-blk";

/// One queue: a vCPU that waits for its turn at the ring would wait for the file's.
const QUEUE_SIZES: [u16; 1] = [256];

/// What sectors are counted in, whatever a disk's blocks are (§5.2.4).
const SECTOR_BYTES: u64 = 512;

/// Why the device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Its specification is not that of a disk.
    #[error("a disk of {0} bytes has no sector of {SECTOR_BYTES} bytes")]
    Small(u64),
    /// There was no descriptor for it.
    #[error("cannot make the timer of rate limits: {0}")]
    Timer(#[source] io::Error),
    /// The thread that takes requests.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Those that wait for the host.
    #[error(transparent)]
    Pool(#[from] ThreadError),
}

/// The device.
#[derive(Debug)]
pub struct Block {
    features: u64,
    config: ConfigSpace,
    counters: Arc<BlockCounters>,
    thread: SessionThread<Option<DiskQueue>>,
}

impl Block {
    /// A disk on `file`; `failures` hears why if one of its threads ends.
    pub fn new(spec: &DiskSpec, file: OwnedFd, failures: FailureSink) -> Result<Self, BlockError> {
        if spec.bytes < SECTOR_BYTES {
            return Err(BlockError::Small(spec.bytes));
        }
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(|errno| BlockError::Timer(errno.into()))?;
        let counters = Arc::new(BlockCounters::default());
        let backend = Arc::new(Backend::new(spec, file));
        let pool = Pool::start(&backend, &counters, &failures)?;
        let disk = Disk { backend, counters: Arc::clone(&counters), pool };
        let mut limiter = Limiter::new(spec);
        let serve = move |queue: &mut _, stop: &_| worker::serve(&disk, &timer, &mut limiter, queue, stop);
        let thread = SessionThread::start("vmm-block", NAME, BLOCK, failures, serve)?;
        Ok(Self {
            features: config::features(spec),
            config: ConfigSpace::new(config::space(spec)),
            counters,
            thread,
        })
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let [queue] = activation.take_queues()?;
        let flushes = activation.features & 1 << VIRTIO_BLK_F_FLUSH != 0;
        self.thread.serve(Some(DiskQueue { queue, flushes }), activation.interrupt)
    }

    fn suspend(&mut self) -> Option<Suspended> {
        let DiskQueue { queue, .. } = self.thread.stop()??;
        Some(Suspended { queues: vec![queue], state: Ok(DeviceState::nothing(VIRTIO_ID_BLOCK)) })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        state.is_nothing(NAME, VIRTIO_ID_BLOCK)
    }

    fn counters(&self) -> Counters {
        self.counters.named()
    }
}

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
mod tests;
#[cfg(feature = "fuzzing")]
pub(crate) use tests::run as fuzz;
