//! From the kernel's `execve` of `/init` to a guest that takes requests.
//!
//! Every system call here is part of every start, so only what a container
//! needs in any case is done:
//!
//! 1. `/dev` (devtmpfs); the connection to the host is begun and not waited for,
//! 2. while the host accepts it: an own root mount, `/proc`, `/sys`, cgroup v2, loopback,
//! 3. the connection is there: the agent is ready.
//!
//! Where the host wants to save the machine, it is saved between 2 and 3, and 1 does not begin a connection.
//!
//! `/run` is a directory of the root itself. `/dev/pts`, `/dev/shm` and
//! `/dev/mqueue` belong to containers, which mount their own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, getsockopt, listen, socket, sockopt,
};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, mkdir};
use vmrun_proto::{AGENT_PORT, GuestMark, HOST_CID, READY_PORT};

use crate::container::Cgroup;
use crate::{generation, log, marks, sys};

/// Room for the stream connections of many processes that are made at once.
const LISTEN_BACKLOG: i32 = 128;

/// How the host reaches the agent.
#[derive(Debug)]
pub(crate) struct Links {
    /// Accepts the host's connections.
    pub(crate) listener: OwnedFd,
    /// The control connection that the agent has opened.
    pub(crate) control: OwnedFd,
}

/// Why the guest cannot boot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("cannot mount {what} at {at}: {cause}")]
    Mount { what: &'static str, at: &'static str, cause: Errno },
    #[error("cannot make the agent's own root mount ({step}): {cause}")]
    Root { step: &'static str, cause: Errno },
    #[error("cannot listen on vsock port {AGENT_PORT}: {0}")]
    Listen(Errno),
    #[error("cannot connect to the host's vsock port {READY_PORT}: {0}")]
    Connect(Errno),
}

/// Gives the process its standard streams: the kernel starts `/init` without
/// any when there is no console.
pub(crate) fn prepare_stdio() -> io::Result<()> {
    const PERMISSIONS: Mode = Mode::from_bits_truncate(0o666);
    if let Err(cause) = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()) {
        let device = nix::sys::stat::makedev(1, 3);
        let made = nix::sys::stat::mknod("/dev/null", nix::sys::stat::SFlag::S_IFCHR, PERMISSIONS, device);
        made.map_err(|_| io::Error::from(cause))?;
    }
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    for stream in 0..3 {
        if null.as_raw_fd() != stream {
            sys::duplicate_onto(null.as_fd(), stream)?;
        }
    }
    if null.as_raw_fd() < 3 {
        // It is one of the standard streams now: it stays.
        let _ = std::os::fd::IntoRawFd::into_raw_fd(null);
    }
    Ok(())
}

/// Mounts what containers need and connects to the host.
pub(crate) fn boot() -> Result<Links, BootError> {
    let listener = listen_for_host().map_err(BootError::Listen)?;
    // A machine that is saved has no connection: it begins behind the checkpoint.
    let control = if generation::is_to_stop() { None } else { Some(begin_connecting()) };
    make_own_root()?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at("devtmpfs", "/dev", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)?;
    mount_at("proc", "/proc", quiet)?;
    mount_at("sysfs", "/sys", quiet)?;
    mount_at("cgroup2", "/sys/fs/cgroup", quiet)?;
    if let Err(error) = Cgroup::at(Path::new("/")).turn_controllers_on() {
        log::warn(format_args!("cannot turn controllers of cgroups on: {error}"));
    }
    let_errors_through();
    write_back_soon();
    if let Err(error) = sys::loopback_up() {
        log::warn(format_args!("cannot bring the loopback interface up: {error}"));
    }
    if control.is_none()
        && let Err(error) = generation::stop()
    {
        log::warn(format_args!("cannot stop at the checkpoint: {error}"));
    }
    let control = control.unwrap_or_else(begin_connecting).map_err(BootError::Connect)?;
    finish_connecting(&control).map_err(BootError::Connect)?;
    marks::tell(GuestMark::AgentReady);
    Ok(Links { listener, control })
}

/// The boot's command line keeps all but the worst off the console (`guest-kernel/cmdline`);
/// from here on errors belong there. A user who asked for more keeps it.
fn let_errors_through() {
    const LEVELS: &str = "/proc/sys/kernel/printk";
    const ERRORS: u32 = 4;
    let levels = std::fs::read_to_string(LEVELS).unwrap_or_default();
    let current = levels.split_ascii_whitespace().next().and_then(|level| level.parse::<u32>().ok());
    if current.is_some_and(|level| level < ERRORS)
        && let Err(error) = std::fs::write(LEVELS, ERRORS.to_string())
    {
        log::warn(format_args!("cannot let the kernel's errors through to the console: {error}"));
    }
}

/// What programs write through mappings is on its way to the host a second later, not half a minute: a
/// sandbox that is killed has lost no more than that.
fn write_back_soon() {
    const HUNDREDTHS: &str = "100";
    for setting in ["dirty_expire_centisecs", "dirty_writeback_centisecs"] {
        let path = format!("/proc/sys/vm/{setting}");
        if let Err(error) = std::fs::write(&path, HUNDREDTHS) {
            log::warn(format_args!("cannot write {HUNDREDTHS} to {path}: {error}"));
        }
    }
}

fn listen_for_host() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, AGENT_PORT))?;
    listen(&listener, Backlog::new(LISTEN_BACKLOG)?)?;
    Ok(listener)
}

fn begin_connecting() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let control = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    match connect(control.as_raw_fd(), &VsockAddr::new(HOST_CID, READY_PORT)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(control),
        Err(error) => Err(error),
    }
}

fn finish_connecting(control: &OwnedFd) -> Result<(), Errno> {
    let mut waited_for = [PollFd::new(control.as_fd(), PollFlags::POLLOUT)];
    while let Err(error) = poll(&mut waited_for, PollTimeout::NONE) {
        if error != Errno::EINTR {
            return Err(error);
        }
    }
    match getsockopt(control, sockopt::SocketError)? {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)),
    }
}

/// `pivot_root` refuses to leave the initramfs, so containers need a root mount
/// that is not it: a bind mount of the same tree, moved over `/`.
fn make_own_root() -> Result<(), BootError> {
    let failed = |step| move |cause| BootError::Root { step, cause };
    const NEW_ROOT: &str = "/root";
    make_directory(NEW_ROOT);
    let nothing: Option<&str> = None;
    mount(Some("/"), NEW_ROOT, nothing, MsFlags::MS_BIND, nothing).map_err(failed("bind"))?;
    chdir(NEW_ROOT).map_err(failed("enter"))?;
    mount(Some("."), "/", nothing, MsFlags::MS_MOVE, nothing).map_err(failed("move"))?;
    chroot(".").map_err(failed("change root"))
}

fn mount_at(what: &'static str, at: &'static str, flags: MsFlags) -> Result<(), BootError> {
    let nothing: Option<&str> = None;
    match mount(Some(what), at, Some(what), flags, nothing) {
        Err(Errno::ENOENT) => {
            make_directory(at);
            mount(Some(what), at, Some(what), flags, nothing)
        }
        other => other,
    }
    .map_err(|cause| BootError::Mount { what, at, cause })
}

fn make_directory(path: &str) {
    // A failure shows itself in the mount that needs the directory.
    let _ = mkdir(Path::new(path), Mode::from_bits_truncate(0o755));
}
