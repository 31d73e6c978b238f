//! The files and block devices behind the sandbox's disks.
//!
//! ```text
//!   opened with the caller's rights ─▶ locked ─▶ handed to the machine's process, which keeps the lock
//! ```
//!
//! Two writers corrupt an image. So a disk that is written is locked for its sandbox alone, and one
//! that is only read for all who only read it: by a lock of the open file (`F_OFD_SETLK`), which goes with its last
//! descriptor however that ends. QEMU takes such locks, too, so that it is kept out as it keeps others out. A block
//! device that is written is claimed besides (`O_EXCL`): the kernel lets nobody mount it then, nor anybody have one that is
//! mounted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::{major, minor};
use rustix::fs::{ioctl_blkpbszget, ioctl_blksszget};
use vmrun_proto::DISKS_DIR;
use vmrun_spec::{DiskKind, DiskPlan, DiskSlot, DiskSource, DiskSpec};

use crate::machine::{Counted, Machine, OrderError};
use crate::step;

/// A disk without one holds nothing.
const SECTOR_BYTES: u64 = 512;

/// What the device is called.
const DEVICE: &str = "virtio-blk";

/// What file systems write at least.
const PAGE_BYTES: u32 = 4096;

/// Why the sandbox cannot have a disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// The caller may not, or there is none.
    #[error("{field}: cannot open {what}")]
    Open { field: String, what: String, source: io::Error },
    #[error(
        "{field}: {} is neither a file nor a block device; name an image, or mount its directory with the option rbind",
        .path.display()
    )]
    NoImage { field: String, path: PathBuf },
    #[error(
        "{field}: {what} is too small ({bytes} bytes) to hold a file system; make one there, or name another"
    )]
    Empty { field: String, what: String, bytes: u64 },
    /// Somebody else has it.
    #[error("{field}: {what} is in use, {}", .user.told())]
    InUse { field: String, what: String, user: User },
    #[error("{field}: cannot lock {what}")]
    Lock { field: String, what: String, source: io::Error },
    #[error("{field}: cannot attach the disk to the machine: {cause}; see console.log")]
    Plug { field: String, cause: String },
}

/// What the agent tells of file systems on disks, with what these are on for the guest's places (`DISKS_DIR/SLOT.MOUNT`, and `SLOT.root`).
pub(super) fn with_the_hosts_paths(text: &str, plan: &[DiskPlan]) -> String {
    let directory = format!("{DISKS_DIR}/");
    let (mut told, mut rest) = (String::new(), text);
    // Forward: what is put in may look like such a place itself.
    while let Some((before, behind)) = rest.split_once(&directory) {
        told.push_str(before);
        let place =
            behind.split_once('.').and_then(|(number, behind)| Some((disk_of(number, plan)?, behind)));
        let Some((disk, behind)) = place else {
            told.push_str(&directory);
            rest = behind;
            continue;
        };
        told.push_str(&shown(&disk.source));
        rest = behind.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric());
    }
    told + rest
}

/// The disk in the slot with this number.
fn disk_of<'p>(number: &str, plan: &'p [DiskPlan]) -> Option<&'p DiskPlan> {
    let mut disks = DiskSlot::all().zip(plan);
    disks.find(|(slot, _)| slot.number().to_string() == number).map(|(_, disk)| disk)
}

/// Who has a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum User {
    /// Somebody who writes to it.
    Writer,
    /// Somebody, where this sandbox would write.
    Anybody,
}

impl User {
    fn told(self) -> &'static str {
        match self {
            Self::Writer => "open for writing by another sandbox or program; stop that one first",
            Self::Anybody => {
                "by another sandbox or program, and two writers would corrupt it; stop that one first, or have both use it \
                 read-only"
            }
        }
    }
}

/// A disk that is open, and nobody else's.
#[derive(Debug)]
pub(crate) struct OpenDisk {
    field: String,
    file: File,
    spec: DiskSpec,
}

/// Opens the disks of a plan.
pub(super) fn open_all(plan: &[DiskPlan]) -> Result<Vec<OpenDisk>, DiskError> {
    DiskSlot::all().zip(plan).map(|(slot, disk)| open(slot, disk)).collect()
}

