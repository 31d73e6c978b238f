//! The file server's thread.
//!
//! ```text
//!   device made ─▶ thread waits ─▶ serves one activation ─▶ waits …  ─▶ device dropped
//!                                        reset ends it
//! ```
//!
//! It is there before the guest runs, since the driver's activation comes on a vCPU's thread:
//! that one may not start threads, and has no capability to pass on.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::server::FileServer;
use super::{FsError, NAME};
use crate::confine::ThreadClass;
use crate::failure::FailureSink;
use crate::thread::{ThreadFailure, Worker};
use crate::virtio::device::ActivateError;
use crate::virtio::notify::Interrupt;
use crate::virtio::queue::ActiveQueue;

/// What the thread gets when the driver is ready.
struct Session {
    queues: [ActiveQueue; 2],
    interrupt: Interrupt,
    /// Takes the queues when the session is over.
    over: Sender<[ActiveQueue; 2]>,
}

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct FileThread {
    /// Of the session under way: gives its queues back when that is over.
    over: Option<Receiver<[ActiveQueue; 2]>>,
    /// Readable while the session under way shall end.
    stop: Arc<EventFd>,
    /// Goes before the thread is joined: without it the thread ends.
    sessions: Sender<Session>,
    _worker: Worker,
}

impl FileThread {
    /// Starts it; `failures` hears why if it ends before its time.
    pub(super) fn start(server: FileServer, failures: FailureSink) -> Result<Self, FsError> {
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK).map_err(FsError::Event)?);
        let stopped = Arc::clone(&stop);
        let (sessions, incoming) = channel();
        let work = move || serve_all(&server, incoming, &stopped);
        let failed = move |failure| failures.report(NAME, &failure);
        let worker = Worker::start("vmm-fs", ThreadClass::FILE_SERVER, work, failed)?;
        Ok(Self { over: None, stop, sessions, _worker: worker })
    }

    /// Serves these queues until [`Self::stop`].
    pub(super) fn serve(
        &mut self,
        queues: [ActiveQueue; 2],
        interrupt: Interrupt,
    ) -> Result<(), ActivateError> {
        let (open, over) = channel();
        let gone = |_| io::Error::other("the file server's thread has ended");
        self.sessions.send(Session { queues, interrupt, over: open }).map_err(gone)?;
        self.over = Some(over);
        Ok(())
    }

    /// Ends the session under way, if there is one, waits for that, and gives its queues back.
    pub(super) fn stop(&mut self) -> Option<[ActiveQueue; 2]> {
        let over = self.over.take()?;
        // The counter, which is zero between sessions, has room for one.
        let _ = self.stop.write(1);
        // Fails when the thread has panicked, and its owner has been told.
        let queues = over.recv().ok();
        let _ = self.stop.read();
        queues
    }
}

impl Drop for FileThread {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

fn serve_all(server: &FileServer, sessions: Receiver<Session>, stop: &EventFd) {
    for Session { mut queues, interrupt, over } in sessions {
        match catch_unwind(AssertUnwindSafe(|| server.serve(&mut queues, stop))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => interrupt.fail(NAME, &error),
            Err(panic) => interrupt.fail(NAME, &ThreadFailure::panicked(&*panic)),
        }
        server.forget();
        // Whoever has started the session may be gone.
        let _ = over.send(queues);
    }
}

#[cfg(test)]
mod tests {
    use std::thread::yield_now;

    use vm_memory::{Bytes, GuestAddress};

    use super::super::init_request;
    use super::*;
    use crate::virtio::test_queue::{BUFFERS, Failures, WRITE, interrupt, memory, queue_with};

    #[test]
    fn each_activation_is_served_until_its_reset() {
        let directory = tempfile::tempdir().unwrap();
        let failures = Failures::default();
        let server = FileServer::open(directory.path(), Failures::default().sink()).unwrap();
        let mut thread = FileThread::start(server, failures.sink()).unwrap();
        for _ in 0..3 {
            let [memory, unused] = [memory(), memory()];
            let request = init_request();
            memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
            let length = u32::try_from(request.len()).unwrap();
            let chain = [(BUFFERS, length, 0), (BUFFERS + 0x1000, 0x1000, WRITE)];
            let queues = [queue_with(&unused, &[]).queue, queue_with(&memory, &chain).queue];
            queues[1].kick().write(1).unwrap();
            let interrupt = interrupt(&failures);
            thread.serve(queues, interrupt).unwrap();
            while memory.read_obj::<u32>(GuestAddress(BUFFERS + 0x1010)).unwrap() != 7 {
                assert!(failures.told().is_empty(), "{:?}", failures.told());
                yield_now();
            }
            let [_, mut queue] = thread.stop().unwrap();
            assert!(queue.pop().unwrap().is_none());
        }
        assert!(failures.told().is_empty());
    }

    #[test]
    fn guest_that_breaks_a_queue_ends_the_session_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let failures = Failures::default();
        let server = FileServer::open(directory.path(), Failures::default().sink()).unwrap();
        let mut thread = FileThread::start(server, failures.sink()).unwrap();
        let [memory, unused] = [memory(), memory()];
        // Shorter than any header.
        let queues = [queue_with(&unused, &[]).queue, queue_with(&memory, &[(BUFFERS, 8, 0)]).queue];
        queues[1].kick().write(1).unwrap();
        let interrupt = interrupt(&failures);
        thread.serve(queues, interrupt).unwrap();
        // Returns when the session is over, which nobody has asked for.
        let _ = thread.over.take().unwrap().recv().unwrap();
        assert_eq!(failures.told(), ["virtio-fs: the guest sent a file system request without a header"]);
    }
}
