//! Templates: machines saved where their guest has booted and knows no container yet. A sandbox of the same shape
//! goes on from there instead of booting.
//!
//! ```text
//!   DIR/0123456789abcdef/state    what the machine is, and of which shape
//!                        memory   its pages, mapped copy-on-write
//!                        working-set, working-set-networked   which of them a start writes
//!       .new-RANDOM/              one that is being written; whoever writes it holds a lock on it
//! ```
//!
//! A template becomes one by a rename: it is there whole or not at all. It is used only where nobody but
//! this user can have written it, and where its pages are the file that it was saved with: the state
//! has that file's number and times, which nobody but root can set back.

mod build;
pub(crate) mod checkpoint;
mod draft;
mod file;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod place;
mod shape;
mod working_set;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, flock,
    fstat, futimens, openat, renameat, statat, unlinkat,
};
use vmrun_machine::{MachineError, MachineState};
use vmrun_plan::{CONSOLE_LOG, SHARE_DIR, VSOCK_SOCKET};

use crate::machine::StartError;
use crate::read_only;

pub use build::{BuildOptions, build};
pub(crate) use draft::Draft;
pub(crate) use file::FileIdentity;
pub use place::{TemplatePlace, default_directory};
pub(crate) use shape::Shape;
pub use shape::host as host_kernel;
pub(crate) use working_set::{StartKind, WorkingSet};

const STATE: &str = "state";
const MEMORY: &str = "memory";

/// All files that there may be in its directory: the last ones of a machine that is made for a template alone.
const FILES: [&str; 6] =
    [STATE, MEMORY, StartKind::Alone.file(), StartKind::Networked.file(), CONSOLE_LOG, VSOCK_SOCKET];

/// What is written, and what is on its way out, begins like this.
const DRAFT: &str = ".new-";
const OLD: &str = ".old-";

/// Most bytes that all templates together take after one is added; those that were used last stay.
pub(crate) const MOST_BYTES: u64 = 1 << 30;

/// Why templates cannot be had, or one of them.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The directory, or what is in it.
    #[error("cannot {act} {}", .path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another user may have written it.
    #[error("{} {problem}", .path.display())]
    Untrusted {
        /// What.
        path: PathBuf,
        /// In which way.
        problem: &'static str,
    },
    /// It is not what was saved.
    #[error("the template {} {problem}", .path.display())]
    Damaged {
        /// Its directory.
        path: PathBuf,
        /// In which way.
        problem: &'static str,
    },
    /// The machine could not be saved.
    #[error("cannot save the machine in {}: {why}", .path.display())]
    Save {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The machine cannot be built or started.
    #[error(transparent)]
    Machine(#[from] StartError),
    /// Where its guest stops.
    #[error(transparent)]
    Stop(#[from] MachineError),
    /// The guest has not come to its checkpoint.
    #[error("the guest does not stop at its checkpoint: it {0}")]
    NoCheckpoint(String),
    /// Another process removes what was left of others, at this moment or for as long as it is stopped.
    #[error("another vmrun is cleaning up the templates in {}", .0.display())]
    Busy(PathBuf),
    /// It would push all others out.
    #[error("a machine with {0} MiB of memory is too large for a template")]
    TooLarge(u32),
    /// There is no room.
    #[error("no room for a template in {}, which takes up to {mib} MiB", .path.display())]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// How much may be needed.
        mib: u32,
    },
}

impl TemplateError {
    fn io(act: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.to_owned();
        move |errno| Self::Io { act, path, source: errno.into() }
    }
}

/// The directory of all templates of a user.
#[derive(Debug)]
pub struct Templates {
    path: PathBuf,
    directory: OwnedFd,
}

/// A template that fits.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) state: MachineState,
    pub(crate) memory: File,
    /// The pages that a start from it writes.
    pub(crate) working_set: WorkingSet,
}

/// What is to be known of a template without using it.
#[derive(Clone, Debug)]
pub struct TemplateInfo {
    /// Its name.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was saved.
    pub made: SystemTime,
    /// When it was used last.
    pub used: SystemTime,
    /// Of which machines, or what is wrong with it.
    pub shape: Result<ShapeInfo, String>,
}

