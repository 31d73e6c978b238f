//! `fsync` and its like, which take as long as the host's disk does: threads of their own make these calls, so that nobody waits
//! but who asks.
//!
//! ```text
//!   file server ── job ─▶ queue ─▶ up to 4 threads, each in one call ─▶ done, and the event of the locks ─▶ reply
//! ```
//!
//! They are started when there is work, by the thread that starts those that wait for locks, and stay.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{fdatasync, fsync, syncfs};
use virtiofsd::descriptor_utils::Reader;
use virtiofsd::filesystem::Context;
use virtiofsd::fuse::{FsyncIn, InHeader, Opcode, SyncfsIn};
use vmm_sys_util::eventfd::EventFd;

use super::handle_file::with_file;
use super::host::Host;
use super::ids::{Handle, Node};

const MOST_THREADS: usize = 4;

/// So many may be under way. More are done by the file server itself, and everybody waits.
const MOST_JOBS: usize = 256;

/// `FUSE_FSYNC_FDATASYNC`
const DATA_ONLY: u32 = 1;

/// The agent's pid in the guest, which no program in a container can have: the agent has mounted the
/// file system, and pids are told as they are for whoever did.
const FIRST_PROCESS: libc::pid_t = 1;

/// What is to reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    File,
    Data,
    FileSystem,
}

/// A request for that.
#[derive(Debug)]
pub(super) struct SyncRequest {
    ctx: Context,
    node: Node,
    /// None for a whole file system.
    handle: Option<Handle>,
    what: What,
}

impl SyncRequest {
    /// The request, if it is one.
    pub(super) fn read(header: &InHeader, reader: &Reader<'_>) -> Option<Self> {
        let mut reader = reader.clone();
        reader.read_obj::<InHeader>().ok()?;
        let (handle, what) = match Opcode::try_from(header.opcode).ok()? {
            Opcode::Fsync | Opcode::Fsyncdir => {
                let FsyncIn { fh, fsync_flags, .. } = reader.read_obj().ok()?;
                (Some(fh), if fsync_flags & DATA_ONLY == 0 { What::File } else { What::Data })
            }
            Opcode::Syncfs => {
                reader.read_obj::<SyncfsIn>().ok()?;
                (None, What::FileSystem)
            }
            _ => return None,
        };
        Some(Self { ctx: Context::from(*header), node: header.nodeid, handle, what })
    }

    /// Whether it is the agent that asks, at the end, for what the guest has to reach the host: that has been written when this
    /// comes, and survives the guest in the host's page cache, as what programs on the host leave behind does. A program that
    /// asks gets its data onto the host's disk.
    pub(super) fn is_the_agents(&self) -> bool {
        self.what == What::FileSystem && self.ctx.pid == FIRST_PROCESS
    }

    /// What is to be done, by whichever thread.
    pub(super) fn job(&self, host: &Host) -> io::Result<Job> {
        let file = match self.handle {
            Some(handle) => with_file(host, self.ctx, self.node, handle, File::try_clone),
            None => host.in_directory(self.ctx, self.node, File::try_clone),
        }?;
        Ok(Job { file, what: self.what })
    }
}

/// A call that takes a while.
#[derive(Debug)]
pub(super) struct Job {
    file: File,
    what: What,
}

impl Job {
    pub(super) fn run(&self) -> io::Result<()> {
        let done = match self.what {
            What::File => fsync(&self.file),
            What::Data => fdatasync(&self.file),
            What::FileSystem => syncfs(&self.file),
        };
        Ok(done?)
    }
}

/// Jobs, and who does them.
#[derive(Debug)]
pub(super) struct Syncs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Written to for each job that is done.
    event: Arc<EventFd>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the last job.
    number: u64,
    queue: VecDeque<(u64, Job)>,
    done: VecDeque<(u64, io::Result<()>)>,
    /// Jobs that are neither in the queue nor done.
    running: usize,
    threads: usize,
    idle: usize,
    is_over: bool,
}

