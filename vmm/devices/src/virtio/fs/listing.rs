//! Directories as the guest reads them.
//!
//! ```text
//!   host's open directory ─getdents─▶ entries that were read ─▶ one reply: as many as fit
//!                                     └ kept until the guest asks for what comes after them
//! ```
//!
//! A reply takes less than was read, and the guest asks for the rest by the offset of the last entry
//! that it took. Seeking the host's directory there would be wrong: on many file systems an offset is
//! the number of entries before it, and whoever removes what it lists, as `rm -r` does, would skip as
//! many entries as it has removed. So the host's directory is read on from where it stands, which is
//! right on every file system, and seeks only where the guest seeks.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{RawDir, SeekFrom, seek};
use rustix::io::Errno;
use virtiofsd::filesystem::{DirEntry, DirectoryIterator};

/// How much is read of a directory at once: some 200 entries, ten replies.
const BATCH_BYTES: usize = 8 << 10;
/// Size of an entry but for its name.
const HEADER_BYTES: usize = 24;
/// Entries kept for all directories that are open: 20 MB. Beyond that the guest's place in the others
/// is found by seeking.
const MAX_KEPT: usize = 1 << 18;

#[derive(Debug)]
struct Listed {
    inode: u64,
    /// Where the next entry is.
    next: u64,
    kind: u32,
    name: CString,
}

impl Listed {
    fn size(&self) -> usize {
        HEADER_BYTES + self.name.count_bytes()
    }
}

/// What has been read of one open directory, and not by the guest.
#[derive(Debug, Default)]
struct Stream {
    /// The offset of the first of `ahead`, or, if there are none, of the host's directory; none if
    /// that is not known.
    start: Option<u64>,
    ahead: VecDeque<Arc<Listed>>,
}

impl Stream {
    /// What follows `offset`: `wanted` bytes and the rest of an entry, if there are so many.
    fn page(&mut self, directory: &File, wanted: usize, offset: u64) -> io::Result<Page> {
        if !self.skip_to(offset) {
            self.seek(directory, offset)?;
        }
        let known = |stream: &Self| stream.ahead.iter().map(|entry| entry.size()).sum::<usize>();
        while known(self) < wanted && self.read(directory)? {}
        let mut room = wanted;
        let fits = self.ahead.iter().take_while(|entry| {
            let had = room;
            room = room.saturating_sub(entry.size());
            had > 0
        });
        Ok(Page { left: fits.cloned().collect(), current: None })
    }

    /// Drops what lies before `offset`; false if that is not among what is known.
    fn skip_to(&mut self, offset: u64) -> bool {
        // The beginning is where the guest has rewound to: it wants to see what is new.
        if offset == 0 {
            return false;
        }
        if self.start == Some(offset) {
            return true;
        }
        let Some(index) = self.ahead.iter().position(|entry| entry.next == offset) else { return false };
        self.ahead.drain(..=index);
        self.start = Some(offset);
        true
    }

    fn seek(&mut self, directory: &File, offset: u64) -> io::Result<()> {
        self.ahead.clear();
        self.start = None;
        match seek(directory, SeekFrom::Start(offset)) {
            Ok(_) => {}
            // Some network file systems have offsets that no seek takes.
            Err(Errno::INVAL) if i64::try_from(offset).is_err() => self.walk_to(directory, offset)?,
            Err(error) => return Err(error.into()),
        }
        self.start = Some(offset);
        Ok(())
    }

    /// Reads on from the beginning until what follows is at `offset`, or nothing follows.
    fn walk_to(&mut self, directory: &File, offset: u64) -> io::Result<()> {
        seek(directory, SeekFrom::Start(0))?;
        while self.read(directory)? {
            match self.ahead.iter().position(|entry| entry.next == offset) {
                Some(index) => {
                    self.ahead.drain(..=index);
                    return Ok(());
                }
                None => self.ahead.clear(),
            }
        }
        Ok(())
    }

    /// Reads one batch; false at the end.
    fn read(&mut self, directory: &File) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); BATCH_BYTES];
        let mut raw = RawDir::new(directory, &mut buffer);
        let before = self.ahead.len();
        while let Some(entry) = raw.next() {
            let entry = entry?;
            self.ahead.push_back(Arc::new(Listed {
                inode: entry.ino(),
                next: entry.next_entry_cookie(),
                kind: kind(entry.file_type()),
                name: entry.file_name().to_owned(),
            }));
            if raw.is_buffer_empty() {
                break;
            }
        }
        Ok(self.ahead.len() > before)
    }
}

/// `DT_REG` and its like.
fn kind(file_type: rustix::fs::FileType) -> u32 {
    match file_type {
        rustix::fs::FileType::Unknown => u32::from(libc::DT_UNKNOWN),
        // What `st_mode` has in its upper bits.
        known => known.as_raw_mode() >> 12,
    }
}

/// The directories that the guest reads.
#[derive(Debug, Default)]
pub(super) struct Listings {
    open: Mutex<OpenDirectories>,
}

#[derive(Debug, Default)]
struct OpenDirectories {
    /// By their handles.
    streams: HashMap<u64, Stream>,
    /// Entries of all of them.
    kept: usize,
}

impl Listings {
    /// What follows `offset` in `directory`, which is the host's behind `handle`: no less than `size`
    /// bytes, if there is so much and it is no more than a batch.
    pub(super) fn read(&self, handle: u64, directory: &File, size: u32, offset: u64) -> io::Result<Page> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let OpenDirectories { streams, kept } = &mut *open;
        if *kept > MAX_KEPT {
            streams.clear();
            *kept = 0;
        }
        let stream = streams.entry(handle).or_default();
        *kept -= stream.ahead.len();
        let wanted = usize::try_from(size).unwrap_or(BATCH_BYTES).min(BATCH_BYTES);
        let page = stream.page(directory, wanted, offset);
        *kept += stream.ahead.len();
        page
    }

    /// The guest has closed `handle`.
    pub(super) fn close(&self, handle: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = open.streams.remove(&handle) {
            open.kept -= stream.ahead.len();
        }
    }

    /// The guest has no open directories any more.
    pub(super) fn clear(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = OpenDirectories::default();
    }
}

/// Entries for one reply.
#[derive(Debug)]
pub(super) struct Page {
    left: VecDeque<Arc<Listed>>,
    current: Option<Arc<Listed>>,
}

impl DirectoryIterator for Page {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        self.current = self.left.pop_front();
        self.current.as_ref().map(|entry| DirEntry {
            ino: entry.inode,
            offset: entry.next,
            type_: entry.kind,
            name: &entry.name,
        })
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