/// The part of a shape that a user has a word in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeInfo {
    /// vCPUs.
    pub vcpus: u8,
    /// MiB.
    pub memory_mib: u32,
    /// Which kernel.
    pub kernel: String,
    /// Whether this vmrun, on this kernel, can use it.
    pub is_current: bool,
}

impl Templates {
    /// Opens the directory; nothing where there is none yet.
    ///
    /// # Errors
    /// Others can write to it, or it cannot be opened.
    pub fn open(path: &Path) -> Result<Option<Self>, TemplateError> {
        match place::open(path) {
            Ok(directory) => Ok(Some(Self { path: path.to_owned(), directory })),
            Err(TemplateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens it, and makes it before if it is missing.
    pub(crate) fn make(path: &Path) -> Result<Self, TemplateError> {
        place::make(path)?;
        Ok(Self { path: path.to_owned(), directory: place::open(path)? })
    }

    /// The template of this shape, if there is one, for such a start.
    ///
    /// # Errors
    /// There is one that is not to be used.
    pub(crate) fn find(&self, shape: &Shape, kind: StartKind) -> Result<Option<Template>, TemplateError> {
        let name = shape.name();
        let path = self.path.join(&name);
        let entry = match self.open_entry(&name) {
            Ok(entry) => entry,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(TemplateError::io("open the template", &path)(errno)),
        };
        place::only_ours(&entry, FileType::Directory, &path)?;
        let found = Self::open_whole(&entry, &path, shape, kind);
        // One that is removed at this moment is none.
        if found.is_err() && !self.is_current(&name, &entry) {
            return Ok(None);
        }
        found.map(Some)
    }

    /// Whether the template is still what its name leads to.
    fn is_current(&self, name: &str, entry: &OwnedFd) -> bool {
        let now = statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
        now.is_ok_and(|now| fstat(entry).is_ok_and(|seen| seen.st_ino == now.st_ino))
    }

    fn open_whole(
        entry: &OwnedFd,
        path: &Path,
        shape: &Shape,
        kind: StartKind,
    ) -> Result<Template, TemplateError> {
        let saved = Self::read_state(entry, path)?;
        let damaged = |problem| TemplateError::Damaged { path: path.to_owned(), problem };
        if saved.shape != *shape {
            return Err(damaged("is of another kernel, vmrun or size"));
        }
        let memory = open_pages(entry, path)?;
        let identity = FileIdentity::of(&memory).map_err(TemplateError::io("look at the template", path))?;
        if identity != saved.memory || saved.state.memory_bytes() != Some(identity.bytes()) {
            return Err(damaged("has been changed since it was saved"));
        }
        // Says that it is of use. A directory that this user may only read stays as it is.
        let _ = futimens(entry, &Timestamps { last_access: now(), last_modification: untouched() });
        let working_set = working_set::find(entry, kind, &identity, path);
        Ok(Template { state: saved.state, memory, working_set })
    }

    fn open_entry(&self, name: &str) -> Result<OwnedFd, rustix::io::Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.directory, name, flags, Mode::empty())
    }

    fn read_state(entry: &OwnedFd, path: &Path) -> Result<file::Saved, TemplateError> {
        let state = open_file(entry, STATE, path)?;
        file::read(&state, file::STATE)
            .map_err(|problem| TemplateError::Damaged { path: path.to_owned(), problem })
    }

    /// All of them, the one that was used last first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self, host: &str, program: Option<&Path>) -> Result<Vec<TemplateInfo>, TemplateError> {
        let program =
            program.and_then(|path| File::open(path).ok()).and_then(|file| FileIdentity::of(&file).ok());
        let mut found: Vec<_> =
            self.names()?.into_iter().filter_map(|name| self.info(name, host, program.as_ref())).collect();
        found.sort_by_key(|info| std::cmp::Reverse(info.used));
        Ok(found)
    }