impl Syncs {
    /// `event` is written to when one is done.
    pub(super) fn new(event: Arc<EventFd>) -> Self {
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), event };
        Self { shared: Arc::new(shared) }
    }

    /// Has it done, and gives its number; or the job itself where there are too many. `start` has a thread call
    /// [`Shared::work`].
    pub(super) fn begin(&self, job: Job, start: impl FnOnce(Arc<Shared>)) -> Result<u64, Job> {
        let mut state = self.shared.state();
        if state.queue.len() + state.running + state.done.len() >= MOST_JOBS {
            return Err(job);
        }
        state.number = state.number.wrapping_add(1);
        let number = state.number;
        state.queue.push_back((number, job));
        if state.queue.len() > state.idle && state.threads < MOST_THREADS {
            state.threads += 1;
            drop(state);
            start(Arc::clone(&self.shared));
        } else {
            drop(state);
            self.shared.work.notify_one();
        }
        Ok(number)
    }

    /// One that is done, and what came of it.
    pub(super) fn take_done(&self) -> Option<(u64, io::Result<()>)> {
        self.shared.state().done.pop_front()
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does jobs until nobody wants any more.
    pub(super) fn work(&self) {
        let mut state = self.state();
        while !state.is_over {
            state = match state.queue.pop_front() {
                Some(next) => self.run(state, next),
                None => {
                    state.idle += 1;
                    let mut woken = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    woken.idle -= 1;
                    woken
                }
            };
        }
    }

    fn run<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        (number, job): (u64, Job),
    ) -> MutexGuard<'s, State> {
        state.running += 1;
        drop(state);
        let result = job.run();
        drop(job);
        let mut state = self.state();
        state.running -= 1;
        state.done.push_back((number, result));
        // A counter that is full says as much.
        let _ = self.event.write(1);
        state
    }

    /// There is no thread to be had. If there is none at all, whoever calls this does what is in the queue.
    pub(super) fn without_a_thread(&self) {
        let mut state = self.state();
        state.threads -= 1;
        while state.threads == 0
            && let Some(next) = state.queue.pop_front()
        {
            state = self.run(state, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn syncs() -> (Syncs, Arc<EventFd>) {
        let event = Arc::new(EventFd::new(0).unwrap());
        (Syncs::new(Arc::clone(&event)), event)
    }

    fn job(what: What) -> Job {
        Job { file: tempfile::tempfile().unwrap(), what }
    }

    #[test]
    fn each_job_is_done_once_and_its_number_comes_back() {
        let (syncs, event) = syncs();
        let mut threads = 0;
        let mut begun: Vec<_> = (0..20)
            .map(|number| {
                let what = [What::File, What::Data, What::FileSystem][number % 3];
                let start = |shared: Arc<Shared>| {
                    threads += 1;
                    thread::spawn(move || shared.work());
                };
                syncs.begin(job(what), start).unwrap()
            })
            .collect();
        while !begun.is_empty() {
            event.read().unwrap();
            while let Some((number, result)) = syncs.take_done() {
                result.unwrap();
                begun.swap_remove(begun.iter().position(|begun| *begun == number).unwrap());
            }
        }
        assert!((1..=MOST_THREADS).contains(&threads), "{threads}");
    }

    #[test]
    fn what_fails_says_so() {
        let (syncs, _event) = syncs();
        // A pipe has nothing to bring to a disk.
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        syncs.begin(Job { file: pipe.into(), what: What::File }, |shared| shared.without_a_thread()).unwrap();
        assert_eq!(syncs.take_done().unwrap().1.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn without_threads_jobs_are_done_and_too_many_are_given_back() {
        let (syncs, _event) = syncs();
        syncs.begin(job(What::File), |shared| shared.without_a_thread()).unwrap();
        assert!(syncs.take_done().unwrap().1.is_ok());
        // Threads that never come to it.
        for _ in 0..MOST_JOBS {
            syncs.begin(job(What::Data), |_| {}).unwrap();
        }
        assert_eq!(syncs.begin(job(What::Data), |_| {}).unwrap_err().what, What::Data);
    }
}
