//! A template that is being written.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    FlockOperation, Mode, OFlags, RenameFlags, fdatasync, flock, fstatvfs, fsync, mkdirat, openat, renameat,
    renameat_with,
};
use rustix::io::Errno;
use vmrun_machine::MachineState;

use super::file::{self, Saved};
use super::{DRAFT, FileIdentity, MEMORY, MOST_BYTES, STATE, Shape, TemplateError, Templates};
use crate::step;

/// A directory with what is there of it. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Draft {
    templates: Templates,
    name: String,
    shape: Shape,
    /// Locked for as long as it is written.
    entry: OwnedFd,
    memory: File,
    published: bool,
}

impl Draft {
    /// Begins one.
    pub(crate) fn begin(templates: Templates, shape: Shape) -> Result<Self, TemplateError> {
        if u64::from(needed_mib(&shape)) << 20 > MOST_BYTES {
            return Err(TemplateError::TooLarge(shape.memory_mib()));
        }
        templates.sweep();
        if !has_room(&templates, &shape) {
            return Err(no_room(&templates, &shape));
        }
        // Nobody sweeps between the making of the directory and the lock on it. Whoever sweeps right now is not
        // waited for.
        match flock(&templates.directory, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => return Err(TemplateError::Busy(templates.path.clone())),
            locked => locked.map_err(TemplateError::io("lock the templates in", &templates.path))?,
        }
        let name = format!("{DRAFT}{:016x}", random()?);
        let begun = make(&templates, &name);
        // Goes with the descriptor in any case.
        let _ = flock(&templates.directory, FlockOperation::Unlock);
        let (entry, memory) = begun.map_err(|errno| {
            // What cannot be removed now is swept before the next one.
            let _ = templates.take_apart(&name);
            TemplateError::io("begin the template", &templates.path.join(&name))(errno)
        })?;
        Ok(Self { templates, name, shape, entry, memory, published: false })
    }

    /// The file that takes the guest's pages.
    pub(crate) fn memory(&self) -> &File {
        &self.memory
    }

    /// Makes it a template: whoever looks for one finds it whole, from now on and after a crash of the host.
    pub(crate) fn publish(mut self, state: MachineState) -> Result<(), TemplateError> {
        self.write(state).map_err(|source| {
            let path = self.path();
            if is_full(&source) { self.no_room() } else { TemplateError::Io { act: "write", path, source } }
        })?;
        let target = self.shape.name();
        let (from, to) = (&self.templates.directory, &self.templates.directory);
        // A directory takes no place of another that has something in it, whether the file system knows the flag or not.
        let renamed = match renameat_with(from, &self.name, to, &target, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL) => renameat(from, &self.name, to, &target),
            other => other,
        };
        match renamed {
            Ok(()) => self.published = true,
            // Another start was first: its template is as good.
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Ok(()),
            Err(errno) => return Err(TemplateError::io("publish the template", &self.path())(errno)),
        }
        // It is there, whatever becomes of older ones.
        if let Err(error) = self.templates.prune(MOST_BYTES) {
            step!("templates that are too many stay: {error}");
        }
        Ok(())
    }

    fn write(&self, state: MachineState) -> io::Result<()> {
        fdatasync(&self.memory)?;
        let memory = FileIdentity::of(&self.memory)?;
        let file = File::from(make_file(&self.entry, STATE)?);
        file::write(&file, file::STATE, &Saved { shape: self.shape.clone(), memory, state })?;
        fdatasync(&file)?;
        Ok(fsync(&self.entry)?)
    }

    /// Where it is written.
    pub(super) fn path(&self) -> PathBuf {
        self.templates.path.join(&self.name)
    }

    /// There is no room for it.
    pub(super) fn no_room(&self) -> TemplateError {
        no_room(&self.templates, &self.shape)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // Whoever begins the next one removes what could not be removed.
            let _ = self.templates.take_apart(&self.name);
        }
    }
}

fn no_room(templates: &Templates, shape: &Shape) -> TemplateError {
    TemplateError::NoRoom { path: templates.path.clone(), mib: needed_mib(shape) }
}

/// What kernel and agent have touched, and a sixty-fourth of the memory, in which the kernel describes all of it: with
/// something to spare.
fn needed_mib(shape: &Shape) -> u32 {
    48 + shape.memory_mib() / 32
}

/// Whether it fits, and others have something left besides.
fn has_room(templates: &Templates, shape: &Shape) -> bool {
    let Ok(place) = fstatvfs(&templates.directory) else { return true };
    let free = place.f_bavail.saturating_mul(place.f_frsize);
    free / 2 >= u64::from(needed_mib(shape)) << 20
}

/// Makes its directory, locked, and the file for the pages in it.
fn make(templates: &Templates, name: &str) -> Result<(OwnedFd, File), Errno> {
    mkdirat(&templates.directory, name, Mode::RWXU)?;
    let entry = templates.open_entry(name)?;
    flock(&entry, FlockOperation::NonBlockingLockExclusive)?;
    let memory = make_file(&entry, MEMORY)?.into();
    Ok((entry, memory))
}

/// Names by it are told apart also where others count their processes alike.
fn random() -> Result<u64, TemplateError> {
    let mut bytes = [0; 8];
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    got.map_err(TemplateError::io("get a random number from", Path::new("the kernel")))?;
    Ok(u64::from_ne_bytes(bytes))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a file of a template, which is nobody else's.
pub(super) fn make_file(entry: &OwnedFd, name: &str) -> Result<OwnedFd, rustix::io::Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    openat(entry, name, flags, Mode::RUSR | Mode::WUSR)
}

/// Whether whoever has begun it is gone.
pub(super) fn is_abandoned(entry: &OwnedFd) -> bool {
    flock(entry, FlockOperation::NonBlockingLockExclusive).is_ok()
}
