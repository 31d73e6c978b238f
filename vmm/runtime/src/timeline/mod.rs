//! Where the time of a start goes: `vmrun run --timeline FILE`.
//!
//! Launcher and monitor append a line for each mark to a memory file that they share; the guest's marks
//! come out of it as exits, which the machine stamps. The launcher makes a document of them at the end.
//! Where nobody asks, a mark costs a look at a variable.

mod document;
mod marks;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::time::{ClockId, clock_gettime};

pub(crate) use marks::Point;

use crate::fds;
use crate::machine::Stamped;

/// The memory file, in a process that takes part.
static SHARED: OnceLock<File> = OnceLock::new();

/// A timeline that is being written.
#[derive(Debug)]
pub(crate) struct Writing {
    out: File,
}

impl Writing {
    /// Begins one. The file is made now, so that a path that leads nowhere is known before anything runs.
    pub(crate) fn begin(path: &Path, process_began: Instant) -> io::Result<Self> {
        let out = File::create(path)?;
        let shared = memfd_create(c"vmrun-timeline", MFdFlags::MFD_CLOEXEC)?;
        fcntl(&shared, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
        // Once in the life of a process.
        let _ = SHARED.set(shared.into());
        mark_at(Point::Begun, process_began);
        mark(Point::Typed);
        Ok(Self { out })
    }

    /// Writes the document.
    pub(crate) fn finish(mut self, id: &str) -> io::Result<()> {
        mark(Point::Removed);
        let mut lines = String::new();
        if let Some(mut shared) = SHARED.get() {
            shared.seek(SeekFrom::Start(0))?;
            shared.read_to_string(&mut lines)?;
        }
        self.out.write_all(document::document(id, &lines).as_bytes())
    }
}

/// A descriptor of the memory file that the monitor inherits, and its number there.
pub(crate) fn for_the_monitor() -> io::Result<Option<(OwnedFd, RawFd)>> {
    let Some(shared) = SHARED.get() else { return Ok(None) };
    let copy = shared.as_fd().try_clone_to_owned()?;
    let number = fds::pass_on(&copy)?;
    Ok(Some((copy, number)))
}

/// Goes on in the monitor with what the launcher has begun.
pub(crate) fn go_on(shared: OwnedFd, monitor_began: Instant) {
    let _ = SHARED.set(shared.into());
    mark_at(Point::MonitorBegun, monitor_began);
}

/// Whether somebody asks.
pub(crate) fn is_asked_for() -> bool {
    SHARED.get().is_some()
}

/// The start has come to this point.
pub(crate) fn mark(point: Point) {
    if is_asked_for() {
        mark_at(point, Instant::now());
    }
}

/// What the guest has said by now.
pub(crate) fn guest_marks(stamps: &[Stamped]) {
    for stamp in stamps {
        if let Some(point) = Point::of_guest(stamp.code) {
            write(point, stamp.at_ns);
        }
    }
}

fn mark_at(point: Point, at: Instant) {
    write(point, nanoseconds(at));
}

fn write(point: Point, at_ns: i64) {
    let Some(mut shared) = SHARED.get() else { return };
    // A measurement that cannot be written must not stop what is measured; its line is missing then.
    let _ = shared.write_all(format!("{at_ns} {}\n", point.name()).as_bytes());
}

/// In nanoseconds of `CLOCK_MONOTONIC`, which `Instant` has but does not tell.
fn nanoseconds(at: Instant) -> i64 {
    let now =
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() * 1_000_000_000 + now.tv_nsec());
    now - i64::try_from(at.elapsed().as_nanos()).unwrap_or(now)
}
