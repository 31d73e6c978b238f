//! Who in the guest has locked what, and who waits: plain data.
//!
//! The host decides who gets a lock. This table is for what the host cannot know: whose of the guest's
//! processes a lock is, which locks go when one of them closes a file, and that two of them wait for each
//! other.

use std::collections::{HashMap, HashSet};

use super::super::ids::Handle;
use super::ranges::{Mode, Range, Ranges};

/// An owner of locks: a process, or an open file description.
pub(super) type Owner = u64;

/// A file of the host's, by its device and its number there. Where the guest has the directory of a file
/// by two mounts, the file is two nodes of virtiofsd's, but its locks are the same.
pub(super) type FileId = (u64, u64);

/// The number of a wait.
pub(in super::super) type Ticket = u64;

/// Ranges that may be locked at the same time: each takes memory of the host's kernel and of the monitor.
/// Those that are waited for may come on top.
const MAX_RANGES: usize = 1 << 17;

/// The number of no process: of the owner that is an open file description.
pub(super) const NO_PROCESS: u32 = u32::MAX;

/// What one owner has of one file, and what it has it by.
#[derive(Debug)]
pub(super) struct Holding<F> {
    pub(super) description: F,
    pub(super) ranges: Ranges,
    /// The process that locked last.
    process: u32,
    /// Requests of it that wait.
    waiting: usize,
    /// Handles that it has been locked through.
    handles: Vec<Handle>,
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) file: FileId,
    pub(super) owner: Owner,
    pub(super) range: Range,
    pub(super) process: u32,
    /// Through which it asks.
    pub(super) handle: Handle,
    /// Its process has a signal.
    pub(super) is_interrupted: bool,
}

/// Locks and waits, where `F` is by what the host is asked.
#[derive(Debug)]
pub(super) struct Table<F> {
    holdings: HashMap<(FileId, Owner), Holding<F>>,
    by_handle: HashMap<Handle, HashSet<(FileId, Owner)>>,
    waiting: HashMap<Ticket, Waiting>,
    /// Of how many files each owner has something, or waits for it.
    owners: HashMap<Owner, usize>,
    /// Ranges of all holdings.
    ranges: usize,
    /// Files that the guest has had a shared lock of since nobody else had.
    first_had: HashSet<FileId>,
}

impl<F> Default for Table<F> {
    fn default() -> Self {
        Self {
            holdings: HashMap::new(),
            by_handle: HashMap::new(),
            waiting: HashMap::new(),
            owners: HashMap::new(),
            ranges: 0,
            first_had: HashSet::new(),
        }
    }
}

impl<F> Table<F> {
    pub(super) fn len(&self) -> usize {
        self.holdings.len()
    }

    pub(super) fn get(&mut self, file: FileId, owner: Owner) -> Option<&mut Holding<F>> {
        self.holdings.get_mut(&(file, owner))
    }

    /// Whether there is room for a range more, or for two of one.
    pub(super) fn has_room(&self) -> bool {
        self.ranges + 2 <= MAX_RANGES
    }

    /// Notes that `owner`, which has something of `file` or is about to, has locked a range of it.
    pub(super) fn lock(&mut self, file: FileId, owner: Owner, process: u32, range: Range) {
        self.change(file, owner, |holding| {
            holding.process = process;
            holding.ranges.lock(range);
        });
    }

    /// Notes that `owner` has unlocked a range of `file`.
    pub(super) fn unlock(&mut self, file: FileId, owner: Owner, start: u64, end: u64) {
        self.change(file, owner, |holding| holding.ranges.unlock(start, end));
        self.tidy(file, owner);
    }

    fn change(&mut self, file: FileId, owner: Owner, change: impl FnOnce(&mut Holding<F>)) {
        let Some(holding) = self.holdings.get_mut(&(file, owner)) else { return };
        let before = holding.ranges.len();
        change(holding);
        self.ranges = (self.ranges + holding.ranges.len()).saturating_sub(before);
        if self.first_had.contains(&file) && self.shared(file).next().is_none() {
            self.first_had.remove(&file);
        }
    }

