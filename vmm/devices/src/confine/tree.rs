//! The one directory of which a thread may name files.
//!
//! Two walls, for a name that nobody has checked leads out of the tree by one of two ways. Looked up from
//! the root or the working directory it ends at the thread's root, which is the tree (`chroot(2)`; the
//! capability that undoes it goes right after). Looked up from an open directory that lies
//! elsewhere, the process has some, it is opened by nobody: Landlock goes by where a file is, not by how
//! it was reached. It does so for what opens, makes and removes files; attributes it leaves to the first.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus,
};
use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::process::{chroot, fchdir};
use rustix::thread::{CapabilitySet, capabilities};

/// Why a thread could not be kept in its tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The root.
    #[error("cannot make the shared tree its root: {0}")]
    Root(Errno),
    /// Landlock.
    #[error("cannot confine it to the shared tree with Landlock: {0}")]
    Landlock(#[from] RulesetError),
    /// Neither is possible here.
    #[error(
        "nothing keeps it in the shared tree: the process has no CAP_SYS_CHROOT, and the kernel has no \
         Landlock of Linux 5.19 or later; grant the capability, or boot with `lsm=landlock,...`"
    )]
    Neither,
}

/// Lets the calling thread name only what is below `tree`.
pub(super) fn enter(tree: &OwnedFd) -> Result<(), TreeError> {
    // Its root, working directory and umask are its own from here on.
    unshare(CloneFlags::CLONE_FS).map_err(|errno| TreeError::Root(Errno::from_raw_os_error(errno as i32)))?;
    let rooted = become_root(tree)?;
    let ruled = restrict(tree)?;
    if rooted || ruled { Ok(()) } else { Err(TreeError::Neither) }
}

/// Lets the calling thread begin at `tree`, and go where it likes.
#[cfg(feature = "planted-holes")]
pub(super) fn stand_in(tree: &OwnedFd) -> Result<(), TreeError> {
    unshare(CloneFlags::CLONE_FS).map_err(|errno| TreeError::Root(Errno::from_raw_os_error(errno as i32)))?;
    fchdir(tree).map_err(TreeError::Root)
}

/// Makes `tree` the root and the working directory of all who share those with the calling thread. False where that one
/// may not: without root and outside of a user namespace, as tests run.
pub(super) fn become_root(tree: &OwnedFd) -> Result<bool, TreeError> {
    fchdir(tree).map_err(TreeError::Root)?;
    let may = capabilities(None).map_err(TreeError::Root)?.effective.contains(CapabilitySet::SYS_CHROOT);
    if may {
        chroot(Path::new(".")).map_err(TreeError::Root)?;
    }
    Ok(may)
}

/// False if this kernel has no Landlock that could. Before Linux 5.19 it forbids renaming from one
/// directory to another altogether.
fn restrict(tree: &OwnedFd) -> Result<bool, RulesetError> {
    let known = AccessFs::from_all(ABI::V5);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(known)?
        .create()?
        .add_rule(PathBeneath::new(tree.as_fd(), known & !(AccessFs::Execute | AccessFs::IoctlDev)))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
