//! What a thread may still do once it runs: little, by its class.
//!
//! ```text
//!   new thread ─▶ its tree, if it has one ─▶ capabilities of the class ─▶ no new privileges, filter of the class ─▶ body
//! ```
//!
//! The guest can reach these threads. One that the guest has taken over shall find that it
//! cannot start a program, open what it does not serve, or become anybody. Each step is the
//! thread's own; what is the process's, its root directory, is taken when all of them are made.
//!
//! What a confined thread starts is confined likewise, so classes cannot be left again. One class
//! may start threads, and little else: of locks, where one thread waits for each.

mod calls;
mod capabilities;
mod file_server;
mod filter;
#[cfg(test)]
mod filter_tests;
mod panics;
mod program;
#[cfg(test)]
mod tests;
mod tree;

use std::os::fd::OwnedFd;

pub use calls::Call;
pub use filter::FilterError;
pub use program::ProgramError;
pub use tree::TreeError;

use capabilities::Capabilities;
use vmrun_spec::Authority;

/// What the threads of one kind need.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClass {
    /// Those that it keeps, if the process has them.
    capabilities: Capabilities,
    /// System calls besides those of every thread.
    calls: &'static [Call],
    /// And others, of a kind that builds on another.
    more: &'static [&'static [Call]],
}

impl ThreadClass {
    /// Queues, events and Unix sockets: all devices that never block.
    pub(crate) const EVENT_LOOP: Self = Self::without_capabilities(calls::EVENT_LOOP);

    /// The files of one directory, as any of their owners.
    pub(crate) const FILE_SERVER: Self =
        Self { capabilities: capabilities::OWNERSHIP, calls: file_server::CALLS, more: &[] };

    /// The same, and what `authority` allows besides.
    pub(crate) fn file_server(authority: Authority) -> Self {
        Self { capabilities: capabilities::of_files(authority), ..Self::FILE_SERVER }
    }

    /// Waiting for locks and for the disk, and starting threads that do.
    pub(crate) const LOCKS: Self = Self::without_capabilities(calls::LOCKS);

    /// This class, whose threads name files below `tree` only.
    pub(crate) fn within(self, tree: OwnedFd) -> Confinement {
        Confinement { class: self, tree: Some(tree) }
    }

    /// Threads that need `calls` and no capability.
    pub const fn without_capabilities(calls: &'static [Call]) -> Self {
        Self { capabilities: Capabilities::empty(), calls, more: &[] }
    }

    /// The same, which the modes of files do not keep out either.
    pub const fn passing_modes(calls: &'static [Call]) -> Self {
        Self { capabilities: Capabilities::DAC_OVERRIDE, calls, more: &[] }
    }

    /// The owner of a machine, who needs the calls of `requests`, too. What it starts inherits its filter, so that the
    /// calls of network interfaces, which come while the guest runs, are among its own.
    pub const fn owner(requests: &'static [&'static [Call]]) -> Self {
        Self { capabilities: Capabilities::empty(), calls: calls::OWNER, more: requests }
    }
}

/// What a thread is confined to.
#[derive(Debug)]
pub struct Confinement {
    class: ThreadClass,
    /// The directory below which it may name files; else the class names none.
    tree: Option<OwnedFd>,
}

impl From<ThreadClass> for Confinement {
    fn from(class: ThreadClass) -> Self {
        Self { class, tree: None }
    }
}

/// Why a thread could not be confined; it does not run then.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The files that it may name.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Its capabilities.
    #[error("cannot drop its capabilities: {0}")]
    Capabilities(rustix::io::Errno),
    /// Its filter.
    #[error("cannot install its seccomp filter: {0}")]
    Filter(#[from] FilterError),
}

/// Confines the calling thread, for good.
pub(crate) fn confine(to: &Confinement) -> Result<(), ConfineError> {
    let Confinement { class, tree } = to;
    panics::tell_in_one_line();
    #[cfg(feature = "planted-holes")]
    if crate::planted::walls_are_down() {
        return Ok(tree.as_ref().map_or(Ok(()), tree::stand_in)?);
    }
    tree.as_ref().map_or(Ok(()), tree::enter)?;
    capabilities::keep(class.capabilities).map_err(ConfineError::Capabilities)?;
    let lists: Vec<_> = class.more.iter().copied().chain([class.calls]).collect();
    Ok(filter::install(&lists)?)
}

/// Leaves the calling process `tree` as its root directory, where it may change that, and the calling thread and those
/// that it starts no capability. Threads that run already are confined by their classes.
pub fn confine_process(tree: &OwnedFd) -> Result<(), ConfineError> {
    #[cfg(feature = "planted-holes")]
    if crate::planted::walls_are_down() {
        return Ok(());
    }
    tree::become_root(tree)?;
    capabilities::keep(Capabilities::empty()).map_err(ConfineError::Capabilities)
}
