//! The file server's thread.

use vmrun_spec::Authority;

use super::server::FileServer;
use super::{FsError, NAME};
use crate::confine::ThreadClass;
use crate::failure::FailureSink;
use crate::virtio::queue::ActiveQueue;
use crate::virtio::session::SessionThread;

/// High-priority and request queue.
pub(super) type FileThread = SessionThread<[ActiveQueue; 2]>;

/// Starts it; `failures` hears why if it ends before its time.
pub(super) fn start(
    server: FileServer,
    authority: Authority,
    failures: FailureSink,
) -> Result<FileThread, FsError> {
    let class = ThreadClass::file_server(authority).within(server.root()?);
    let serve = move |queues: &mut _, stop: &_| {
        let served = server.serve(queues, stop);
        server.forget();
        served
    };
    Ok(SessionThread::start("vmm-fs", NAME, class, failures, serve)?)
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
        let server = FileServer::open(
            directory.path(),
            super::super::host::Manner::default(),
            Failures::default().sink(),
        )
        .unwrap();
        let mut thread = start(server, Authority::default(), failures.sink()).unwrap();
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
        let server = FileServer::open(
            directory.path(),
            super::super::host::Manner::default(),
            Failures::default().sink(),
        )
        .unwrap();
        let mut thread = start(server, Authority::default(), failures.sink()).unwrap();
        let [memory, unused] = [memory(), memory()];
        // Shorter than any header.
        let queues = [queue_with(&unused, &[]).queue, queue_with(&memory, &[(BUFFERS, 8, 0)]).queue];
        queues[1].kick().write(1).unwrap();
        let interrupt = interrupt(&failures);
        thread.serve(queues, interrupt).unwrap();
        // Nobody has asked for it.
        let _ = thread.await_end().unwrap();
        assert_eq!(failures.told(), ["virtio-fs: the guest sent a file system request without a header"]);
    }
}
