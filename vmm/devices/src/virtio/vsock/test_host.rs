//! The host's side of a device, and the packets of its guest, for tests.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use vm_memory::VolatileSlice;
use vmrun_spec::HostPort;

use super::HOST_CID;
use super::header::{Header, TYPE_STREAM};
use super::muxer::Muxer;

pub(super) const GUEST_CID: u32 = 3;
/// What the guest may connect to.
pub(super) const HOST_PORT: u32 = 1024;

pub(super) struct TestHost {
    directory: TempDir,
    /// Whom the guest reaches.
    pub(super) peer: UnixStream,
    host_port: Arc<Mutex<Option<HostPort>>>,
}

impl TestHost {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (stream, peer) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        let host_port = Arc::new(Mutex::new(Some(HostPort { port: HOST_PORT, stream })));
        Self { directory, peer, host_port }
    }

    /// The guest may connect once more; the end that it reaches.
    pub(super) fn offer(&self) -> UnixStream {
        let (stream, end) = UnixStream::pair().unwrap();
        for one in [&stream, &end] {
            one.set_nonblocking(true).unwrap();
        }
        *self.host_port.lock().unwrap() = Some(HostPort { port: HOST_PORT, stream });
        end
    }

    /// Where the device listens.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub(super) fn muxer(&self) -> Muxer {
        // There may have been another.
        let _ = std::fs::remove_file(self.socket());
        let listener = UnixListener::bind(self.socket()).unwrap();
        listener.set_nonblocking(true).unwrap();
        Muxer::new(GUEST_CID, Arc::new(listener), Arc::clone(&self.host_port))
    }
}

/// A packet from the guest's `port`.
pub(super) fn guest_sends(muxer: &mut Muxer, port: u32, op: u16, data: &[u8]) {
    let header = Header {
        src_cid: u64::from(GUEST_CID),
        dst_cid: HOST_CID,
        src_port: port,
        dst_port: HOST_PORT,
        type_: TYPE_STREAM,
        op,
        buf_alloc: 4096,
        ..Header::default()
    };
    muxer.guest_packet(&header, data);
}

/// The next packet for the guest, which has room for 64 bytes.
pub(super) fn next(muxer: &mut Muxer) -> Option<Header> {
    muxer.next_packet(&VolatileSlice::from([0; 64].as_mut_slice()))
}