/// Puts them into their slots, where the agent looks for them. Only the machine's process has them afterwards.
pub(super) fn plug_all(machine: &Machine, disks: Vec<OpenDisk>) -> Result<(), Unplugged> {
    for (slot, OpenDisk { field, file, spec }) in DiskSlot::all().zip(disks) {
        step!("{field}: a disk of {} bytes in slot {}", spec.bytes, slot.number());
        match machine.plug_disk(slot, spec, file.as_fd()) {
            Ok(()) => {}
            Err(OrderError::Refused(cause)) => {
                return Err(Unplugged::Refused(DiskError::Plug { field, cause }));
            }
            Err(OrderError::Ended | OrderError::Interrupted) => return Err(Unplugged::Ended),
        }
    }
    Ok(())
}

/// What the machine's disks have got by now, as their counters have it, each by its slot and name.
pub(super) fn written(machine: &Machine) -> Vec<(Option<u8>, String, u64)> {
    const GOT: [&str; 5] = ["written_bytes", "flushes", "discards", "zeroed", "limited"];
    let disks = machine.counters().into_iter().filter(|device| device.device == DEVICE);
    let got = disks.flat_map(|Counted { slot, figures, .. }| {
        let got = figures.into_iter().filter(|(name, _)| GOT.contains(&name.as_str()));
        got.map(move |(name, value)| (slot, name, value))
    });
    got.collect()
}

/// What the host's files and devices have failed to do, one line for each disk.
pub(super) fn failures(machine: &Machine, plan: &[DiskPlan]) -> Vec<String> {
    let disks = machine.counters().into_iter().filter(|device| device.device == DEVICE);
    disks.filter_map(|disk| failure(&disk, plan)).collect()
}

fn failure(disk: &Counted, plan: &[DiskPlan]) -> Option<String> {
    let count = |name: &str| disk.figures.get(name).copied().unwrap_or(0);
    let (failed, no_room) = (count("failed"), count("no_room"));
    let DiskPlan { field, source, .. } = disk_of(&disk.slot?.to_string(), plan)?;
    let why = match no_room {
        0 => "; see the host's kernel log".to_owned(),
        all if all == failed => ": there was no room for what was written; make some on the host".to_owned(),
        some => format!(", {some} of them for want of room; see the host's kernel log"),
    };
    (failed > 0)
        .then(|| format!("{field}: {failed} requests to {} have failed on the host{why}", shown(source)))
}

/// Why they are not all there.
pub(super) enum Unplugged {
    Refused(DiskError),
    /// The machine has ended.
    Ended,
}

fn open(slot: DiskSlot, plan: &DiskPlan) -> Result<OpenDisk, DiskError> {
    let DiskPlan { field, source, rate, .. } = plan;
    let what = shown(source);
    let failed = |source| DiskError::Open { field: field.clone(), what: what.clone(), source };
    let path = match source {
        DiskSource::Path(path) => path.clone(),
        DiskSource::Device { major, minor } => node_of(*major, *minor).map_err(failed)?,
    };
    let metadata = fs::metadata(&path).map_err(failed)?;
    let kind = match metadata.file_type() {
        kind if kind.is_file() => DiskKind::File,
        kind if kind.is_block_device() => DiskKind::Device,
        _ => return Err(DiskError::NoImage { field: field.clone(), path }),
    };
    let read_only = plan.read_only || (kind == DiskKind::Device && is_write_protected(metadata.rdev()));
    let user = if read_only { User::Writer } else { User::Anybody };
    let in_use = || DiskError::InUse { field: field.clone(), what: what.clone(), user };
    let mut file = open_file(&path, kind, read_only).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => in_use(),
        _ => failed(error),
    })?;
    is_the_same(&metadata, &file.metadata().map_err(failed)?).map_err(failed)?;
    if let DiskSource::Device { major, minor } = *source {
        is_the_device(&file, major, minor).map_err(failed)?;
    }
    lock(&file, read_only).map_err(|error| match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => in_use(),
        _ => DiskError::Lock { field: field.clone(), what: what.clone(), source: error },
    })?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    if bytes < SECTOR_BYTES {
        return Err(DiskError::Empty { field: field.clone(), what, bytes });
    }
    let (block_bytes, physical_block_bytes) = blocks(&file, kind).map_err(failed)?;
    let serial = format!("vmrun-{}", slot.number());
    let spec = DiskSpec { bytes, kind, read_only, block_bytes, physical_block_bytes, serial, rate: *rate };
    Ok(OpenDisk { field: field.clone(), file, spec })
}

