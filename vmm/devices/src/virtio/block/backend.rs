//! The file or block device behind a disk.
//!
//! Reads and writes are the kernel's, straight from and to the guest's memory: nobody here looks at their bytes, so it
//! does not matter that the guest may change them meanwhile.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use libc::{c_int, iovec};
use rustix::fs::{FallocateFlags, fallocate};
use vm_memory::GuestMemory;
use vmrun_spec::{DiskKind, DiskSpec};

use super::request::{ID_BYTES, Limits, Piece, Range};
use crate::memory::Memory;

/// `BLKDISCARD`
pub(super) const BLKDISCARD: u64 = 0x1277;
/// `BLKZEROOUT`
pub(super) const BLKZEROOUT: u64 = 0x127f;

/// Zeros that are written at a time where a file system cannot make them.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It fails with `WouldBlock` instead.
    None,
    /// As long as it takes.
    All,
}

/// The disk's file.
#[derive(Debug)]
pub(super) struct Backend {
    file: File,
    kind: DiskKind,
    pub(super) limits: Limits,
    pub(super) id: [u8; ID_BYTES],
}

impl Backend {
    pub(super) fn new(spec: &DiskSpec, file: OwnedFd) -> Self {
        let mut id = [0; ID_BYTES];
        id.iter_mut().zip(spec.serial.bytes()).for_each(|(place, byte)| *place = byte);
        Self {
            file: file.into(),
            kind: spec.kind,
            limits: Limits { bytes: spec.bytes, read_only: spec.read_only },
            id,
        }
    }

    /// Fills `pieces` with what the file has from `at` on. Of a file that has become shorter that is an error.
    pub(super) fn read(
        &self,
        memory: &Memory,
        pieces: &[Piece],
        at: u64,
        patience: Patience,
    ) -> io::Result<()> {
        let flags = match patience {
            Patience::None => libc::RWF_NOWAIT,
            Patience::All => 0,
        };
        self.transfer(memory, pieces, at, |file, list, count, at| {
            // SAFETY: the list has so many entries, each of guest memory that `memory` keeps mapped, and which nobody
            // has a reference into: it may change at any time.
            let read = unsafe { libc::preadv2(file, list, count, at, flags) };
            match usize::try_from(read) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                other => other.map_err(|_| io::Error::last_os_error()),
            }
        })
    }

    /// Writes `pieces` to the file from `at` on.
    pub(super) fn write(&self, memory: &Memory, pieces: &[Piece], at: u64) -> io::Result<()> {
        self.transfer(memory, pieces, at, |file, list, count, at| {
            // SAFETY: as for reading, and the call only reads them.
            let written = unsafe { libc::pwritev2(file, list, count, at, 0) };
            match usize::try_from(written) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                other => other.map_err(|_| io::Error::last_os_error()),
            }
        })
    }

    /// Calls `call` until all of the pieces are through.
    fn transfer(
        &self,
        memory: &Memory,
        pieces: &[Piece],
        mut at: u64,
        call: impl Fn(c_int, *const iovec, c_int, i64) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut list = vectors(memory, pieces)?;
        let mut rest = list.as_mut_slice();
        while !rest.is_empty() {
            let offset = i64::try_from(at).map_err(io::Error::other)?;
            let count = c_int::try_from(rest.len().min(MOST_VECTORS)).unwrap_or(c_int::MAX);
            let moved = match call(self.file.as_raw_fd(), rest.as_ptr(), count, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                moved => moved?,
            };
            at = at.saturating_add(u64::try_from(moved).unwrap_or(u64::MAX));
            rest = behind(rest, moved);
        }
        Ok(())
    }

    /// What was written is on the disk when this returns.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Nobody needs what is there any more.
    pub(super) fn discard(&self, range: Range) -> io::Result<()> {
        match self.kind {
            DiskKind::File => self.allocate(FallocateFlags::PUNCH_HOLE, range),
            DiskKind::Device => self.control(BLKDISCARD, range),
        }
    }

    /// From here on there are zeros. Where `unmap` says so they may take no room.
    pub(super) fn zero(&self, range: Range, unmap: bool) -> io::Result<()> {
        let made = match self.kind {
            DiskKind::Device => return self.control(BLKZEROOUT, range),
            DiskKind::File if unmap => self.allocate(FallocateFlags::PUNCH_HOLE, range),
            DiskKind::File => self.allocate(FallocateFlags::ZERO_RANGE, range),
        };
        match made {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.write_zeros(range),
            made => made,
        }
    }

    fn allocate(&self, flags: FallocateFlags, Range { start, bytes }: Range) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // The disk has its length from the beginning.
        Ok(fallocate(&self.file, flags | FallocateFlags::KEEP_SIZE, start, bytes)?)
    }

    fn control(&self, request: u64, Range { start, bytes }: Range) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let range = [start, bytes];
        // SAFETY: the descriptor is open, and both requests read two numbers, which live here.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), request, range.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn write_zeros(&self, Range { start, bytes }: Range) -> io::Result<()> {
        let (mut at, end) = (start, start.saturating_add(bytes));
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.file.write_all_at(&ZEROS[..length], at)?;
            at += u64::try_from(length).unwrap_or(u64::MAX);
        }
        Ok(())
    }
}

/// Most entries that one call takes (`UIO_MAXIOV`).
const MOST_VECTORS: usize = 1024;

/// Where pieces of guest memory are mapped.
fn vectors(memory: &Memory, pieces: &[Piece]) -> io::Result<Vec<iovec>> {
    let mut list = Vec::with_capacity(pieces.len());
    for &(address, length) in pieces {
        for slice in memory.get_slices(address, length) {
            let slice = slice.map_err(io::Error::other)?;
            list.push(iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() });
        }
    }
    Ok(list)
}

/// What is left of `list` behind its first `bytes`.
fn behind(list: &mut [iovec], mut bytes: usize) -> &mut [iovec] {
    let done = list
        .iter()
        .take_while(|piece| {
            let is_done = bytes >= piece.iov_len;
            bytes -= if is_done { piece.iov_len } else { 0 };
            is_done
        })
        .count();
    let rest = list.get_mut(done..).unwrap_or_default();
    if let Some(first) = rest.first_mut() {
        // SAFETY: so much of this piece is used up, and it has more than that.
        first.iov_base = unsafe { first.iov_base.byte_add(bytes) };
        first.iov_len -= bytes;
    }
    rest
}
