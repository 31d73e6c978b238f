//! The working set of a start: the saved pages that it writes.
//!
//! A page of a saved machine that is read first and written later costs the guest three exits: it is mapped for reading; the
//! write has the host copy it, which takes the mapping away; the guest comes once more. Copied before the guest runs it costs
//! one. Which pages those are hardly differs from start to start, so the first one tells the others. (REAP, Ustiugov et
//! al., "Benchmarking, Analysis, and Optimization of Serverless Function Snapshots", ASPLOS 2021, records what is read,
//! too: there it comes from a disk.)

use std::fs::File;
use std::io;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use vm_memory::{GuestAddress, GuestMemory};
use vmrun_devices::Memory;

use super::pagemap::{self, PAGE};
use crate::mapped;

/// More are not copied ahead: 8 MiB.
const MOST_PAGES: usize = 2048;

/// More runs have no room in a message. A start has some 250.
const MOST_RUNS: usize = 1500;

/// Pages of guest memory that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageRun {
    /// The number of the first one: its guest physical address, in pages of 4 KiB.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Which pages of `saved`, in guest physical addresses, have been written since they were mapped there. What has no room
/// is left out.
pub(crate) fn record(memory: &Memory, saved: &[Range<u64>], pagemap: &File) -> io::Result<Vec<PageRun>> {
    let mut written = Vec::new();
    for range in saved {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let slice = memory.get_slice(GuestAddress(range.start), length).map_err(io::Error::other)?;
        let entries = pagemap::entries(slice.ptr_guard().as_ptr().addr(), length, pagemap)?;
        let first = range.start / PAGE as u64;
        let own = (first..).zip(&entries).filter(|(_, entry)| entry.is_own());
        written.extend(own.filter_map(|(page, _)| u32::try_from(page).ok()));
    }
    written.sort_unstable();
    written.dedup();
    Ok(runs(&written))
}

/// Pages in ascending order, as runs.
fn runs(pages: &[u32]) -> Vec<PageRun> {
    let mut runs: Vec<PageRun> = Vec::new();
    for page in pages.iter().copied().take(MOST_PAGES) {
        let is_full = runs.len() == MOST_RUNS;
        match runs.last_mut() {
            Some(run) if run.first + run.count == page => run.count += 1,
            _ if is_full => break,
            _ => runs.push(PageRun { first: page, count: 1 }),
        }
    }
    runs
}

/// Copies these pages of `saved` before somebody writes to them. Others, of which the host may give a huge page at once, and what
/// is too much are left: each is copied where it is written then.
pub(crate) fn copy_ahead(memory: &Memory, set: &[PageRun], saved: &[Range<u64>]) {
    let saved = merged(saved);
    let mut room = MOST_PAGES;
    for run in set.iter().take(MOST_RUNS) {
        let (Ok(count), address) = (usize::try_from(run.count), u64::from(run.first) * PAGE as u64) else {
            return;
        };
        let Some(left) = room.checked_sub(count) else { return };
        room = left;
        let end = address.saturating_add(u64::from(run.count) * PAGE as u64);
        if !saved.iter().any(|range| range.start <= address && end <= range.end) {
            continue;
        }
        let Ok(pages) = memory.get_slice(GuestAddress(address), count * PAGE) else { continue };
        // Linux 5.14 or later.
        if mapped::populate(pages.ptr_guard_mut().as_ptr(), count * PAGE).is_err() {
            return;
        }
    }
}

/// The same ranges, each as long as it can be.
fn merged(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::super::memory::{Extent, place};
    use super::*;

    fn pagemap() -> File {
        File::open("/proc/self/pagemap").unwrap()
    }

    /// 16 MiB of a file at 1 MiB.
    fn restored() -> (Memory, Vec<Range<u64>>) {
        let memory = crate::memory::map(64).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 << 20).unwrap();
        place(&memory, &[Extent { address: 1 << 20, offset: 0, bytes: 16 << 20 }], &file).unwrap();
        (memory, std::iter::once(1 << 20..17 << 20).collect())
    }

    #[test]
    fn pages_that_are_written_are_recorded_and_those_that_are_read_are_not() {
        let (memory, saved) = restored();
        assert_eq!(record(&memory, &saved, &pagemap()).unwrap(), []);
        for page in [300u64, 301, 302, 400, 4000] {
            memory.write_obj(7u8, GuestAddress(page * 4096 + 9)).unwrap();
        }
        assert_eq!(memory.read_obj::<u8>(GuestAddress(500 * 4096)).unwrap(), 0);
        let expected = [(300, 3), (400, 1), (4000, 1)].map(|(first, count)| PageRun { first, count });
        assert_eq!(record(&memory, &saved, &pagemap()).unwrap(), expected);
    }

    #[test]
    fn recorded_pages_are_copied_and_their_content_stays() {
        let (memory, saved) = restored();
        let set = [(300, 3), (400, 1)].map(|(first, count)| PageRun { first, count });
        copy_ahead(&memory, &set, &saved);
        assert_eq!(record(&memory, &saved, &pagemap()).unwrap(), set);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(300 * 4096)).unwrap(), 0);
    }

    #[test]
    fn sets_that_cannot_be_harm_nothing() {
        let (memory, saved) = restored();
        let run = |first, count| PageRun { first, count };
        for set in [vec![run(u32::MAX, u32::MAX)], vec![run(0, 0)], vec![run(16384, 1)], vec![run(16383, 2)]]
        {
            copy_ahead(&memory, &set, &saved);
        }
        // More than there may be.
        copy_ahead(&memory, &[run(256, 4096)], &saved);
        // Nothing of this was saved, or not all.
        copy_ahead(&memory, &[run(5000, 1), run(4351, 2), run(255, 2)], &saved);
        let everything: Vec<_> = std::iter::once(0..64 << 20).collect();
        assert_eq!(record(&memory, &everything, &pagemap()).unwrap(), []);
        let halves = [8 << 20..17 << 20, 1 << 20..8 << 20];
        copy_ahead(&memory, &[run(2047, 2)], &halves);
        assert_eq!(record(&memory, &saved, &pagemap()).unwrap(), [run(2047, 2)]);
    }

    #[test]
    fn what_has_no_room_is_left_out() {
        let scattered: Vec<u32> = (0..4000).map(|page| page * 2).collect();
        assert_eq!(runs(&scattered).len(), MOST_RUNS);
        let together: Vec<u32> = (0..4000).collect();
        assert_eq!(runs(&together), [PageRun { first: 0, count: 2048 }]);
    }
}
