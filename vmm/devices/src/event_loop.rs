//! The event loop on which devices run that do little work at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_manager::{EventManager, MutEventSubscriber, RemoteEndpoint, SubscriberId, SubscriberOps};

use crate::confine::ThreadClass;
use crate::thread::{ThreadError, Worker};
use crate::virtio::Suspended;

/// What runs on the loop: one activation of a device.
pub type LoopSubscriber = Box<dyn LoopWorker>;

/// The worker of a device, which has the device's queues while it is on the loop.
pub trait LoopWorker: MutEventSubscriber + Send {
    /// Gives them back, and what else is to be known to go on with them.
    fn suspend(self: Box<Self>) -> Suspended;
}

/// The loop's thread; it ends when this is dropped.
#[derive(Debug)]
pub struct EventLoop {
    handle: LoopHandle,
    ended: Arc<AtomicBool>,
    worker: Option<Worker>,
}

/// Puts subscribers onto the loop, from any thread but the loop's own.
#[derive(Clone)]
pub struct LoopHandle {
    remote: RemoteEndpoint<LoopSubscriber>,
}

impl std::fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopHandle").finish_non_exhaustive()
    }
}

/// Why the loop could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The event manager failed.
    #[error("the device event loop failed: {0}")]
    Events(event_manager::Error),
    /// Its thread could not be started.
    #[error(transparent)]
    Thread(#[from] ThreadError),
}

impl From<event_manager::Error> for LoopError {
    fn from(error: event_manager::Error) -> Self {
        Self::Events(error)
    }
}

impl EventLoop {
    /// Starts the loop; `failed` is told why when it ends other than by being dropped.
    pub fn start(failed: impl Fn(String) + Send + Sync + 'static) -> Result<Self, LoopError> {
        let mut manager = EventManager::<LoopSubscriber>::new()?;
        let handle = LoopHandle { remote: manager.remote_endpoint() };
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        let failed = Arc::new(failed);
        let broken = Arc::clone(&failed);
        let worker = Worker::start(
            "vmm-events",
            ThreadClass::EVENT_LOOP,
            move || {
                while !stop.load(Ordering::Acquire) {
                    if let Err(error) = manager.run() {
                        failed(error.to_string());
                        return;
                    }
                }
            },
            move |failure| broken(failure.to_string()),
        )?;
        Ok(Self { handle, ended, worker: Some(worker) })
    }

    /// A handle that may be cloned into devices.
    pub fn handle(&self) -> LoopHandle {
        self.handle.clone()
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the loop, which then sees that it has ended. When the loop is
        // gone already there is nobody to wake.
        let _ = self.handle.remote.kick();
        drop(self.worker.take());
    }
}

impl LoopHandle {
    /// Adds a subscriber; its `init` has run when this returns.
    pub fn add(&self, subscriber: LoopSubscriber) -> Result<SubscriberId, LoopError> {
        self.remote
            .call_blocking(move |ops: &mut dyn SubscriberOps<Subscriber = LoopSubscriber>| {
                Ok::<_, event_manager::Error>(ops.add_subscriber(subscriber))
            })
            .map_err(LoopError::Events)
    }

    /// Removes a subscriber and gives back what is left of it.
    pub fn remove(&self, id: SubscriberId) -> Result<Suspended, LoopError> {
        self.remote
            .call_blocking(move |ops: &mut dyn SubscriberOps<Subscriber = LoopSubscriber>| {
                ops.remove_subscriber(id).map(LoopWorker::suspend)
            })
            .map_err(LoopError::Events)
    }
}
