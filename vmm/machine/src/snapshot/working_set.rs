//! The working set of a start: the saved pages that it writes, and those that it touches at all.
//!
//! A page of a saved machine that is read first and written later costs the guest three exits: it is mapped for reading; the
//! write has the host copy it, which takes the mapping away; the guest comes once more. Copied before the guest runs it costs
//! one, and none where KVM maps it for the guest, too ([`super::pre_fault`]). Which pages those are hardly differs from start
//! to start, so the first one tells the others. (REAP, Ustiugov et al., "Benchmarking, Analysis, and Optimization of
//! Serverless Function Snapshots", ASPLOS 2021.)

use std::fs::File;
use std::io;
use std::ops::Range;

use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use vm_memory::bitmap::MS;
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryRegion, VolatileSlice};
use vmrun_devices::Memory;

use super::pagemap::{self, PAGE};
use super::pre_fault;
use crate::mapped;

/// More are not copied ahead: 12 MiB.
const MOST_COPIED: usize = 3072;

/// No more are mapped ahead: 32 MiB.
const MOST_MAPPED: usize = 8192;

/// More runs of a kind have no room in a message. A start copies some 250, and maps some 400.
const MOST_RUNS: usize = 800;

/// A huge page.
const BLOCK: u64 = crate::layout::HUGE_PAGE_BYTES as u64;

/// Pages that nobody touches and that lie between two that are touched: so many are mapped with them, since each run is a
/// call.
const GAP_PAGES: u32 = 2;

/// Pages of guest memory that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageRun {
    /// The number of the first one: its guest physical address, in pages of 4 KiB.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// What is done for them.
    #[serde(default, skip_serializing_if = "Ahead::is_copied")]
    pub ahead: Ahead,
}

/// What is done for pages before the guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ahead {
    /// They become the machine's own: the guest writes to them.
    #[default]
    Copied,
    /// KVM maps them, whoever's they are: the guest reads or writes them.
    Mapped,
}

impl Ahead {
    fn is_copied(&self) -> bool {
        *self == Self::Copied
    }
}

/// Which pages in the [blocks](blocks) of `saved`, in guest physical addresses, have been written since those were mapped, and with
/// `reads` also which have been touched: that is known where they were [set apart](set_apart). What has no room is left out.
pub(crate) fn record(
    memory: &Memory,
    saved: &[Range<u64>],
    pagemap: &File,
    reads: bool,
) -> io::Result<Vec<PageRun>> {
    let (mut copied, mut mapped) =
        (Runs::of(Ahead::Copied, MOST_COPIED), Runs::of(Ahead::Mapped, MOST_MAPPED));
    for range in blocks(memory, saved) {
        let pages = slice(memory, &range)?;
        let entries = pagemap::entries(pages.ptr_guard().as_ptr().addr(), pages.len(), pagemap)?;
        let first = u32::try_from(range.start / PAGE as u64).map_err(io::Error::other)?;
        (copied.begins, mapped.begins) = (first, first);
        for (page, entry) in (first..).zip(&entries) {
            if entry.is_own() {
                copied.take(page, 0);
            }
            if reads && entry.is_there() {
                mapped.take(page, GAP_PAGES);
            }
        }
    }
    Ok([copied.runs, mapped.runs].concat())
}

/// Runs of pages that come in ascending order.
struct Runs {
    runs: Vec<PageRun>,
    ahead: Ahead,
    /// How many pages more there may be.
    room: usize,
    /// No run of a range of memory begins before its first page.
    begins: u32,
}

impl Runs {
    fn of(ahead: Ahead, room: usize) -> Self {
        Self { runs: Vec::new(), ahead, room, begins: 0 }
    }

    /// Takes one page more, and up to `gap` of those that lie before it.
    fn take(&mut self, page: u32, gap: u32) {
        let is_full = self.runs.len() == MOST_RUNS;
        let (begins, ahead) = (self.begins, self.ahead);
        let last = self.runs.last_mut().filter(|run| run.first >= begins);
        let near = last.filter(|run| page - (run.first + run.count) <= gap);
        let count = near.as_ref().map_or(1, |run| page + 1 - (run.first + run.count));
        let Some(left) = self.room.checked_sub(count as usize) else { return };
        match near {
            Some(run) => run.count += count,
            None if is_full => return,
            None => self.runs.push(PageRun { first: page, count, ahead }),
        }
        self.room = left;
    }
}