/// As messages call it.
fn shown(source: &DiskSource) -> String {
    match source {
        DiskSource::Path(path) => path.display().to_string(),
        DiskSource::Device { major, minor } => format!("the host's block device {major}:{minor}"),
    }
}

/// Where the host has the node of a device: by its name, which the kernel tells.
fn node_of(major: u32, minor: u32) -> io::Result<PathBuf> {
    let events = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"))?;
    let name = events.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| Path::new("/dev").join(name)).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What was looked at may have been replaced before it was opened.
fn is_the_same(seen: &fs::Metadata, opened: &fs::Metadata) -> io::Result<()> {
    let identity = |of: &fs::Metadata| (of.dev(), of.ino(), of.mode() & libc::S_IFMT, of.rdev());
    if identity(seen) == identity(opened) {
        Ok(())
    } else {
        Err(io::Error::other("something else has taken its place meanwhile; try again"))
    }
}

/// The node may be another's.
fn is_the_device(file: &File, wanted_major: u32, wanted_minor: u32) -> io::Result<()> {
    let number = file.metadata()?.rdev();
    if (major(number), minor(number)) == (wanted_major.into(), wanted_minor.into()) {
        Ok(())
    } else {
        Err(io::Error::other("its node in /dev is another device's"))
    }
}

/// Whether nobody can write to this device.
fn is_write_protected(number: u64) -> bool {
    let state = fs::read_to_string(format!("/sys/dev/block/{}:{}/ro", major(number), minor(number)));
    state.is_ok_and(|state| state.trim_end() == "1")
}

fn open_file(path: &Path, kind: DiskKind, read_only: bool) -> io::Result<File> {
    let claimed = if kind == DiskKind::Device && !read_only { libc::O_EXCL } else { 0 };
    // What takes the file's place meanwhile may be a pipe, for whose other end nobody waits.
    OpenOptions::new().read(true).write(!read_only).custom_flags(libc::O_NONBLOCK | claimed).open(path)
}

/// Locks all of it, for good.
fn lock(file: &File, read_only: bool) -> io::Result<()> {
    let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
    let number = |value: libc::c_int| libc::c_short::try_from(value).map_err(io::Error::other);
    let lock = libc::flock {
        l_type: number(kind)?,
        l_whence: number(libc::SEEK_SET)?,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock))?;
    Ok(())
}

