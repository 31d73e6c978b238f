use vm_memory::Bytes;

use super::*;
use crate::snapshot::memory::{Extent, place};

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
    assert_eq!(record(&memory, &saved, &pagemap(), false).unwrap(), []);
    for page in [300u64, 301, 302, 400, 4000] {
        memory.write_obj(7u8, GuestAddress(page * 4096 + 9)).unwrap();
    }
    assert_eq!(memory.read_obj::<u8>(GuestAddress(500 * 4096)).unwrap(), 0);
    let expected =
        [(300, 3), (400, 1), (4000, 1)].map(|(first, count)| PageRun { first, count, ahead: Ahead::Copied });
    assert_eq!(record(&memory, &saved, &pagemap(), false).unwrap(), expected);
}

#[test]
fn recorded_pages_are_copied_and_their_content_stays() {
    let (memory, saved) = restored();
    let set = [(300, 3), (400, 1)].map(|(first, count)| PageRun { first, count, ahead: Ahead::Copied });
    copy_ahead(&memory, &set, &saved);
    assert_eq!(record(&memory, &saved, &pagemap(), false).unwrap(), set);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(300 * 4096)).unwrap(), 0);
}

#[test]
fn sets_that_cannot_be_harm_nothing() {
    let (memory, saved) = restored();
    let run = |first, count| PageRun { first, count, ahead: Ahead::Copied };
    for set in [vec![run(u32::MAX, u32::MAX)], vec![run(0, 0)], vec![run(16384, 1)], vec![run(16383, 2)]] {
        copy_ahead(&memory, &set, &saved);
    }
    // More than there may be.
    copy_ahead(&memory, &[run(256, 4096)], &saved);
    // There a huge page may come, or at the end.
    copy_ahead(&memory, &[run(5000, 1), run(4607, 2)], &saved);
    let everything: Vec<_> = std::iter::once(0..64 << 20).collect();
    assert_eq!(record(&memory, &everything, &pagemap(), false).unwrap(), []);
    let halves = [8 << 20..17 << 20, 1 << 20..8 << 20];
    copy_ahead(&memory, &[run(2047, 2)], &halves);
    assert_eq!(record(&memory, &saved, &pagemap(), false).unwrap(), [run(2047, 2)]);
}

#[test]
fn what_has_no_room_is_left_out() {
    let taken = |pages: &mut dyn Iterator<Item = u32>| {
        let mut runs = Runs::of(Ahead::Copied, MOST_COPIED);
        pages.for_each(|page| runs.take(page, 0));
        runs.runs
    };
    assert_eq!(taken(&mut (0..4000).map(|page| page * 2)).len(), MOST_RUNS);
    assert_eq!(taken(&mut (0..4000)), [PageRun { first: 0, count: 3072, ahead: Ahead::Copied }]);
}

#[test]
fn pages_near_each_other_are_one_run_unless_a_range_begins_between_them() {
    let mut runs = Runs::of(Ahead::Mapped, 100);
    for page in [3, 6, 7, 11, 12] {
        runs.take(page, 2);
    }
    runs.begins = 13;
    runs.take(14, 2);
    let expected =
        [(3, 5), (11, 2), (14, 1)].map(|(first, count)| PageRun { first, count, ahead: Ahead::Mapped });
    assert_eq!(runs.runs, expected);
}

#[test]
fn pages_that_are_read_are_recorded_by_themselves_where_they_are_apart() {
    let (memory, saved) = restored();
    assert!(set_apart(&memory, &saved, 4095).is_err());
    set_apart(&memory, &saved, 4096).unwrap();
    memory.write_obj(7u8, GuestAddress(300 * 4096)).unwrap();
    for page in [500u64, 501, 510, 4000] {
        assert_eq!(memory.read_obj::<u8>(GuestAddress(page * 4096)).unwrap(), 0);
    }
    let run = |ahead| move |(first, count)| PageRun { first, count, ahead };
    let copied = [(300, 1)].map(run(Ahead::Copied));
    let mapped = [(300, 1), (500, 2), (510, 1), (4000, 1)].map(run(Ahead::Mapped));
    let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    assert_eq!(record(&memory, &saved, &pagemap(), true).unwrap(), [&copied[..], &mapped].concat());
    let apart = mappings();
    join(&memory, &saved);
    assert!(mappings() + 4000 < apart, "{apart} mappings");
}

#[test]
fn blocks_are_whole_and_of_this_memory() {
    let memory = crate::memory::map(64).unwrap();
    let of = |saved: &[Range<u64>]| blocks(&memory, saved);
    let mib = |start: u64, end: u64| start << 20..end << 20;
    assert_eq!(of(&[mib(1, 3), mib(9, 10), 0x40_1000..0x40_2000]), [mib(0, 6), mib(8, 10)]);
    assert_eq!(of(&[mib(63, 65), mib(70, 71), u64::MAX - 9..u64::MAX]), [mib(62, 64)]);
}