/// Has the host map each page of `saved` when it is touched itself. It would map 16 where one is read (`do_fault_around` of
/// mm/memory.c), as far as they are in the same mapping: so neighbours are given different advice, which makes each a
/// mapping of its own.
///
/// # Errors
/// The host's limit of mappings (`vm.max_map_count`), or another. None is apart then.
pub(crate) fn set_apart(memory: &Memory, saved: &[Range<u64>], most: usize) -> io::Result<()> {
    let ranges = merged(saved);
    let pages = ranges.iter().map(|range| range.end.saturating_sub(range.start) / PAGE as u64);
    if pages.sum::<u64>() > most as u64 {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    halve(memory, &ranges).inspect_err(|_| join(memory, saved))
}

/// How many mappings this process may have for [`set_apart`]: half of what the host allows it.
pub(crate) fn room_for_mappings() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    limit.and_then(|text| text.trim().parse::<usize>().ok()).map_or(0, |limit| limit / 2)
}

/// Gives every second page other advice than its neighbours have.
fn halve(memory: &Memory, ranges: &[Range<u64>]) -> io::Result<()> {
    for range in ranges {
        let pages = slice(memory, range)?;
        let target = pages.ptr_guard_mut();
        for at in (0..pages.len()).step_by(2 * PAGE) {
            mapped::set_inherited(target.as_ptr().wrapping_add(at), PAGE, false)?;
        }
    }
    Ok(())
}

/// Undoes that, as far as the host can: pages that were written meanwhile stay mappings of their own (`is_mergeable_anon_vma` of
/// mm/vma.c), some hundreds.
pub(crate) fn join(memory: &Memory, saved: &[Range<u64>]) {
    for range in merged(saved) {
        let Ok(pages) = slice(memory, &range) else { continue };
        let _ = mapped::set_inherited(pages.ptr_guard_mut().as_ptr(), pages.len(), true);
    }
}

fn slice<'a>(memory: &'a Memory, range: &Range<u64>) -> io::Result<VolatileSlice<'a, MS<'a, Memory>>> {
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    memory.get_slice(GuestAddress(range.start), length).map_err(io::Error::other)
}

/// Makes these pages in the [blocks](blocks) of `saved` the machine's own before somebody writes to them. Others, of which the host
/// may give a huge page at once, and what is too much are left: each is copied where it is written then.
pub(crate) fn copy_ahead(memory: &Memory, set: &[PageRun], saved: &[Range<u64>]) {
    for range in believed(set, Ahead::Copied, MOST_COPIED, &blocks(memory, saved)) {
        let Ok(pages) = slice(memory, &range) else { continue };
        // Linux 5.14 or later.
        if mapped::populate(pages.ptr_guard_mut().as_ptr(), pages.len()).is_err() {
            return;
        }
    }
}

/// Has KVM map these pages in the [blocks](blocks) of `saved`, in the guest physical addresses of the machine of `vcpu`, which
/// stands still. Where it cannot, the guest takes a fault for each.
pub(crate) fn map_ahead(vcpu: &VcpuFd, memory: &Memory, set: &[PageRun], saved: &[Range<u64>]) {
    for range in believed(set, Ahead::Mapped, MOST_MAPPED, &blocks(memory, saved)) {
        if pre_fault::map(vcpu, range).is_err() {
            return;
        }
    }
}

/// The runs of a kind, in bytes of guest physical addresses: those which are in `blocks`, and no more than there is room for.
fn believed(set: &[PageRun], ahead: Ahead, most: usize, blocks: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut room = most;
    let of_kind = set.iter().filter(|run| run.ahead == ahead).take(MOST_RUNS);
    let fitting = of_kind.map_while(|run| {
        room = room.checked_sub(usize::try_from(run.count).ok()?)?;
        let start = u64::from(run.first) * PAGE as u64;
        Some(start..start.saturating_add(u64::from(run.count) * PAGE as u64))
    });
    fitting
        .filter(|run| blocks.iter().any(|range| range.start <= run.start && run.end <= range.end))
        .collect()
}

/// The blocks of memory, of the size of a huge page, of which some is in `saved`. The rest of such a block comes in small pages,
/// too: beside a mapping of a file there is no room for a huge one.
fn blocks(memory: &Memory, saved: &[Range<u64>]) -> Vec<Range<u64>> {
    let regions = memory.iter().map(|region| {
        let start = region.start_addr().raw_value();
        start..start.saturating_add(region.len())
    });
    let within = |region: Range<u64>| {
        let blocks = saved.iter().map(move |range| {
            let start = range.start / BLOCK * BLOCK;
            let end = range.end.checked_next_multiple_of(BLOCK).unwrap_or(range.end);
            start.max(region.start)..end.min(region.end)
        });
        blocks.filter(|block| block.start < block.end)
    };
    merged(&regions.flat_map(within).collect::<Vec<_>>())
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
#[path = "working_set_tests.rs"]
mod tests;
