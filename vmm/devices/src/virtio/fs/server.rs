//! The FUSE server behind the queues.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::DescriptorChain;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::server::Server;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::Memory;
use crate::virtio::queue::{ActiveQueue, QueueError};

/// How long the guest may trust names and attributes that it has seen. Others on
/// the host may change the tree, so this bounds how stale the guest's view gets.
const CACHE_TIMEOUT: Duration = Duration::from_secs(1);

/// Token of the event that ends the server; the queues' tokens are their numbers.
const STOP: u64 = u64::MAX;

/// Serves one directory.
#[derive(Clone)]
pub(super) struct FileServer {
    server: Arc<Server<PassthroughFs>>,
}

impl FileServer {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let root_dir = directory
            .to_str()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "its name is not UTF-8"))?
            .to_owned();
        let config = Config {
            root_dir,
            entry_timeout: CACHE_TIMEOUT,
            attr_timeout: CACHE_TIMEOUT,
            cache_policy: CachePolicy::Auto,
            xattr: true,
            // Each bind mount in the tree gets a device number of its own in the
            // guest, so that (st_dev, st_ino) names a file there as it does here.
            announce_submounts: true,
            readdirplus: true,
            // A write clears set-user-id bits, as it does on a local file system.
            killpriv_v2: true,
            allow_direct_io: true,
            allow_mmap: true,
            ..Config::default()
        };
        let fs = PassthroughFs::new(config)?;
        fs.open_root_node()?;
        Ok(Self { server: Arc::new(Server::new(fs)) })
    }

    /// The guest's file system is gone; so are its open files.
    pub(super) fn forget(&self) {
        self.server.destroy();
    }

    /// Serves the queues until `stop` is readable.
    pub(super) fn serve(&self, mut queues: [ActiveQueue; 2], stop: &EventFd) {
        if let Err(error) = own_credentials().and_then(|()| self.serve_until(&mut queues, stop)) {
            log::error!("virtio-fs: the server ends: {error}");
            queues[0].signal_needs_reset();
        }
    }

    fn serve_until(&self, queues: &mut [ActiveQueue; 2], stop: &EventFd) -> io::Result<()> {
        let epoll = Epoll::new()?;
        let watch = |event: &EventFd, token| {
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), EpollEvent::new(EventSet::IN, token))
        };
        watch(stop, STOP)?;
        watch(queues[0].kick(), 0)?;
        watch(queues[1].kick(), 1)?;
        let mut ready = [EpollEvent::default(); 3];
        loop {
            let count = match epoll.wait(-1, &mut ready) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                result => result?,
            };
            for event in &ready[..count] {
                if event.data() == STOP {
                    return Ok(());
                }
                let Some(queue) = usize::try_from(event.data()).ok().and_then(|index| queues.get_mut(index))
                else {
                    continue;
                };
                queue.clear_kick();
                self.drain(queue).map_err(io::Error::other)?;
            }
        }
    }

    fn drain(&self, queue: &mut ActiveQueue) -> Result<(), QueueError> {
        queue.drain(|memory, chain| self.handle(memory, chain))
    }

    /// Handles one request and returns the length of the reply. A chain that is
    /// no request gets no reply, which fails the guest's call with an I/O error.
    fn handle(&self, memory: &Memory, chain: DescriptorChain<&Memory>) -> u32 {
        let reply = Reader::<BitmapMmapRegion>::new(memory, chain.clone())
            .and_then(|reader| Ok((reader, Writer::<BitmapMmapRegion>::new(memory, chain)?)));
        let written = match reply {
            Ok((reader, writer)) => self.server.handle_message(reader, writer, NO_BACKEND),
            Err(error) => {
                log::debug!("virtio-fs: dropped a malformed request: {error:?}");
                return 0;
            }
        };
        written.ok().and_then(|length| u32::try_from(length).ok()).unwrap_or_else(|| {
            log::debug!("virtio-fs: dropped a request that could not be answered");
            0
        })
    }
}

/// No DAX window: nothing is ever mapped into the guest on request.
const NO_BACKEND: Option<&mut ()> = None;

/// The file system switches user, working directory and umask a request, which
/// must not leak into other threads of the process.
fn own_credentials() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    umask(Mode::empty());
    Ok(())
}
