//! Where containers are remembered: one directory each.
//!
//! ```text
//!   <root>/                lock: adding and removing containers
//!     <id>/                lock: its state file
//!       state.json         what the verbs need; written whole or not at all
//!       exec.json          what a further process begins with, as of the creation
//!       control.sock       the monitor's, for the verbs
//!       console.log        what the guest kernel and the agent said
//!       share/             mount point of the shared tree, in the monitor's namespace
//!       vsock.sock*        the link to the agent
//! ```
//!
//! A lock is `flock(2)` on the directory itself, so it is gone with its holder; it is waited for
//! for a limited time.

mod entry;
mod exec_base;
mod lock;
mod place;
mod removal;
mod state;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use entry::{Entry, NewEntry};
pub(crate) use exec_base::ExecBase;
pub(crate) use state::{State, StateSource};

use crate::id::ContainerId;
use lock::LOCK_LIMIT;

/// Name of the state file in a container's directory.
pub(crate) const STATE_FILE: &str = "state.json";

/// Name of the control socket in a container's directory.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The id is taken.
    #[error("a container with this id exists")]
    Exists,
    /// The id is unknown.
    #[error("no such container: it does not exist in {}", .root.display())]
    NotFound {
        /// The store's directory.
        root: PathBuf,
    },
    /// The state file is not one, or comes from a newer `vmrun`.
    #[error("cannot read {}", .path.display())]
    Parse {
        /// The state file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The state file comes from another version of `vmrun`.
    #[error("{} has schema {found}, this vmrun reads {}", .path.display(), State::SCHEMA)]
    Schema {
        /// The state file.
        path: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// The state cannot be encoded.
    #[error("cannot encode the state")]
    Encode(#[source] serde_json::Error),
    /// Somebody has locked it, and keeps it so.
    #[error("timed out after {} s waiting for the lock of {}, which {} holds", .limit.as_secs(), .path.display(), name(*.holder))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Pid of who holds it, if it is known.
        holder: Option<i32>,
        /// For how long it was waited.
        limit: Duration,
    },
    /// Somebody else may have put hooks into it, which this user would run.
    #[error("{} {problem}", .path.display())]
    Untrusted {
        /// The store's directory, or the one above it.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file cannot be used.
    #[error("cannot {act} {}", .path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn name(holder: Option<i32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl StoreError {
    pub(crate) fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Exists => Some("choose another id, or remove it with `vmrun delete`"),
            Self::Locked { .. } => {
                Some("if that process was stopped by a signal let it go on with SIGCONT, else end it")
            }
            Self::NotFound { .. } => Some("`vmrun list` shows the containers; --root names another store"),
            Self::Untrusted { .. } => {
                Some("set XDG_RUNTIME_DIR, or name a directory of your own with --root")
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::ResourceBusy => {
                Some("something is mounted there: unmount it")
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space there, or name another place with --root")
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("name a directory of your own with --root")
            }
            _ => None,
        }
    }

    pub(crate) fn io<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { act, path: path.to_owned(), source }
    }
}

/// The directory that holds the containers.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// Nobody has chosen it, so somebody else may have made it: it is looked at before it is used.
    is_default: bool,
}

impl Store {
    /// The store in `root`, else the user's default one. Nothing is made yet.
    pub fn new(root: Option<&Path>) -> Self {
        let is_default = root.is_none();
        let root = root.map_or_else(place::default_root, Path::to_owned);
        // The monitor works in another directory.
        let root = std::path::absolute(&root).unwrap_or(root);
        Self { root, is_default }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that belongs, or would belong, to a container.
    pub(crate) fn directory(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Takes an id: makes its directory, which must not exist.
    pub(crate) fn reserve(&self, id: &ContainerId) -> Result<NewEntry, StoreError> {
        make_directory(&self.root, true)?;
        self.check()?;
        let _lock = lock::lock(&self.root, LOCK_LIMIT)?;
        let directory = self.directory(id);
        match make_directory(&directory, false) {
            Ok(()) => NewEntry::new(Entry::open(&self.root, id)?),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                Err(StoreError::Exists)
            }
            Err(error) => Err(error),
        }
    }

    /// An existing container.
    pub(crate) fn open(&self, id: &ContainerId) -> Result<Entry, StoreError> {
        self.check()?;
        Entry::open(&self.root, id)
    }

    /// Ids of all containers, sorted.
    pub(crate) fn ids(&self) -> Result<Vec<ContainerId>, StoreError> {
        self.check()?;
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("read", &self.root)(error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::io("read", &self.root))?;
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.is_default { place::check(&self.root) } else { Ok(()) }
    }
}

fn make_directory(path: &Path, recursive: bool) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).recursive(recursive);
    builder.create(path).map_err(StoreError::io("make the directory", path))
}

#[cfg(test)]
mod tests;
