//! Devices that go on from states which nobody has saved, for tests and `tests/fuzz`.

use std::path::Path;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmrun_spec::{Authority, ShareSpec, VsockSpec};

use crate::event_loop::{EventLoop, LoopHandle};
use crate::memory::Memory;
use crate::virtio::balloon::Balloon;
use crate::virtio::fs::Fs;
use crate::virtio::mmio::{MmioTransport, RegisterBoard};
use crate::virtio::rng::Rng;
use crate::virtio::state::{ActiveState, DeviceState, SavedQueue, TransportState};
use crate::virtio::test_queue::Failures;
use crate::virtio::vsock::Vsock;
use crate::virtio::{StateError, VirtioDevice};

const MEMORY_BYTES: usize = 1 << 20;

thread_local! {
    static EVENTS: EventLoop = EventLoop::start(|why| panic!("{why}")).unwrap();
}

/// Restores one device after the other to `states`, over memory that begins with `pages`, in which their queues may lie.
pub(crate) fn run(states: &[TransportState], pages: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
    memory.write_slice(&pages[..pages.len().min(MEMORY_BYTES)], GuestAddress(0)).unwrap();
    let devices = EVENTS.with(|events| devices(&events.handle(), directory.path()));
    for (device, state) in devices.into_iter().zip(states) {
        restore(device, &memory, state);
    }
}

/// Those of a template, in its order, and one that comes later.
fn devices(events: &LoopHandle, directory: &Path) -> [Box<dyn VirtioDevice>; 4] {
    let vsock = VsockSpec { cid: 3, socket: directory.join("vsock") };
    let share = ShareSpec {
        tag: "share".to_owned(),
        directory: directory.to_owned(),
        authority: Authority::default(),
        uncached: None,
        quiet_closes: true,
    };
    [
        Box::new(Vsock::new(&vsock, None, events.clone()).unwrap()),
        Box::new(Rng::new(events.clone())),
        Box::new(Fs::new(&share, Failures::default().sink()).unwrap()),
        Box::new(Balloon::new(events.clone())),
    ]
}

/// A device that has taken a state has what the state says, and nothing that its driver could not have made of it.
fn restore(device: Box<dyn VirtioDevice>, memory: &Memory, state: &TransportState) {
    let page = RegisterBoard::new(1).unwrap().page(0).unwrap();
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    let failures = Failures::default();
    let mut transport =
        MmioTransport::new(device, memory.clone(), page.into(), line, failures.sink()).unwrap();
    if transport.restore(state).is_err() {
        return;
    }
    let saved = match transport.suspend() {
        Ok(saved) => saved,
        // Some of what a guest may have in its rings ends a device, or is known to this process alone.
        Err(StateError::InUse(_) | StateError::Stuck { .. }) => return,
        Err(error) => panic!("a restored device cannot be saved: {error}"),
    };
    assert_eq!(
        (saved.driver_features, saved.active.is_some()),
        (state.driver_features, state.active.is_some())
    );
    let queues = |state: &TransportState| state.active.as_ref().map(|active| active.queues.clone());
    let places = |(number, queue): (u16, SavedQueue)| {
        (number, queue.size, queue.desc_table, queue.avail_ring, queue.used_ring)
    };
    let [before, after] = [state, &saved].map(|state| queues(state).unwrap_or_default());
    let [before, after] = [before, after].map(|queues| queues.into_iter().map(places).collect::<Vec<_>>());
    assert_eq!(after, before);
    for (_, size, descriptors, ..) in after {
        assert!(size.is_power_of_two() && descriptors + 16 * u64::from(size) <= MEMORY_BYTES as u64);
    }
}

/// Of a device of this type whose driver has set up so many queues of 8, the first one at this address.
fn active(device_type: u32, queues: u16, first: u64) -> TransportState {
    let queue = |number: u16| {
        let base = first + u64::from(number) * 0x3000;
        let (desc_table, avail_ring, used_ring) = (base, base + 0x1000, base + 0x2000);
        (number, SavedQueue { size: 8, next_avail: 0, next_used: 0, desc_table, avail_ring, used_ring })
    };
    let queues = (0..queues).map(queue).collect();
    TransportState {
        status: 15,
        queue_select: 0,
        device_features_select: 0,
        driver_features_select: 0,
        driver_features: 1 << 32,
        active: Some(ActiveState { queues, device: DeviceState::nothing(device_type) }),
    }
}

/// A vsock, an rng, a share and a balloon that are in use.
fn in_use(first: u64) -> Vec<TransportState> {
    [(19, 3), (4, 1), (26, 2), (5, 3)].map(|(kind, queues)| active(kind, queues, first)).to_vec()
}

#[test]
fn devices_in_use_go_on_and_those_without_queues_do_not() {
    run(&in_use(0x1000), &[]);
    let none: Vec<_> = in_use(0x1000)
        .into_iter()
        .map(|mut state| {
            state.active.as_mut().unwrap().queues.clear();
            state
        })
        .collect();
    run(&none, &[]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(64)))]

    #[test]
    fn rings_of_any_content_end_a_device_at_most(pages in prop::collection::vec(any::<u8>(), 0..0xa000)) {
        run(&in_use(0), &pages);
    }
}
