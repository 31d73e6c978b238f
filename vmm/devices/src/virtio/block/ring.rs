//! The queue of a disk while several threads work on its requests.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::NAME;
use super::request::{Limits, Request};
use crate::virtio::queue::{ActiveQueue, QueueError};

/// A request on another thread, until this is dropped: it is done then, or nobody can do it.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Ring>);

impl UnderWay {
    pub(super) fn ring(&self) -> &Ring {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.under_way = state.under_way.saturating_sub(1);
        self.0.fewer.notify_all();
    }
}

/// The queue, and how many of its requests are on other threads.
#[derive(Debug)]
pub(super) struct Ring {
    state: Mutex<State>,
    /// One of them less.
    fewer: Condvar,
    /// So many at most: a driver may hand out a descriptor again that is still in use.
    most: u16,
}

#[derive(Debug)]
struct State {
    /// Until it is given back.
    queue: Option<ActiveQueue>,
    under_way: u16,
}

impl Ring {
    pub(super) fn new(queue: ActiveQueue) -> Self {
        let most = queue.size();
        Self { state: Mutex::new(State { queue: Some(queue), under_way: 0 }), fewer: Condvar::new(), most }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the queue; nothing once it is given back.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut ActiveQueue) -> T) -> Option<T> {
        self.lock().queue.as_mut().map(act)
    }

    /// The next request.
    pub(super) fn next(&self, limits: Limits) -> Result<Option<Request>, QueueError> {
        let next = self.with(|queue| {
            let Some((memory, chain)) = queue.pop()? else { return Ok(None) };
            Request::read(memory, chain, limits).map(Some)
        });
        next.unwrap_or(Ok(None))
    }

    /// Returns a request to the driver with `written` bytes in it, and tells it if it wants to know.
    pub(super) fn finish(&self, head: u16, written: u32) -> Result<(), QueueError> {
        let finished = self.with(|queue| {
            queue.push_used(head, written)?;
            queue.notify()
        });
        finished.unwrap_or(Ok(()))
    }

    /// Whether no request is on another thread.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().under_way == 0
    }

    /// One more goes to another thread, once there is room for it.
    pub(super) fn depart(ring: &Arc<Self>) -> UnderWay {
        let state = ring.lock();
        let full = |state: &mut State| state.under_way >= ring.most;
        let mut state = ring.fewer.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        state.under_way += 1;
        drop(state);
        UnderWay(Arc::clone(ring))
    }

    /// Reports that the queue cannot be used any more.
    pub(super) fn fail(&self, error: &QueueError) {
        self.with(|queue| queue.fail(NAME, error));
    }

    /// Gives the queue back when all requests that were taken are done.
    pub(super) fn take(&self) -> Option<ActiveQueue> {
        let some = |state: &mut State| state.under_way > 0;
        let state = self.fewer.wait_while(self.lock(), some);
        state.unwrap_or_else(PoisonError::into_inner).queue.take()
    }
}