    /// What `owner` has of `file`, which it asks for through `handle`: `description` unless it has something.
    pub(super) fn hold(
        &mut self,
        file: FileId,
        owner: Owner,
        handle: Handle,
        description: F,
    ) -> &mut Holding<F> {
        let key = (file, owner);
        let holding = self.holdings.entry(key).or_insert_with(|| {
            *self.owners.entry(owner).or_default() += 1;
            Holding {
                description,
                ranges: Ranges::default(),
                process: NO_PROCESS,
                waiting: 0,
                handles: Vec::new(),
            }
        });
        if !holding.handles.contains(&handle) {
            holding.handles.push(handle);
            self.by_handle.entry(handle).or_default().insert(key);
        }
        holding
    }

    /// What has waited is granted, through the handle by which it was asked for.
    pub(super) fn granted(&mut self, wait: &Waiting) {
        let key = (wait.file, wait.owner);
        self.lock(wait.file, wait.owner, wait.process, wait.range);
        let Some(holding) = self.holdings.get_mut(&key) else { return };
        if !holding.handles.contains(&wait.handle) {
            holding.handles.push(wait.handle);
            self.by_handle.entry(wait.handle).or_default().insert(key);
        }
    }

    /// Forgets what `owner` has of `file` if it has nothing and waits for nothing.
    pub(super) fn tidy(&mut self, file: FileId, owner: Owner) {
        let idle = |holding: &Holding<F>| holding.ranges.is_empty() && holding.waiting == 0;
        if self.get(file, owner).is_some_and(|holding| idle(holding)) {
            self.forget_handles(file, owner);
            self.holdings.remove(&(file, owner));
            self.disown(owner);
        }
    }

    fn disown(&mut self, owner: Owner) {
        if let Some(files) = self.owners.get_mut(&owner) {
            *files = files.saturating_sub(1);
            if *files == 0 {
                self.owners.remove(&owner);
            }
        }
    }

    /// Whether `owner` has something of any file.
    pub(super) fn knows(&self, owner: Owner) -> bool {
        self.owners.contains_key(&owner)
    }

    /// Forgets through which handles `owner` has locked `file`: those locks are gone, and what it gets
    /// later is not theirs.
    pub(super) fn forget_handles(&mut self, file: FileId, owner: Owner) {
        let handles = self.get(file, owner).map(|holding| std::mem::take(&mut holding.handles));
        for handle in handles.unwrap_or_default() {
            if let Some(keys) = self.by_handle.get_mut(&handle) {
                keys.remove(&(file, owner));
                if keys.is_empty() {
                    self.by_handle.remove(&handle);
                }
            }
        }
    }

    /// What has been locked through `handle`, which the guest gives up.
    pub(super) fn release(&mut self, handle: Handle) -> Vec<(FileId, Owner)> {
        if self.by_handle.is_empty() {
            return Vec::new();
        }
        self.by_handle.remove(&handle).into_iter().flatten().collect()
    }

    /// Notes that nobody outside has a shared lock of `file`: the guest is the first, if it has one.
    pub(super) fn is_first(&mut self, file: FileId) {
        if self.shared(file).next().is_some() {
            self.first_had.insert(file);
        }
    }

    /// Whether the guest has had a shared lock of `file` ever since nobody else had.
    pub(super) fn was_first(&self, file: FileId) -> bool {
        self.first_had.contains(&file)
    }

    /// What all owners of the guest have of `file` in common with whoever else wants it.
    pub(super) fn shared(&self, file: FileId) -> impl Iterator<Item = (&F, Range)> {
        let holdings = self.holdings.iter().filter(move |((of, _), _)| *of == file);
        holdings.flat_map(|(_, holding)| {
            let shared = holding.ranges.iter().filter(|range| range.mode == Mode::Shared);
            shared.map(|range| (&holding.description, *range))
        })
    }

    /// Whether somebody of the guest waits to share this range of `file`, or more.
    pub(super) fn awaits(&self, file: FileId, range: &Range) -> bool {
        let covers = |wait: &Waiting| wait.range.start <= range.start && range.end <= wait.range.end;
        self.waiting.values().any(|wait| wait.file == file && wait.range.mode == Mode::Shared && covers(wait))
    }

