//! Keeping the file systems of the host's kernel out of the shared tree.
//!
//! ```text
//!   tree built ──▶ all that came along with a volume go   (a volume that is one is refused)
//!   hooks have run ──▶ what they have mounted goes
//!   mounted later on the host, where the tree follows it ──▶ goes as soon as it appears
//! ```
//!
//! Through `/proc` alone whoever has taken over a guest could get out: the file server may write
//! there what the host's root may. An empty directory that cannot be written to stands in its place.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::mount::{MoveMountFlags, move_mount};
use vmrun_proto::{SharedMount, VOLUMES_DIR};
use vmrun_spec::{HostPlan, Volume, VolumeKind};

use super::mount_table::{self, Row, TABLE};
use super::view;
use crate::mount_attributes::{self, READONLY};

/// Why the tree cannot be without them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelsError {
    #[error("cannot look at what is mounted below {}", .path.display())]
    Look { path: PathBuf, source: io::Error },
    #[error("cannot keep what is mounted at {} from the guest", .path.display())]
    Keep { path: PathBuf, source: io::Error },
    #[error(
        "{} is on a {kind} of the host's kernel, which no guest may have; bind /proc or /sys for the guest's own",
        .source_path.display()
    )]
    Volume { source_path: PathBuf, kind: String },
    #[error("cannot watch what is mounted in the shared tree later")]
    Watch(#[source] io::Error),
}

/// Takes them out of the tree at `share`. Gives what the guest has to be told of the other mounts, and
/// what has to be watched.
pub(super) fn keep_out(
    share: &Path,
    plan: &HostPlan,
) -> Result<(Vec<SharedMount>, Option<LaterMounts>), KernelsError> {
    let share =
        fs::canonicalize(share).map_err(|source| KernelsError::Look { path: share.to_owned(), source })?;
    let whole_volume = |row: &Row| row.is_top() && is_directory(row, plan);
    let rows = look(&share)?;
    if let Some(row) = rows.iter().find(|row| row.is_kernels() && whole_volume(row)) {
        let source_path = volume_of(row, plan).map_or(&plan.rootfs, |volume| &volume.source).clone();
        return Err(KernelsError::Volume { source_path, kind: row.kind().to_owned() });
    }
    let mut hidden = Vec::new();
    let rows = take_out(&share, rows, &mut hidden)?;
    let told = mount_table::for_the_guest(&rows, &hidden);
    let is_hidden = |row: &Row| hidden.iter().any(|path| row.at.starts_with(path));
    // What hooks mount comes the same way.
    let is_open = plan.hooks.precede_creation() || rows.iter().any(|row| row.follows() && !is_hidden(row));
    let later = if is_open {
        // What happens from here on is noticed.
        let table = File::open(TABLE).map_err(KernelsError::Watch)?;
        Some(LaterMounts { share, hidden, table })
    } else {
        None
    };
    Ok((told, later))
}

fn volume_of<'p>(row: &Row, plan: &'p HostPlan) -> Option<&'p Volume> {
    let number = row.at.strip_prefix(VOLUMES_DIR).ok()?.components().next()?;
    plan.volumes.get(number.as_os_str().to_str()?.parse::<usize>().ok()?)
}

fn is_directory(row: &Row, plan: &HostPlan) -> bool {
    volume_of(row, plan).is_none_or(|volume| volume.kind == VolumeKind::Directory)
}

/// Takes out all that are there, but for those at places that hide one. Gives the mounts that are
/// left.
fn take_out(share: &Path, mut rows: Vec<Row>, hidden: &mut Vec<PathBuf>) -> Result<Vec<Row>, KernelsError> {
    let mut readonly: Vec<PathBuf> = Vec::new();
    loop {
        // What the host has unmounted since needs no hiding.
        hidden.retain(|path| rows.iter().any(|row| row.at == *path));
        let is_hidden = |row: &Row| hidden.iter().any(|path| row.at.starts_with(path));
        // An outer one takes those in it along.
        let Some(row) =
            rows.iter().find(|row| must_go(row) && !is_hidden(row) && !readonly.contains(&row.at))
        else {
            return Ok(rows);
        };
        let at = share.join(&row.at);
        match take_out_one(&at, row) {
            Ok(Taken::Readonly) => readonly.push(row.at.clone()),
            Ok(Taken::Hidden) => hidden.push(row.at.clone()),
            // The host may have unmounted it meanwhile.
            Err(_) if !look(share)?.contains(row) => {}
            Err(source) => return Err(KernelsError::Keep { path: at, source }),
        }
        rows = look(share)?;
    }
}

fn look(share: &Path) -> Result<Vec<Row>, KernelsError> {
    mount_table::read(share).map_err(|source| KernelsError::Look { path: share.to_owned(), source })
}

/// Directories of device nodes stay, but cannot be written to: the guest could remove the nodes.
fn must_go(row: &Row) -> bool {
    row.is_kernels() || (row.is_of_devices() && !row.is_top() && !row.is_readonly())
}

/// What became of a mount that the guest must not have.
enum Taken {
    /// It may not be written to any more.
    Readonly,
    /// It is below an empty directory, as is what is mounted there later.
    Hidden,
}

fn take_out_one(at: &Path, row: &Row) -> io::Result<Taken> {
    let mount = open(at)?;
    let is_directory = FileType::from_raw_mode(fstat(&mount)?.st_mode) == FileType::Directory;
    // A single file was asked for by its name. A volume that is a directory has come over it later.
    if row.is_of_devices() || !is_directory {
        mount_attributes::change(mount, READONLY, false)?;
        return Ok(Taken::Readonly);
    }
    // Without the mount one would see what it was mounted over.
    move_mount(view::nothing()?, c"", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(Taken::Hidden)
}

/// The root of what is mounted at `path`.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// What is mounted in the tree later.
#[derive(Debug)]
pub(crate) struct LaterMounts {
    share: PathBuf,
    hidden: Vec<PathBuf>,
    table: File,
}

impl LaterMounts {
    /// Takes out what has appeared until now.
    pub(super) fn take_out(&mut self) -> Result<(), KernelsError> {
        take_out(&self.share, look(&self.share)?, &mut self.hidden).map(drop)
    }

    /// Takes out, for as long as this process lives, what appears. What must not be there and cannot be
    /// removed is told to `failed`, which ends the machine, and with it the way there.
    pub(super) fn watch(self, failed: impl FnOnce(String) + Send + 'static) -> Result<(), KernelsError> {
        let work = move || failed(self.keep_out());
        thread::Builder::new().name("mounts".to_owned()).spawn(work).map(drop).map_err(KernelsError::Watch)
    }

    /// Why it cannot go on.
    fn keep_out(mut self) -> String {
        loop {
            if let Err(errno) = await_change(&self.table) {
                return format!("cannot watch the mount table: {}", errno.desc());
            }
            if let Err(error) = self.take_out() {
                return crate::error::chain(&error);
            }
        }
    }
}

/// proc_pid_mountinfo(5): a change is an exceptional condition.
fn await_change(table: &File) -> Result<(), Errno> {
    let mut fds = [PollFd::new(table.as_fd(), PollFlags::POLLPRI)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