    fn info(&self, name: String, host: &str, program: Option<&FileIdentity>) -> Option<TemplateInfo> {
        let path = self.path.join(&name);
        let entry = self.open_entry(&name).ok()?;
        let times = fstat(&entry).ok()?;
        let size = |file: &str| {
            statat(&entry, file, AtFlags::SYMLINK_NOFOLLOW).map_or(0, |seen| seen.st_blocks * 512)
        };
        let bytes = u64::try_from(size(STATE) + size(MEMORY)).unwrap_or(0);
        let shape = Self::read_state(&entry, &path).map(|saved| saved.shape.info(host, program));
        let at =
            |seconds: i64| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds.unsigned_abs());
        Some(TemplateInfo {
            name,
            bytes,
            made: at(times.st_mtime),
            used: at(times.st_atime),
            shape: shape.map_err(|error| crate::error::chain(&error)),
        })
    }

    fn names(&self) -> Result<Vec<String>, TemplateError> {
        let failed = |errno| TemplateError::io("list the templates in", &self.path)(errno);
        let entries = Dir::read_from(&self.directory).map_err(failed)?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if shape::is_name(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Removes a template; sandboxes that were made from it go on. False where there is none.
    ///
    /// # Errors
    /// It is there still.
    pub fn remove(&self, name: &str) -> Result<bool, TemplateError> {
        let path = self.path.join(name);
        if !shape::is_name(name) {
            return Ok(false);
        }
        // Under another name nobody finds half of it.
        let old = format!("{OLD}{name}-{}", std::process::id());
        match renameat(&self.directory, name, &self.directory, &old) {
            Ok(()) => {}
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(TemplateError::io("remove the template", &path)(errno)),
        }
        self.take_apart(&old).map(|()| true).map_err(TemplateError::io("remove the template", &path))
    }

    /// Removes those that were used longest ago until the rest takes at most `most` bytes, and what was left of
    /// templates that were never finished. Gives the names of those removed.
    ///
    /// # Errors
    /// One could not be removed.
    pub fn prune(&self, most: u64) -> Result<Vec<String>, TemplateError> {
        self.sweep();
        let mut kept = 0u64;
        let mut removed = Vec::new();
        for info in self.list("", None)? {
            kept = kept.saturating_add(info.bytes);
            if kept > most && self.remove(&info.name)? {
                kept -= info.bytes;
                removed.push(info.name);
            }
        }
        Ok(removed)
    }

    /// Removes what nobody writes any more.
    fn sweep(&self) {
        if flock(&self.directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            return; // Somebody begins one right now.
        }
        self.sweep_locked();
        // Goes with the descriptor in any case.
        let _ = flock(&self.directory, FlockOperation::Unlock);
    }

    fn sweep_locked(&self) {
        let Ok(entries) = Dir::read_from(&self.directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let left_over = match self.open_entry(&name) {
                Ok(entry) if name.starts_with(DRAFT) => draft::is_abandoned(&entry),
                Ok(_) => name.starts_with(OLD),
                Err(_) => false,
            };
            if left_over {
                // What cannot be removed now is tried again with the next template.
                let _ = self.take_apart(&name);
            }
        }
    }

    /// Removes the directory of a template: the files that it may have, by their names.
    fn take_apart(&self, name: &str) -> Result<(), rustix::io::Errno> {
        let entry = self.open_entry(name)?;
        let files =
            FILES.iter().map(|file| (file, AtFlags::empty())).chain([(&SHARE_DIR, AtFlags::REMOVEDIR)]);
        for (file, flags) in files {
            match unlinkat(&entry, *file, flags) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        unlinkat(&self.directory, name, AtFlags::REMOVEDIR)
    }
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

fn open_file(entry: &OwnedFd, name: &str, path: &Path) -> Result<File, TemplateError> {
    checked(openat(entry, name, READ, Mode::empty()).map_err(io::Error::from), path)
}

/// The pages, which machines keep open.
fn open_pages(entry: &OwnedFd, path: &Path) -> Result<File, TemplateError> {
    checked(read_only::open(entry, MEMORY, READ), path)
}

fn checked(opened: io::Result<OwnedFd>, path: &Path) -> Result<File, TemplateError> {
    match opened {
        Ok(file) => {
            place::only_ours(&file, FileType::RegularFile, path)?;
            Ok(file.into())
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP)) => {
            Err(TemplateError::Damaged { path: path.to_owned(), problem: "is not whole" })
        }
        Err(source) => Err(TemplateError::Io { act: "open the template", path: path.to_owned(), source }),
    }
}

fn now() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }
}

fn untouched() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
