//! virtio-fs: a directory of the host as a file system of the guest (virtio 1.2, §5.11).
//!
//! The queues carry FUSE requests. They are served by virtiofsd's file system,
//! linked as a library, on one [thread] of this process: in-process because memory
//! of a snapshot that is restored copy-on-write cannot be shared with a server
//! in another process.

mod as_user;
mod closing;
mod descriptors;
mod events;
mod handle_file;
mod host;
mod ids;
mod listing;
mod lock_message;
mod locks;
mod nameless;
mod page_cache;
mod pass_through;
mod patience;
mod request;
mod requests;
mod server;
mod statx;
mod syncs;
mod thread;
mod tmpfile;
mod tree;
mod uncached;
mod write;

use std::ffi::CString;
use std::path::PathBuf;

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use vmrun_spec::ShareSpec;

use crate::failure::FailureSink;
use crate::virtio::config_space::ConfigSpace;
use crate::virtio::counters::Counters;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::queue::ActiveQueue;
use crate::virtio::session::SessionError;
use crate::virtio::state::{DeviceState, StateError, Suspended};
use host::Manner;
pub use locks::LocksError;
use server::FileServer;
use thread::FileThread;

/// What failures call it.
const NAME: &str = "virtio-fs";

/// High-priority (forget, interrupt) and request queue. The driver keeps
/// up to half a queue of requests under way.
const QUEUE_SIZES: [u16; 2] = [64, 512];

/// `struct virtio_fs_config`: the tag, then the number of request queues.
const TAG_BYTES: usize = 36;
const CONFIG_BYTES: usize = TAG_BYTES + 4;

/// Why the device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The tag does not fit its field.
    #[error("the virtio-fs tag {0:?} is not 1 to {TAG_BYTES} bytes long")]
    Tag(String),
    /// The server did not take the directory.
    #[error("cannot share the directory {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody could wait for locks.
    #[error(transparent)]
    Locks(#[from] LocksError),
    /// Its thread could not be started.
    #[error(transparent)]
    Thread(#[from] SessionError),
}

/// The device.
pub struct Fs {
    config: ConfigSpace,
    counters: Counters,
    thread: FileThread,
}

impl std::fmt::Debug for Fs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fs").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Fs {
    /// A device that shares `spec.directory`; `failures` hears why when its thread ends.
    pub fn new(spec: &ShareSpec, failures: FailureSink) -> Result<Self, FsError> {
        let mut config = [0; CONFIG_BYTES];
        let tag = spec.tag.as_bytes();
        if tag.is_empty() || tag.len() > TAG_BYTES {
            return Err(FsError::Tag(spec.tag.clone()));
        }
        config[..tag.len()].copy_from_slice(tag);
        config[TAG_BYTES..].copy_from_slice(&1u32.to_le_bytes());
        let uncached = spec.uncached.as_deref().map(|name| CString::new(name.as_bytes())).transpose();
        let uncached = uncached
            .map_err(|source| FsError::Open { path: spec.directory.clone(), source: source.into() })?;
        let manner = Manner { uncached, quiet_closes: spec.quiet_closes };
        let server = FileServer::open(&spec.directory, manner, failures.clone())?;
        Ok(Self {
            config: ConfigSpace::new(config),
            counters: server.counters(),
            thread: thread::start(server, spec.authority, failures)?,
        })
    }
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn counters(&self) -> Counters {
        self.counters.clone()
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let queues: [_; 2] = activation.take_queues()?;
        self.thread.serve(queues, activation.interrupt)
    }

    fn suspend(&mut self) -> Option<Suspended> {
        let queues = self.thread.stop()?;
        // The files that the guest knows are open here: it knows none that has never asked.
        let state = if queues.iter().all(ActiveQueue::is_untouched) {
            Ok(DeviceState::nothing(VIRTIO_ID_FS))
        } else {
            Err(StateError::InUse(NAME))
        };
        Some(Suspended { queues: queues.into(), state })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        state.is_nothing(NAME, VIRTIO_ID_FS)
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) use server::fuzz;

/// `FUSE_INIT` of FUSE 7.31: header, then major, minor, read-ahead, flags.
#[cfg(any(test, feature = "fuzzing"))]
fn init_request() -> Vec<u8> {
    [56u32, 26, 1, 0, 0, 0, 0, 0, 0, 0, 7, 31, 4096, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}
