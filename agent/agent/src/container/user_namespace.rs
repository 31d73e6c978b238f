//! A new user namespace with its mappings.
//!
//! The maker has a child enter a new user namespace and writes the mappings of that child; what is
//! made then joins the namespace by its path.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceBuilder, LinuxNamespaceType, Spec};

use crate::sys;

/// Keeps a new user namespace alive until it is joined; ends when dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: i32,
    _link: UnixStream,
}

impl Holder {
    /// The process that is in it.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}

/// Makes the user namespace that `spec` wants and replaces it by a path to join;
/// `None` when it wants no new one. `with_network` adds a network namespace that belongs to it.
pub(crate) fn prepare(spec: &mut Spec, with_network: bool) -> io::Result<Option<Holder>> {
    let Some(mut linux) = spec.linux().clone() else { return Ok(None) };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    let wanted = |typ: LinuxNamespaceType, is_new: bool| typ == LinuxNamespaceType::User && is_new;
    let Some(user) =
        namespaces.iter_mut().find(|namespace| wanted(namespace.typ(), namespace.path().is_none()))
    else {
        return Ok(None);
    };
    let (mut ours, theirs) = UnixStream::pair()?;
    let Some(pid) = sys::fork()? else { hold(ours, theirs, with_network) };
    drop(theirs);
    ours.read_exact(&mut [0]).map_err(|_| io::Error::other("the namespace cannot be made"))?;
    fs::write(format!("/proc/{pid}/uid_map"), lines(linux.uid_mappings()))?;
    fs::write(format!("/proc/{pid}/gid_map"), lines(linux.gid_mappings()))?;
    *user = LinuxNamespaceBuilder::default()
        .typ(LinuxNamespaceType::User)
        .path(format!("/proc/{pid}/ns/user"))
        .build()
        .map_err(io::Error::other)?;
    // The mappings are written.
    linux.set_namespaces(Some(namespaces)).set_uid_mappings(None).set_gid_mappings(None);
    spec.set_linux(Some(linux));
    Ok(Some(Holder { pid, _link: ours }))
}

/// The child: enters the namespace, says so, and stays until the maker lets go.
fn hold(ours: UnixStream, mut theirs: UnixStream, with_network: bool) -> ! {
    drop(ours);
    let network = if with_network { CloneFlags::CLONE_NEWNET } else { CloneFlags::empty() };
    let held = unshare(CloneFlags::CLONE_NEWUSER | network).is_ok() && theirs.write_all(&[1]).is_ok();
    if held {
        // Returns when the maker's end is closed.
        let _ = theirs.read(&mut [0]);
    }
    sys::exit_now(0)
}

fn lines(mappings: &Option<Vec<LinuxIdMapping>>) -> String {
    let line = |mapping: &LinuxIdMapping| {
        format!("{} {} {}\n", mapping.container_id(), mapping.host_id(), mapping.size())
    };
    mappings.iter().flatten().map(line).collect()
}
