//! Who the process is: groups, user, and what it may do.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, chdir, getcwd, setgroups, setresgid, setresuid};
use oci_spec::runtime::{LinuxCapabilities, Process};
use rustix::thread::set_keep_capabilities;

use super::{capabilities, words};

/// Becomes the process's user, in its working directory, with no other capabilities than `kept`.
pub(super) fn become_user(process: &Process, kept: Option<&LinuxCapabilities>) -> Result<(), String> {
    let cwd = process.cwd();
    let about_cwd =
        |error| format!("process.cwd {:?}: cannot enter it: {}", cwd.display().to_string(), words(error));
    // Where root may go, its user may not have to; where only the user may go is tried again below.
    let entered = enter(cwd).map_err(about_cwd)?;
    take_groups(process)?;
    take_ids(process)?;
    close_on_exec()?;
    if let Some(kept) = kept {
        capabilities::keep_only(kept)?;
    }
    if !entered {
        chdir(cwd).map_err(about_cwd)?;
    }
    // A directory that is outside of the container, or gone, has no path.
    let path = getcwd().map_err(about_cwd)?;
    if path.is_absolute() { Ok(()) } else { Err(about_cwd(Errno::ENOENT)) }
}

/// False when it may not be entered yet.
fn enter(cwd: &Path) -> Result<bool, Errno> {
    match chdir(cwd) {
        Ok(()) => Ok(true),
        Err(Errno::EPERM | Errno::EACCES) => Ok(false),
        Err(error) => Err(error),
    }
}

fn take_groups(process: &Process) -> Result<(), String> {
    let groups = process.user().additional_gids().as_deref().unwrap_or_default();
    let groups: Vec<_> = groups.iter().copied().map(Gid::from_raw).collect();
    match setgroups(&groups) {
        // A user namespace may forbid it; then there are none to give up.
        Err(Errno::EPERM) if groups.is_empty() => Ok(()),
        other => other,
    }
    .map_err(|error| format!("process.user.additionalGids: cannot take them: {}", words(error)))
}

fn take_ids(process: &Process) -> Result<(), String> {
    let (uid, gid) = (process.user().uid(), process.user().gid());
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let become_it = || {
        // A user that is not root would lose them all here, those that it is to keep included.
        set_keep_capabilities(true)?;
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
        if uid != 0 {
            capabilities::make_effective()?;
        }
        Ok(set_keep_capabilities(false)?)
    };
    become_it().map_err(|error: io::Error| {
        format!("process.user (uid {uid}, gid {gid}): cannot become it: {}", words(error))
    })
}

/// Nothing of the agent's is for the program.
fn close_on_exec() -> Result<(), String> {
    crate::sys::close_all_on_exec()
        .map_err(|error| format!("cannot close the agent's descriptors: {}", words(error)))
}