    /// The first lock of another owner of the guest that keeps `owner` from `wanted`, and whose it is.
    pub(super) fn conflict(&self, file: FileId, owner: Owner, wanted: &Range) -> Option<(Range, u32)> {
        self.blockers(file, owner, wanted)
            .filter_map(|(_, holding)| Some((holding.ranges.conflict(wanted)?, holding.process)))
            .min_by_key(|(range, _)| range.start)
    }

    fn blockers<'t>(
        &'t self,
        file: FileId,
        owner: Owner,
        wanted: &'t Range,
    ) -> impl Iterator<Item = (Owner, &'t Holding<F>)> {
        let others = self.holdings.iter().filter(move |((of, holder), _)| *of == file && *holder != owner);
        others
            .filter(|(_, holding)| holding.ranges.conflict(wanted).is_some())
            .map(|((_, holder), holding)| (*holder, holding))
    }

    /// Notes that a request waits, under the number `ticket`.
    pub(super) fn wait(&mut self, ticket: Ticket, wait: Waiting) {
        if let Some(holding) = self.get(wait.file, wait.owner) {
            holding.waiting += 1;
        }
        self.waiting.insert(ticket, wait);
    }

    /// The request that waits under that number.
    pub(super) fn waits(&self, ticket: Ticket) -> Option<Waiting> {
        self.waiting.get(&ticket).copied()
    }

    /// The process of the request that waits under that number has a signal.
    pub(super) fn interrupt(&mut self, ticket: Ticket) {
        if let Some(wait) = self.waiting.get_mut(&ticket) {
            wait.is_interrupted = true;
        }
    }

    /// The request does not wait any more.
    pub(super) fn end_wait(&mut self, ticket: Ticket) -> Option<Waiting> {
        let wait = self.waiting.remove(&ticket)?;
        if let Some(holding) = self.get(wait.file, wait.owner) {
            holding.waiting = holding.waiting.saturating_sub(1);
        }
        Some(wait)
    }

    /// Whether whoever keeps `wait` waiting waits for its process, if through others. An open file
    /// description waits for nobody: any process that has it may unlock it.
    pub(super) fn is_deadlock(&self, wait: &Waiting) -> bool {
        if wait.process == NO_PROCESS {
            return false;
        }
        let mut seen = HashSet::new();
        let mut waits = vec![*wait];
        while let Some(blocked) = waits.pop() {
            for (holder, holding) in self.blockers(blocked.file, blocked.owner, &blocked.range) {
                if holding.process == NO_PROCESS {
                    continue;
                }
                if holder == wait.owner {
                    return true;
                }
                if seen.insert(holder) {
                    waits.extend(self.waiting.values().filter(|other| other.owner == holder));
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::ranges::LAST;
    use super::super::ranges::Mode::{Exclusive, Shared};
    use super::*;
    use proptest::prelude::*;

    const ALL: Range = Range { start: 0, end: LAST, mode: Exclusive };

    fn file(number: u64) -> FileId {
        (8, number)
    }

    fn locked(locks: &[(u64, Owner)]) -> Table<()> {
        let mut table = Table::default();
        for &(node, owner) in locks {
            table.hold(file(node), owner, node * 100 + owner, ());
            table.lock(file(node), owner, u32::try_from(owner).unwrap(), ALL);
        }
        table
    }

    fn wait(node: u64, owner: Owner) -> Waiting {
        Waiting {
            file: file(node),
            owner,
            range: ALL,
            process: u32::try_from(owner).unwrap(),
            handle: node * 100 + owner,
            is_interrupted: false,
        }
    }

    fn byte(at: u64, mode: Mode) -> Range {
        Range { start: at, end: at, mode }
    }

    #[test]
    fn conflict_is_told_with_its_process_and_never_with_oneself() {
        let mut table = locked(&[(1, 7)]);
        assert_eq!(table.conflict(file(1), 8, &byte(3, Shared)), Some((ALL, 7)));
        assert_eq!(table.conflict(file(1), 7, &byte(3, Shared)), None);
        assert_eq!(table.conflict(file(2), 8, &byte(3, Shared)), None);
        table.unlock(file(1), 7, 3, 3);
        assert_eq!(table.conflict(file(1), 8, &byte(3, Shared)), None);
    }

    #[test]
    fn two_that_wait_for_each_other_are_found() {
        let mut table = locked(&[(1, 7), (2, 8)]);
        assert!(!table.is_deadlock(&wait(2, 7)));
        table.wait(50, wait(2, 7));
        assert!(table.is_deadlock(&wait(1, 8)));
        table.end_wait(50);
        assert!(!table.is_deadlock(&wait(1, 8)));
    }

    #[test]
    fn circle_of_three_is_found_and_a_chain_is_none() {
        let mut table = locked(&[(1, 7), (2, 8), (3, 9)]);
        table.wait(50, wait(2, 7));
        table.wait(51, wait(3, 8));
        assert!(!table.is_deadlock(&wait(3, 7)));
        assert!(table.is_deadlock(&wait(1, 9)));
    }

    #[test]
    fn open_file_descriptions_make_no_circle() {
        let mut table = locked(&[(1, 7), (2, 8)]);
        table.wait(50, wait(2, 7));
        let mut by_description = wait(1, 8);
        by_description.process = NO_PROCESS;
        assert!(!table.is_deadlock(&by_description));
        table.get(file(1), 7).unwrap().process = NO_PROCESS;
        assert!(!table.is_deadlock(&wait(1, 8)));
    }

    #[test]
    fn holding_lives_while_it_is_locked_or_waits() {
        let mut table = locked(&[(1, 7)]);
        table.tidy(file(1), 7);
        assert_eq!(table.len(), 1);
        table.wait(50, wait(1, 7));
        table.unlock(file(1), 7, 0, LAST);
        assert_eq!(table.len(), 1);
        table.end_wait(50);
        table.tidy(file(1), 7);
        assert_eq!((table.len(), table.by_handle.len(), table.knows(7)), (0, 0, false));
    }

    #[test]
    fn handle_that_the_owner_has_closed_does_not_unlock_what_it_gets_later() {
        let mut table = locked(&[(1, 7)]);
        let wait = Waiting { handle: 200, ..wait(1, 7) };
        table.wait(50, wait);
        table.unlock(file(1), 7, 0, LAST);
        table.forget_handles(file(1), 7);
        assert_eq!(table.end_wait(50), Some(wait));
        table.granted(&wait);
        assert_eq!(table.release(107), []);
        assert_eq!(table.release(200), [(file(1), 7)]);
    }

    proptest! {
        /// Whoever locks and unlocks what, the count is what is there, and no more than there may be.
        #[test]
        fn ranges_are_counted(
            acts in prop::collection::vec((0u64..3, 0u64..3, 0u64..40, 0u64..10, 0u8..3), 0..60),
        ) {
            let mut table = Table::default();
            for (node, owner, start, more, act) in acts {
                let (end, before) = (start + more, table.ranges);
                match act {
                    0 => table.unlock(file(node), owner, start, end),
                    _ => {
                        table.hold(file(node), owner, 1, ());
                        let mode = if act == 1 { Shared } else { Exclusive };
                        table.lock(file(node), owner, 1, Range { start, end, mode });
                    }
                }
                let there: usize = table.holdings.values().map(|holding| holding.ranges.len()).sum();
                prop_assert_eq!(table.ranges, there);
                prop_assert!(there <= before + 2);
            }
        }
    }

    #[test]
    fn there_is_room_for_so_many_ranges_and_again_when_they_are_gone() {
        let mut table = Table::default();
        // Every other byte.
        let locks = (1..).flat_map(|owner| (0..128).map(move |at| (owner, 2 * at)));
        for (owner, at) in locks.take(MAX_RANGES - 1) {
            assert!(table.has_room());
            table.hold(file(1), owner, owner, ());
            table.lock(file(1), owner, 7, byte(at, Shared));
        }
        assert!(!table.has_room());
        table.unlock(file(1), 1, 0, LAST);
        assert!(table.has_room());
    }

    #[test]
    fn released_handle_tells_what_was_locked_through_it() {
        let mut table = locked(&[(1, 7), (1, 8)]);
        assert_eq!(table.release(108), [(file(1), 8)]);
        assert_eq!(table.release(108), []);
        assert_eq!(table.release(107), [(file(1), 7)]);
    }
}
