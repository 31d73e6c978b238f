//! Threads that wait for the disk.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::NAME;
use super::backend::Backend;
use super::class::BLOCK;
use super::counters::BlockCounters;
use super::request::Request;
use super::ring::Ring;
use super::worker::{Durability, carry_out, finish};
use crate::failure::FailureSink;
use crate::memory::Memory;
use crate::thread::{ThreadError, Worker};

/// How many there are: a disk has so many reads under way, a flush among them.
const THREADS: usize = 4;

/// A request, and where it is from.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) ring: Arc<Ring>,
    pub(super) memory: Memory,
    pub(super) durability: Durability,
}

/// The threads; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Pool {
    /// Goes before the threads are joined: without it they end.
    jobs: Sender<Job>,
    _threads: Vec<Worker>,
}

impl Pool {
    /// Starts them; `failures` hears why if one ends before its time.
    pub(super) fn start(
        backend: &Arc<Backend>,
        counters: &Arc<BlockCounters>,
        failures: &FailureSink,
    ) -> Result<Self, ThreadError> {
        let (jobs, incoming) = channel();
        let incoming = Arc::new(Mutex::new(incoming));
        let start = |_| {
            let (backend, counters) = (Arc::clone(backend), Arc::clone(counters));
            let (incoming, failures) = (Arc::clone(&incoming), failures.clone());
            let work = move || {
                while let Some(job) = next(&incoming) {
                    job.run(&backend, &counters);
                }
            };
            Worker::start("vmm-block-io", BLOCK, work, move |failure| failures.report(NAME, &failure))
        };
        let threads = (0..THREADS).map(start).collect::<Result<_, _>>()?;
        Ok(Self { jobs, _threads: threads })
    }

    /// Has one of them do it.
    pub(super) fn give(&self, job: Job) {
        job.ring.depart();
        if let Err(refused) = self.jobs.send(job) {
            // All threads have ended, and their owner has been told.
            refused.0.ring.arrive(Ok(()));
        }
    }
}

/// The next one; nothing when there will be none.
fn next(incoming: &Mutex<Receiver<Job>>) -> Option<Job> {
    incoming.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Job {
    fn run(self, backend: &Backend, counters: &BlockCounters) {
        let Self { request, ring, memory, durability } = self;
        let result = carry_out(backend, &memory, &request, durability);
        let finished = finish(&ring, &memory, counters, &request, &result);
        ring.arrive(finished);
    }
}
