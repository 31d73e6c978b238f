//! One container's directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::lock::{LOCK_LIMIT, lock};
use super::state::State;
use super::{ExecBase, STATE_FILE, StoreError, removal};
use crate::id::ContainerId;

/// A container's directory. Held open, so that a later one of the same name is known for
/// another: no other directory can have its inode meanwhile.
#[derive(Debug)]
pub(crate) struct Entry {
    root: PathBuf,
    directory: PathBuf,
    held: File,
}

impl Entry {
    pub(super) fn open(root: &Path, id: &ContainerId) -> Result<Self, StoreError> {
        let directory = root.join(id.as_str());
        let held = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&directory);
        let held = held.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                StoreError::NotFound { root: root.to_owned() }
            }
            _ => StoreError::io("open", &directory)(error),
        })?;
        Ok(Self { root: root.to_owned(), directory, held })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whose it is, as runc writes an owner without a name.
    pub(crate) fn owner(&self) -> String {
        self.held.metadata().map(|found| format!("#{}", found.uid())).unwrap_or_default()
    }

    /// Whether the name still leads to this directory.
    pub(crate) fn is_current(&self) -> Result<bool, StoreError> {
        let number = |of: fs::Metadata| (of.dev(), of.ino());
        let held = self.held.metadata().map_err(StoreError::io("look at", &self.directory))?;
        match fs::metadata(&self.directory) {
            Ok(named) => Ok(number(named) == number(held)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("look at", &self.directory)(error)),
        }
    }

    /// Removes the directory and the files in it; what is mounted there is in the way. False when somebody else has: by then the
    /// name may be another container's.
    pub(crate) fn remove(&self) -> Result<bool, StoreError> {
        let root = match lock(&self.root, LOCK_LIMIT) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(false);
            }
            other => other?,
        };
        if !self.is_current()? {
            return Ok(false);
        }
        let name = self.directory.file_name().map_or(self.directory.as_path(), Path::new);
        removal::remove(&self.held, &self.directory, &root, name)?;
        Ok(true)
    }

    /// The state; `None` when its maker died before there was one.
    pub(crate) fn read(&self) -> Result<Option<State>, StoreError> {
        let path = self.directory.join(STATE_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.directory.is_dir() {
                    return Ok(None);
                }
                return Err(StoreError::NotFound { root: self.root.clone() });
            }
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        parse(&path, &text).map(Some)
    }

    /// Replaces the state under the directory's lock with what `change` makes of it.
    pub(crate) fn update(
        &self,
        change: impl FnOnce(Option<State>) -> Option<State>,
    ) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        if !self.is_current()? {
            return Err(StoreError::NotFound { root: self.root.clone() });
        }
        match change(self.read()?) {
            Some(state) => self.write(&state),
            None => Ok(()),
        }
    }

    pub(crate) fn lock(&self) -> Result<Flock<fs::File>, StoreError> {
        lock(&self.directory, LOCK_LIMIT).map_err(|error| match error {
            StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                StoreError::NotFound { root: self.root.clone() }
            }
            other => other,
        })
    }

    /// Writes the state whole or not at all.
    pub(super) fn write(&self, state: &State) -> Result<(), StoreError> {
        let text = serde_json::to_vec(state).map_err(StoreError::Encode)?;
        let path = self.directory.join(STATE_FILE);
        let draft = self.directory.join("state.json.new");
        let written = write_durably(&draft, &text).and_then(|()| fs::rename(&draft, &path));
        written.map_err(|error| {
            // The draft is worthless, and the first error is the one to tell.
            let _ = fs::remove_file(&draft);
            StoreError::io("write", &path)(error)
        })
    }
}

fn write_durably(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

pub(super) fn parse(path: &Path, text: &[u8]) -> Result<State, StoreError> {
    #[derive(serde::Deserialize)]
    struct OnlySchema {
        schema: u32,
    }
    let broken = |source| StoreError::Parse { path: path.to_owned(), source };
    let found = serde_json::from_slice::<OnlySchema>(text).map_err(broken)?.schema;
    if found != State::SCHEMA {
        return Err(StoreError::Schema { path: path.to_owned(), found });
    }
    serde_json::from_slice(text).map_err(|source| StoreError::Parse { path: path.to_owned(), source })
}

/// A directory that was just made. It is removed again unless it is kept, and
/// locked until it has a state: whoever finds it without one knows that its
/// maker is dead.
#[derive(Debug)]
pub(crate) struct NewEntry {
    entry: Entry,
    lock: Option<Flock<fs::File>>,
    keep: bool,
}

impl NewEntry {
    pub(super) fn new(entry: Entry) -> Result<Self, StoreError> {
        // From here on the guard removes the directory, even when locking fails.
        let mut new = Self { entry, lock: None, keep: false };
        new.lock = Some(new.entry.lock()?);
        Ok(new)
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Writes what a further process begins with and the first state, and releases the lock.
    pub(crate) fn publish(&mut self, state: &State, exec_base: &ExecBase) -> Result<(), StoreError> {
        exec_base.write(&self.entry.directory)?;
        self.entry.write(state)?;
        self.lock = None;
        Ok(())
    }

    /// Leaves the directory to others.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }

    /// Removes the directory now, with an answer: whether it was still there.
    pub(crate) fn remove(mut self) -> Result<bool, StoreError> {
        self.keep = true;
        self.lock = None;
        self.entry.remove()
    }
}

impl Drop for NewEntry {
    fn drop(&mut self) {
        if !self.keep {
            self.lock = None;
            // A destructor has nobody to tell; `vmrun delete` still can.
            let _ = self.entry.remove();
        }
    }
}
