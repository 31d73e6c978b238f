//! Unix sockets of the host that are mounted into the container.
//!
//! ```text
//!   agent ─SocketCall─▶ exchange ─connect─▶ the socket that was mounted
//!         ◀── vsock ─── pair ─────────────▶
//! ```
//!
//! The guest's kernel has no part in the host's sockets, so the agent listens in their places, and for each program that connects
//! this connects here. The guest reaches the sockets that the bundle mounts and no others: it names them by number, and each
//! is the mount that was made before the guest ran, whatever has become of its name since. The host's kernel decides whether it
//! may, and whom a service takes for its peer: the thread is the user of the configuration's process.

mod exchange;
mod source;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, chmod, open};
use rustix::io::Errno;
use rustix::process::{dumpable_behavior, set_dumpable_behavior};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use vmrun_machine::{Call, ThreadClass, confine_this_thread};
use vmrun_plan::VSOCK_SOCKET;
use vmrun_proto::Hello;
use vmrun_spec::SocketUser;

use crate::agent_client::{AgentError, Watch, open_connections};
use crate::log::{self, Log};
use crate::user_namespace::is_user_namespace;
use exchange::Exchange;

/// Since this one agents stand for the host's sockets.
pub(super) const SOCKETS_VERSION: u32 = 9;

const STACK_BYTES: usize = 256 << 10;

/// `AF_UNIX`
const FAMILIES: &[u64] = &[1];
/// `FIONBIO`
const NON_BLOCKING: &[u64] = &[0x5421];

/// Connecting to sockets for the guest, and carrying what is said.
const CONNECTING: ThreadClass = ThreadClass::without_capabilities(CALLS);

/// The same for root, whom modes keep from no socket.
const CONNECTING_AS_ROOT: ThreadClass = ThreadClass::passing_modes(CALLS);

const CALLS: &[Call] = &[
    Call::Any(libc::SYS_epoll_wait),
    Call::Any(libc::SYS_epoll_pwait),
    Call::Any(libc::SYS_epoll_ctl),
    Call::Any(libc::SYS_poll),
    Call::OneOf(libc::SYS_socket, 0, FAMILIES),
    Call::Any(libc::SYS_connect),
    Call::Any(libc::SYS_sendto),
    Call::Any(libc::SYS_recvfrom),
    Call::Any(libc::SYS_shutdown),
    Call::OneOf(libc::SYS_ioctl, 1, NON_BLOCKING),
];

/// A thread that connects. It ends with this value.
#[derive(Debug)]
pub(super) struct HostSockets {
    /// Its end ends the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    /// Ends when the thread does.
    over: Receiver<()>,
}

impl HostSockets {
    /// The agent stands for these by now.
    pub(super) fn start(
        container: &str,
        sockets: Vec<OwnedFd>,
        user: SocketUser,
        log: Log,
        watch: Watch<'_>,
    ) -> Result<Self, AgentError> {
        let failed =
            |source: io::Error| AgentError::Io { act: "connect the container to the host's sockets", source };
        let hello = Hello::Sockets { container: container.to_owned() };
        let connections = open_connections(Path::new(VSOCK_SOCKET), &[hello], watch)?;
        let missing = || failed(io::ErrorKind::NotConnected.into());
        let agent = UnixStream::from(connections.into_iter().next().ok_or_else(missing)?);
        let (stop, stopped) = UnixStream::pair().map_err(failed)?;
        let vsock = way_to_the_guest().map_err(|errno| failed(errno.into()))?;
        let exchange = Exchange::new(container, agent, stopped, vsock, sockets).map_err(failed)?;
        let (sender, over) = channel();
        let thread = thread::Builder::new().name("sockets".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || {
            work(exchange, &user, &log);
            drop(sender);
        });
        Ok(Self { stop: Some(stop), thread: Some(thread.map_err(failed)?), over })
    }

    /// Waits until all that the container's programs have said is out; not longer than `limit` for one on the host who does
    /// not read.
    pub(super) fn drain(&self, limit: Duration) {
        // Nothing is ever sent.
        let _ = self.over.recv_timeout(limit);
    }
}

fn work(exchange: Exchange, user: &SocketUser, log: &Log) {
    // Later it opens nothing. There is nobody left to tell when it is not writable.
    let is_open = super::open_log(log).is_ok();
    let class = if user.passes_modes { CONNECTING_AS_ROOT } else { CONNECTING };
    let became = become_user(user).map_err(|errno| format!("cannot be the user {}: {errno}", user.uid));
    let worked = became.and_then(|()| confine_this_thread(class).map_err(|error| error.to_string()));
    let worked = worked.and_then(|()| exchange.work().map_err(|error| crate::error::chain(&error)));
    if let (true, Err(cause)) = (is_open, worked) {
        log::warn(&format!("the container is not connected to the host's sockets any more: {cause}"));
    }
}

/// The machine's socket, to whoever the thread will be. Nobody else comes to it: it lies in a directory of the monitor's alone.
fn way_to_the_guest() -> Result<OwnedFd, Errno> {
    chmod(VSOCK_SOCKET, Mode::from_raw_mode(0o666))?;
    open(VSOCK_SOCKET, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Makes this thread, and no other, the user. Who may be nobody else stays who he is: nobody but the caller.
fn become_user(user: &SocketUser) -> Result<(), Errno> {
    let groups: Vec<_> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // The kernel takes a process that becomes somebody else out of others' reach, who look at this one in /proc.
    let behavior = dumpable_behavior()?;
    let became = set_thread_groups(&groups)
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, uid));
    set_dumpable_behavior(behavior)?;
    match became {
        Err(Errno::PERM | Errno::INVAL) if is_user_namespace() => Ok(()),
        became => became,
    }
}

impl Drop for HostSockets {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The runtime has reported its panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
