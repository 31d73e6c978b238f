use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use super::*;
use crate::event_loop::EventLoop;
use crate::virtio::test_queue::{Buffer, TestQueue, WRITE, memory, queue_numbered, queue_with_chains};

/// Behind the queue, and of whole pages.
const FREE: u64 = 0x1_0000;
const PAGE: u64 = 4096;

fn reports(memory: &Memory, chains: &[&[Buffer]]) -> TestQueue {
    queue_numbered(2, queue_with_chains(memory, chains))
}

fn byte(memory: &Memory, at: u64) -> u8 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

/// Memory whose free part is not zeros.
fn filled() -> Memory {
    let memory = memory();
    memory.write_slice(&vec![7; 0x1_0000], GuestAddress(FREE)).unwrap();
    memory
}

fn served(test: &mut TestQueue) -> (Result<(), BalloonError>, (u64, u64)) {
    let figures = Figures::default();
    let result = serve(&mut test.queue, &figures);
    (result, (figures.ranges.get(), figures.bytes.get()))
}

/// Which pages of the process are there.
fn resident(memory: &Memory, at: u64) -> bool {
    let address = memory.get_host_address(GuestAddress(at)).unwrap().addr();
    let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
    let mut entry = [0; 8];
    let place = u64::try_from(address / 4096 * 8).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&pagemap, &mut entry, place).unwrap();
    u64::from_le_bytes(entry) >> 63 == 1
}

#[test]
fn reported_pages_are_the_hosts_again_and_their_neighbours_the_guests() {
    let memory = filled();
    let chain = [(FREE + PAGE, 4096, WRITE), (FREE + 4 * PAGE, 8192, WRITE)];
    let mut test = reports(&memory, &[&chain]);
    let (result, figures) = served(&mut test);
    result.unwrap();
    assert_eq!(test.used(), [(0, 0)]);
    assert_eq!(figures, (2, 3 * PAGE));
    let there: Vec<_> = (0..7).map(|page| resident(&memory, FREE + page * PAGE)).collect();
    assert_eq!(there, [true, false, true, true, false, false, true]);
    assert_eq!((byte(&memory, FREE + PAGE - 1), byte(&memory, FREE + 2 * PAGE)), (7, 7));
    assert_eq!((byte(&memory, FREE + PAGE), byte(&memory, FREE + 6 * PAGE - 1)), (0, 0));
    memory.write_obj(9u8, GuestAddress(FREE + PAGE)).unwrap();
    assert_eq!(byte(&memory, FREE + PAGE), 9);
}

#[test]
fn parts_of_pages_stay_and_so_does_what_the_device_must_not_write() {
    let memory = filled();
    let chains: [&[Buffer]; 3] = [
        &[(FREE + 1, 4096, WRITE)],
        &[(FREE + PAGE + 1, 8192, WRITE)],
        &[(FREE + 4 * PAGE, 4096, 0), (FREE + 5 * PAGE, 0, WRITE)],
    ];
    let mut test = reports(&memory, &chains);
    let (result, figures) = served(&mut test);
    result.unwrap();
    assert_eq!((test.used().len(), figures), (3, (3, PAGE)));
    let there: Vec<_> = (0..6).map(|page| resident(&memory, FREE + page * PAGE)).collect();
    assert_eq!(there, [true, true, false, true, true, true]);
}

#[test]
fn pages_that_are_no_memory_are_the_end() {
    for range in [(1 << 40, 4096), (0x1_f000, 8192), (u64::MAX - 4095, 4096)] {
        let memory = filled();
        let mut test = reports(&memory, &[&[(range.0, range.1, WRITE)]]);
        let (result, _) = served(&mut test);
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("the guest reported pages that are no memory"), "{error}");
    }
}

#[test]
fn queue_that_reports_itself_is_the_guests_own_loss() {
    let memory = memory();
    let mut test = reports(&memory, &[&[(0, 0x2_0000, WRITE)]]);
    // Rings of zeros, which are empty, or broken.
    let _ = served(&mut test);
    let _ = served(&mut test);
}

#[test]
fn balloon_that_is_filled_unasked_holds_nothing() {
    let memory = filled();
    memory.write_obj(u32::try_from(FREE / PAGE).unwrap(), GuestAddress(FREE)).unwrap();
    let mut test = queue_with_chains(&memory, &[&[(FREE, 4, 0)]]);
    let (result, figures) = served(&mut test);
    result.unwrap();
    assert_eq!((test.used(), figures), (vec![(0, 0)], (0, 0)));
    assert!(resident(&memory, FREE));
}

#[test]
fn active_device_serves_kicks_and_gives_its_queues_back() {
    let events = EventLoop::start(|why| panic!("{why}")).unwrap();
    let mut balloon = Balloon::new(events.handle());
    let memory = filled();
    let mut activation = reports(&memory, &[&[(FREE, 4096, WRITE)]]).activation();
    assert_eq!(activation.queues.len(), 1);
    activation.queues.first().unwrap().as_ref().unwrap().kick().write(1).unwrap();
    balloon.activate(activation).unwrap();
    while balloon.counters().read() != [("reported_ranges", 1), ("reported_bytes", 4096)] {
        std::thread::yield_now();
    }
    let suspended = balloon.suspend().unwrap();
    assert!(balloon.suspend().is_none());
    assert_eq!(suspended.queues.len(), 1);
    let state = suspended.state.unwrap();
    balloon.restore(&state).unwrap();
    assert_eq!(balloon.restore(&DeviceState { bytes: vec![1], ..state }), Err(StateError::Damaged(NAME)),);
    activation = queue_with_chains(&memory, &[]).activation();
    activation.queues.clear();
    assert!(balloon.activate(activation).is_err());
}

/// Runs a driver's `program`: ranges of 16 bytes each, in chains of up to four, of the reporting queue or another.
pub(crate) fn run(program: &[u8]) {
    let memory = memory();
    let mut chains = Vec::new();
    for step in program.chunks(64).take(4) {
        let ranges = step.chunks_exact(16).map(|range| {
            let (address, rest) = range.split_first_chunk::<8>().unwrap();
            let (length, rest) = rest.split_first_chunk::<4>().unwrap();
            // Most of them where there is memory.
            let shift = u32::from(rest[0] % 64);
            (
                u64::from_le_bytes(*address) >> shift,
                u32::from_le_bytes(*length) >> (shift / 2),
                u16::from(rest[1]) & 3,
            )
        });
        chains.push(ranges.collect::<Vec<_>>());
    }
    let chains: Vec<_> = chains.iter().filter(|chain| !chain.is_empty()).map(Vec::as_slice).collect();
    let number = u16::from(program.first().is_none_or(|first| first % 8 > 0)) * 2;
    let mut test = queue_numbered(number, queue_with_chains(&memory, &chains));
    let (result, (_, bytes)) = served(&mut test);
    assert!(result.is_err() || bytes == 0 || number == 2);
    let _ = served(&mut test);
}

proptest! {
    #[test]
    fn arbitrary_reports_never_panic(program in prop::collection::vec(any::<u8>(), 0..256)) {
        run(&program);
    }
}
