//! One activation of the device: requests from the queue, at once or by the pool.
//!
//! ```text
//!   kick ─▶ requests until the queue is empty │ the limit: wait for the alarm
//! ```

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::timerfd::TimerFd;
use vmm_sys_util::eventfd::EventFd;
use vmrun_spec::DiskSpec;

use super::backend::{Backend, Patience};
use super::counters::BlockCounters;
use super::execute::{Durability, carry_out, finish};
use super::pool::{Job, Pool};
use super::request::{Act, Request};
use super::ring::Ring;
use super::watch::{Source, Watch};
use crate::memory::Memory;
use crate::virtio::alarm::Alarm;
use crate::virtio::queue::{ActiveQueue, QueueError};
use crate::virtio::rate::Limit;

/// Requests in one turn; then whoever wants this thread to stop has one.
const TURN: usize = 64;

/// What may pass at once however low the rate is: most requests of Linux have no more.
const PIECE_BYTES: usize = 1 << 20;

/// Why the device cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("cannot wait for the guest: {0}")]
    Wait(#[from] io::Error),
}

/// What outlives an activation.
pub(super) struct Disk {
    pub(super) backend: Arc<Backend>,
    pub(super) counters: Arc<BlockCounters>,
    pub(super) pool: Pool,
}

/// What the driver has set up.
#[derive(Debug)]
pub(super) struct DiskQueue {
    pub(super) queue: ActiveQueue,
    /// It says itself when data are to be on the disk.
    pub(super) flushes: bool,
}

/// The disk's rate. It outlives an activation, so that a driver which begins anew has nothing of it.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: Limit,
    start: Instant,
}

impl Limiter {
    pub(super) fn new(spec: &DiskSpec) -> Self {
        Self { limit: Limit::new(spec.rate, PIECE_BYTES, Duration::ZERO), start: Instant::now() }
    }

    /// How long the next request has to wait, and since when. Without a limit nobody looks at the clock.
    fn wait(&mut self) -> Option<(Duration, Duration)> {
        let now = self.limit.applies().then(|| self.start.elapsed())?;
        self.limit.wait(now).map(|wait| (now, wait))
    }
}

/// Serves the queue until `stop` is readable, and leaves it where it was then.
pub(super) fn serve(
    disk: &Disk,
    timer: &TimerFd,
    limiter: &mut Limiter,
    session: &mut Option<DiskQueue>,
    stop: &EventFd,
) -> Result<(), WorkerError> {
    let Some(DiskQueue { queue, flushes }) = session.take() else { return Ok(()) };
    let durability = if flushes { Durability::Later } else { Durability::AtOnce };
    let memory = queue.memory().clone();
    let ring = Arc::new(Ring::new(queue));
    let mut worker =
        Worker { disk, ring: Arc::clone(&ring), memory, durability, limiter, alarm: Alarm::new(timer) };
    let served = worker.run(stop);
    *session = ring.take().map(|queue| DiskQueue { queue, flushes });
    served
}

/// What is waited for before the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    Driver,
    Alarm,
}

struct Worker<'s> {
    disk: &'s Disk,
    ring: Arc<Ring>,
    memory: Memory,
    durability: Durability,
    limiter: &'s mut Limiter,
    alarm: Alarm<'s>,
}

impl Worker<'_> {
    fn run(&mut self, stop: &EventFd) -> Result<(), WorkerError> {
        let watch = Watch::new()?;
        watch.add(Source::Stop, stop)?;
        watch.add(Source::Timer, &self.alarm.timer().as_fd())?;
        self.ring.with(|queue| watch.add(Source::Queue, queue.kick())).unwrap_or(Ok(()))?;
        let mut wait = Wait::Nothing;
        loop {
            // Before the first wait, too: who is told to stop at once has still taken what was there.
            if wait == Wait::Nothing {
                wait = self.turn()?;
            }
            for source in watch.wait(wait == Wait::Nothing)? {
                match (source, wait) {
                    (Source::Stop, _) => return Ok(()),
                    (Source::Queue, _) => {
                        self.ring.with(|queue| queue.clear_kick());
                        if wait == Wait::Driver {
                            wait = Wait::Nothing;
                        }
                    }
                    (Source::Timer, _) => {
                        self.alarm.clear()?;
                        if wait == Wait::Alarm {
                            wait = Wait::Nothing;
                        }
                    }
                }
            }
        }
    }

    fn turn(&mut self) -> Result<Wait, WorkerError> {
        self.ring.with(ActiveQueue::disarm).unwrap_or(Ok(()))?;
        for _ in 0..TURN {
            if let Some((now, wait)) = self.limiter.wait() {
                self.disk.counters.limited.count();
                self.alarm.set(now, wait)?;
                return Ok(Wait::Alarm);
            }
            let Some(request) = self.ring.next(self.disk.backend.limits)? else {
                // Whoever has filled the queue meanwhile does not kick.
                let more = self.ring.with(ActiveQueue::rearm).unwrap_or(Ok(false))?;
                return Ok(if more { Wait::Nothing } else { Wait::Driver });
            };
            self.limiter.limit.charge(usize::try_from(request.cost()).unwrap_or(usize::MAX));
            self.begin(request)?;
        }
        Ok(Wait::Nothing)
    }

    /// Does what waits for nobody; the rest is the pool's.
    fn begin(&self, request: Request) -> Result<(), QueueError> {
        let Disk { backend, counters, pool } = self.disk;
        let done = match request.act {
            Act::Read(at) => {
                let read = backend.read(&self.memory, &request.data, at, Patience::None);
                // Without patience it may be refused for that, or where not all of it is there.
                Some(read).filter(Result::is_ok)
            }
            // One that follows a flush may have to wait for it in the host's file system.
            Act::Write(at) if self.durability == Durability::Later && self.ring.is_idle() => {
                Some(backend.write(&self.memory, &request.data, at))
            }
            Act::Id | Act::Refuse(_) => Some(carry_out(backend, &self.memory, &request, self.durability)),
            Act::Write(_) | Act::Flush | Act::Discard(_) | Act::Zero { .. } => None,
        };
        if let Some(result) = done {
            return finish(&self.ring, &self.memory, counters, &request, &result);
        }
        counters.waited.count();
        let (under_way, memory) = (Ring::depart(&self.ring), self.memory.clone());
        pool.give(Job { request, under_way, memory, durability: self.durability });
        Ok(())
    }
}
