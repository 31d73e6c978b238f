//! The container's network: that of a namespace on the host, made again in the guest.
//!
//! ```text
//!   description ─▶ difference ─▶ steps ─▶ messages ─▶ netlink, in the container's namespace
//!        slot ─▶ driver bound, in the container's namespace ─▶ interface there, renamed ─┘
//! ```

mod advertised;
mod apply;
mod difference;
mod messages;
mod netfilter;
mod settings;
mod wait;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Spec};
use vmrun_proto::Network;

use crate::{log, sys};
use apply::{Hand, Waiting};

/// This thread's own.
const OURS: &str = "/proc/self/ns/net";

/// Makes the container's network namespace with all that is to be in it, for `spec` to join: it must
/// be there before settings of its interfaces are applied. `holder` is a process that holds it, where
/// it belongs to another user namespace.
///
/// This process is in it afterwards. `spec` names the file that is returned, by its number in this
/// process and its children: who is in the new user namespace already may not look at `holder`.
///
/// # Errors
/// What could not be done.
pub(crate) fn make(spec: &mut Spec, network: &Network, holder: Option<i32>) -> Result<File, String> {
    let failed = |error: io::Error| format!("cannot make the container's network namespace: {error}");
    let namespace = match holder {
        Some(pid) => {
            let namespace = File::open(format!("/proc/{pid}/ns/net")).map_err(failed)?;
            setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
            namespace
        }
        None => {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
            File::open(OURS).map_err(failed)?
        }
    };
    join(spec, &format!("/proc/self/fd/{}", namespace.as_raw_fd())).map_err(failed)?;
    sys::loopback_up().map_err(|error| format!("cannot switch lo on: {error}"))?;
    let mut hand = Hand::reach(Waiting::Start).map_err(failed)?;
    hand.go(&Network::default(), network).1?;
    Ok(namespace)
}

/// Changes the network of the container whose init has this pid. What there is then is in the
/// answer, in any case.
pub(crate) fn change(
    init: i32,
    old: Option<&Network>,
    new: &Network,
) -> (Option<Network>, Result<(), String>) {
    let failed = |error: io::Error| format!("cannot enter the container's network namespace: {error}");
    let changed = within(init, |_| {
        let mut hand = Hand::reach(Waiting::Everybody)?;
        let (reached, result) = hand.go(old.unwrap_or(&Network::default()), new);
        Ok((Some(reached), result))
    });
    changed.and_then(|changed| changed).unwrap_or_else(|error| (None, Err(failed(error))))
}

/// Does something in the network namespace of the process `init`.
pub(crate) fn within<T>(init: i32, act: impl FnOnce(BorrowedFd<'_>) -> T) -> io::Result<T> {
    let ours = File::open(OURS)?;
    let theirs = File::open(format!("/proc/{init}/ns/net"))?;
    setns(&theirs, CloneFlags::CLONE_NEWNET)?;
    let result = act(theirs.as_fd());
    if let Err(errno) = setns(ours, CloneFlags::CLONE_NEWNET) {
        // Whatever the agent does from here on would be done in the container's network.
        log::warn(format_args!("cannot leave the container's network namespace: {errno}"));
        sys::exit_now(1);
    }
    Ok(result)
}

/// Has the container join the namespace in place of making one.
fn join(spec: &mut Spec, path: &str) -> io::Result<()> {
    let Some(mut linux) = spec.linux().clone() else { return Ok(()) };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    let joined = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).path(path).build();
    namespaces.push(joined.map_err(io::Error::other)?);
    linux.set_namespaces(Some(namespaces));
    spec.set_linux(Some(linux));
    Ok(())
}
