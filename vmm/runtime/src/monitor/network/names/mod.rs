//! Name servers at loopback addresses of the namespace, like Docker's at 127.0.0.11: the guest's loopback
//! is its own, so what the container asks them is asked here, in the namespace.
//!
//! ```text
//!   resolv.conf, sockets ─▶ servers ─▶ agent, which stands for them in the guest
//!   agent ─Question─▶ desk ─flight─▶ name server
//!         ◀─Answer───┘     ◀────────┘
//! ```
//!
//! The guest reaches no more than port 53 of the addresses that the container's `resolv.conf` names.

mod desk;
mod flight;
mod refusal;
mod resolv_conf;
mod served;

use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use vmrun_machine::{Call, ThreadClass, confine_this_thread};
use vmrun_plan::VSOCK_SOCKET;
use vmrun_proto::{Hello, NAME_SERVER_PORT};

use crate::agent_client::{AgentError, Watch, open_connections};
use crate::log::{self, Log};
use desk::Desk;
pub(crate) use resolv_conf::ResolvConf;

const STACK_BYTES: usize = 256 << 10;

/// `AF_INET` and `AF_INET6`
const FAMILIES: &[u64] = &[2, 10];
/// `FIONBIO`
const NON_BLOCKING: &[u64] = &[0x5421];

/// Asking name servers for the guest, whose words are read here.
const ASKING: ThreadClass = ThreadClass::without_capabilities(&[
    Call::Any(libc::SYS_poll),
    Call::OneOf(libc::SYS_socket, 0, FAMILIES),
    Call::Any(libc::SYS_bind),
    Call::Any(libc::SYS_connect),
    Call::Any(libc::SYS_sendto),
    Call::Any(libc::SYS_recvfrom),
    Call::OneOf(libc::SYS_ioctl, 1, NON_BLOCKING),
]);

/// A thread that answers, in the namespace of the one that has started it. It ends with this value.
#[derive(Debug)]
pub(super) struct NameRelay {
    servers: Arc<Mutex<Vec<IpAddr>>>,
    /// Its end ends the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl NameRelay {
    /// The agent stands for the servers by now.
    pub(super) fn start(
        container: &str,
        servers: &[IpAddr],
        log: Log,
        watch: Watch<'_>,
    ) -> Result<Self, AgentError> {
        let failed =
            |source: io::Error| AgentError::Io { act: "answer the guest's questions for names", source };
        let hello = Hello::Names { container: container.to_owned() };
        let connections = open_connections(Path::new(VSOCK_SOCKET), &[hello], watch)?;
        let missing = || failed(io::ErrorKind::NotConnected.into());
        let connection = UnixStream::from(connections.into_iter().next().ok_or_else(missing)?);
        let servers = Arc::new(Mutex::new(servers.to_vec()));
        let (stop, stopped) = UnixStream::pair().map_err(failed)?;
        let desk = Desk::new(connection, stopped, Arc::clone(&servers), NAME_SERVER_PORT).map_err(failed)?;
        let thread = thread::Builder::new().name("names".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || {
            // Later it opens nothing. There is nobody left to tell when it is not writable.
            let is_open = crate::monitor::open_log(&log).is_ok();
            let worked = confine_this_thread(ASKING).map_err(|error| error.to_string());
            let worked = worked.and_then(|()| desk.work().map_err(|error| crate::error::chain(&error)));
            if let (true, Err(cause)) = (is_open, worked) {
                log::warn(&format!("the guest's questions for names are not answered any more: {cause}"));
            }
        });
        Ok(Self { servers, stop: Some(stop), thread: Some(thread.map_err(failed)?) })
    }

    /// Whether it has not ended, by an error or with the agent's connection.
    pub(super) fn is_there(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// From now on these may be asked, and no others.
    pub(super) fn set_servers(&self, servers: &[IpAddr]) {
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = servers.to_vec();
    }
}

impl Drop for NameRelay {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The runtime has reported its panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
