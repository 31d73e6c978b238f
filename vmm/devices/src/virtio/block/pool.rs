//! Threads that wait for the disk.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::NAME;
use super::backend::Backend;
use super::class::BLOCK;
use super::counters::BlockCounters;
use super::execute::{Durability, carry_out, finish};
use super::request::Request;
use super::ring::UnderWay;
use crate::failure::FailureSink;
use crate::memory::Memory;
use crate::thread::{ThreadError, Worker};

/// How many there are: a disk has so many reads under way, a flush among them.
const THREADS: usize = 4;

/// A request, and where it is from.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) under_way: UnderWay,
    pub(super) memory: Memory,
    pub(super) durability: Durability,
}

/// The threads; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Pool {
    /// Goes before the threads are joined: without it they end.
    jobs: Sender<Job>,
    threads: Vec<Worker>,
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
        let start = || {
            let (backend, counters) = (Arc::clone(backend), Arc::clone(counters));
            let (incoming, failures) = (Arc::clone(&incoming), failures.clone());
            let work = move || {
                while let Some(job) = next(&incoming) {
                    job.run(&backend, &counters);
                }
            };
            Worker::start("vmm-block-io", BLOCK, work, move |failure| failures.report(NAME, &failure))
        };
        Self::of_threads(jobs, start)
    }

    /// Starts them with `start`. Where that fails those that there are end like any pool's.
    pub(super) fn of_threads<E>(jobs: Sender<Job>, start: impl Fn() -> Result<Worker, E>) -> Result<Self, E> {
        let mut pool = Self { jobs, threads: Vec::new() };
        for _ in 0..THREADS {
            pool.threads.push(start()?);
        }
        Ok(pool)
    }

    /// Has one of them do it.
    pub(super) fn give(&self, job: Job) {
        // Where all threads have ended their owner has been told, and the job is not under way any more.
        let _ = self.jobs.send(job);
    }
}

/// The next one; nothing when there will be none.
pub(super) fn next(incoming: &Mutex<Receiver<Job>>) -> Option<Job> {
    incoming.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Job {
    fn run(self, backend: &Backend, counters: &BlockCounters) {
        let Self { request, under_way, memory, durability } = self;
        let result = carry_out(backend, &memory, &request, durability);
        if let Err(error) = finish(under_way.ring(), &memory, counters, &request, &result) {
            under_way.ring().fail(&error);
        }
    }
}