/// What is read and written at least, by programs and by the disk itself.
fn blocks(file: &File, kind: DiskKind) -> io::Result<(u32, u32)> {
    let sectors = 512;
    match kind {
        DiskKind::File => Ok((sectors, PAGE_BYTES)),
        DiskKind::Device => Ok((ioctl_blksszget(file)?, ioctl_blkpbszget(file)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    fn plan(path: &Path, read_only: bool) -> DiskPlan {
        let source = DiskSource::Path(path.to_owned());
        DiskPlan { field: "mounts[7].source".to_owned(), source, read_only, rate: None }
    }

    fn slot() -> DiskSlot {
        DiskSlot::new(3).unwrap()
    }

    fn image() -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(1 << 20).unwrap();
        image
    }

    #[test]
    fn failed_requests_are_told_with_their_reason_and_a_disk_without_any_is_not() {
        let plan = [plan(Path::new("/a.img"), false)];
        let told = |failed, no_room| {
            let figures = [("failed", failed), ("no_room", no_room), ("errors", 9)];
            let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
            failure(&Counted { device: DEVICE.to_owned(), slot: Some(0), figures }, &plan)
        };
        assert_eq!(told(0, 0), None);
        let text = told(2, 2).unwrap();
        assert!(text.starts_with(
            "mounts[7].source: 2 requests to /a.img have failed on the host: there was no room"
        ));
        assert!(told(3, 1).unwrap().contains("1 of them for want of room"));
        assert!(told(3, 0).unwrap().ends_with("have failed on the host; see the host's kernel log"));
    }

    fn refused(plan: &DiskPlan) -> String {
        chain(&open(slot(), plan).unwrap_err())
    }

    #[test]
    fn image_is_a_disk_of_its_size() {
        let image = image();
        let disk = open(slot(), &plan(image.path(), false)).unwrap();
        let expected = DiskSpec {
            bytes: 1 << 20,
            kind: DiskKind::File,
            read_only: false,
            block_bytes: 512,
            physical_block_bytes: 4096,
            serial: "vmrun-3".to_owned(),
            rate: None,
        };
        assert_eq!(disk.spec, expected);
    }

    #[test]
    fn one_writes_or_many_read_for_as_long_as_a_descriptor_is_open() {
        let image = image();
        let (writes, reads) = (plan(image.path(), false), plan(image.path(), true));
        let writer = open(slot(), &writes).unwrap();
        let kept = writer.file.try_clone().unwrap();
        drop(writer);
        assert!(refused(&writes).contains("is in use, by another sandbox"), "{}", refused(&writes));
        assert!(refused(&reads).contains("is in use, open for writing"), "{}", refused(&reads));
        drop(kept);
        let readers = [open(slot(), &reads).unwrap(), open(slot(), &reads).unwrap()];
        assert!(refused(&writes).contains("two writers would corrupt it"));
        drop(readers);
        open(slot(), &writes).unwrap();
    }

    #[test]
    fn what_has_taken_a_files_place_is_not_that_file() {
        let (image, other) = (image(), image());
        let metadata = |file: &tempfile::NamedTempFile| fs::metadata(file.path()).unwrap();
        is_the_same(&metadata(&image), &metadata(&image)).unwrap();
        let replaced = is_the_same(&metadata(&image), &metadata(&other)).unwrap_err().to_string();
        assert!(replaced.contains("has taken its place"), "{replaced}");
    }

    #[test]
    fn places_in_the_guest_are_told_by_what_is_there() {
        let plan = [plan(Path::new("/a"), false), plan(Path::new("/b.img"), false)];
        let text = "cannot write back all files of /run/vmrun/disks/1.12: no; and of /run/vmrun/disks/0.3";
        assert_eq!(with_the_hosts_paths(text, &plan), "cannot write back all files of /b.img: no; and of /a");
    }

    #[test]
    fn image_that_is_named_like_a_place_in_the_guest_is_told_once() {
        let plan = [plan(Path::new("/run/vmrun/disks/0.img"), false)];
        for (text, told) in [
            ("of /run/vmrun/disks/0.3: no", "of /run/vmrun/disks/0.img: no"),
            ("of /run/vmrun/disks/7.3, /run/vmrun/disks/x", "of /run/vmrun/disks/7.3, /run/vmrun/disks/x"),
        ] {
            assert_eq!(with_the_hosts_paths(text, &plan), told);
        }
    }

    #[test]
    fn what_is_no_image_is_refused_by_field() {
        let directory = tempfile::tempdir().unwrap();
        let told = |path: &Path| refused(&plan(path, true));
        let path = directory.path();
        assert!(told(path).contains("is neither a file nor a block device; name an image"));
        assert!(told(Path::new("/dev/null")).contains("is neither a file"));
        let missing = told(&path.join("none"));
        assert!(missing.starts_with("mounts[7].source: cannot open /") && missing.contains("No such file"));
        fs::write(path.join("empty"), [0; 511]).unwrap();
        assert!(told(&path.join("empty")).contains("is too small (511 bytes) to hold a file system"));
        let device = DiskPlan { source: DiskSource::Device { major: 4095, minor: 7 }, ..plan(path, true) };
        assert!(refused(&device).contains("cannot open the host's block device 4095:7: No such file"));
    }
}
