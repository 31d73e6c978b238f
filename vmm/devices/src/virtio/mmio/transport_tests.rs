use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_INTERRUPT_STATUS};
use vm_memory::GuestAddress;

use super::super::register_page::RegisterBoard;
use super::super::slot::Slot;
use super::*;
use crate::virtio::config_space::ConfigSpace;
use crate::virtio::state::{ActiveState, DeviceState, SavedQueue, StateError, Suspended, TransportState};
use crate::virtio::test_queue::Failures;

#[derive(Default)]
struct Log {
    activations: usize,
    resets: usize,
    queues: Vec<bool>,
    features: u64,
    written: Vec<(u64, Vec<u8>)>,
    failures: Failures,
}

struct Fake {
    log: Arc<Mutex<Log>>,
    config: Arc<ConfigSpace>,
    active: Option<Activation>,
}

impl VirtioDevice for Fake {
    fn device_type(&self) -> u32 {
        4
    }
    fn name(&self) -> &'static str {
        "fake"
    }
    fn features(&self) -> u64 {
        1 << 5
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16, 8]
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn write_config(&mut self, at: u64, data: &[u8]) {
        self.log.lock().unwrap().written.push((at, data.to_vec()));
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut log = self.log.lock().unwrap();
        log.activations += 1;
        log.features = activation.features;
        log.queues = activation.queues.iter().map(Option::is_some).collect();
        self.active = Some(activation);
        Ok(())
    }
    fn suspend(&mut self) -> Option<Suspended> {
        self.log.lock().unwrap().resets += 1;
        let queues = self.active.take()?.queues.into_iter().flatten().collect();
        Some(Suspended { queues, state: Ok(DeviceState::nothing(4)) })
    }
    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        state.is_nothing(self.name(), 4)
    }
}

fn transport() -> (MmioTransport, Arc<Mutex<Log>>) {
    let (transport, log, _) = transport_with_config();
    (transport, log)
}

fn page() -> RegisterPage {
    RegisterBoard::new(1).unwrap().page(0).unwrap()
}

fn transport_with_config() -> (MmioTransport, Arc<Mutex<Log>>, Arc<ConfigSpace>) {
    transport_in(&Arc::new(page()))
}

fn transport_in(page: &Arc<RegisterPage>) -> (MmioTransport, Arc<Mutex<Log>>, Arc<ConfigSpace>) {
    let memory = Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    let log = Arc::new(Mutex::new(Log::default()));
    let failures = log.lock().unwrap().failures.sink();
    let config = Arc::new(ConfigSpace::new([1, 2, 3, 4, 5, 6, 7, 8]));
    let device = Fake { log: Arc::clone(&log), config: Arc::clone(&config), active: None };
    let transport = MmioTransport::new(Box::new(device), memory, Arc::clone(page), line, failures).unwrap();
    (transport, log, config)
}

fn read(transport: &mut MmioTransport, register: u32) -> u32 {
    let mut bytes = [0; 4];
    transport.read(register.into(), &mut bytes);
    u32::from_le_bytes(bytes)
}

fn write(transport: &mut MmioTransport, register: u32, value: u32) {
    transport.write(register.into(), &value.to_le_bytes());
}

/// Everything that a driver does up to `FEATURES_OK`, and the status after it.
fn negotiate(transport: &mut MmioTransport, high_features: u32) -> u32 {
    write(transport, VIRTIO_MMIO_STATUS, 0);
    write(transport, VIRTIO_MMIO_STATUS, 1);
    write(transport, VIRTIO_MMIO_STATUS, 3);
    write(transport, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    write(transport, VIRTIO_MMIO_DRIVER_FEATURES, high_features);
    write(transport, VIRTIO_MMIO_STATUS, 11);
    read(transport, VIRTIO_MMIO_STATUS)
}

fn set_up_queues(transport: &mut MmioTransport) {
    for (queue, base) in [(0, 0x1000), (1, 0x4000)] {
        write(transport, VIRTIO_MMIO_QUEUE_SEL, queue);
        write(transport, VIRTIO_MMIO_QUEUE_NUM, 8);
        write(transport, VIRTIO_MMIO_QUEUE_DESC_LOW, base);
        write(transport, VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + 0x1000);
        write(transport, VIRTIO_MMIO_QUEUE_USED_LOW, base + 0x2000);
        write(transport, VIRTIO_MMIO_QUEUE_READY, 1);
    }
}

#[test]
fn identity_registers_are_those_of_the_specification() {
    let (mut transport, _) = transport();
    assert_eq!(read(&mut transport, VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(read(&mut transport, VIRTIO_MMIO_VERSION), 2);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_DEVICE_ID), 4);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_DEVICE_FEATURES), 1 << 5 | 1 << 28 | 1 << 29);
    write(&mut transport, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_DEVICE_FEATURES), 1);
}

#[test]
fn driver_that_follows_the_order_gets_an_active_device() {
    let (mut transport, log) = transport();
    assert_eq!(negotiate(&mut transport, 1), 11);
    set_up_queues(&mut transport);
    write(&mut transport, VIRTIO_MMIO_STATUS, 15);
    assert_eq!(log.lock().unwrap().activations, 1);
    assert_eq!(log.lock().unwrap().features, 1 << 32);
    write(&mut transport, VIRTIO_MMIO_STATUS, 0);
    assert_eq!(log.lock().unwrap().resets, 1);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_STATUS), 0);
    // And once more from the start.
    negotiate(&mut transport, 1);
    set_up_queues(&mut transport);
    write(&mut transport, VIRTIO_MMIO_STATUS, 15);
    assert_eq!(log.lock().unwrap().activations, 2);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let (mut transport, _) = transport();
    assert_eq!(negotiate(&mut transport, 1 | 1 << 4), 3);
    // VERSION_1 is not optional.
    assert_eq!(negotiate(&mut transport, 0), 3);
}

#[test]
fn queue_outside_memory_is_a_failure_of_the_device() {
    let (mut transport, log) = transport();
    negotiate(&mut transport, 1);
    set_up_queues(&mut transport);
    write(&mut transport, VIRTIO_MMIO_QUEUE_DESC_HIGH, 1);
    write(&mut transport, VIRTIO_MMIO_STATUS, 15);
    assert_eq!(log.lock().unwrap().activations, 0);
    assert_ne!(read(&mut transport, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    let failures = log.lock().unwrap().failures.told();
    assert_eq!(failures, ["fake: the guest sent a queue that is not valid"]);
}

#[test]
fn queue_cannot_be_changed_once_the_device_is_active() {
    let (mut transport, _) = transport();
    negotiate(&mut transport, 1);
    set_up_queues(&mut transport);
    write(&mut transport, VIRTIO_MMIO_STATUS, 15);
    write(&mut transport, VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_QUEUE_READY), 0);
}

#[test]
fn configuration_is_read_at_any_width_and_ends_where_it_ends() {
    let (mut transport, _) = transport();
    let mut bytes = [0; 8];
    transport.read(0x100, &mut bytes);
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8]);
    let mut bytes = [9; 4];
    transport.read(0x106, &mut bytes);
    assert_eq!(bytes, [7, 8, 0, 0]);
    transport.read(0xfff, &mut bytes);
}

#[test]
fn interrupt_is_pending_until_acknowledged() {
    let (mut transport, _) = transport();
    transport.interrupt.used(0);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    assert_eq!(transport.line().read().unwrap(), 1);
    write(&mut transport, VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn change_of_the_configuration_interrupts_a_driver_that_is_ready() {
    let (mut transport, _, config) = transport_with_config();
    config.set(0, &[9]);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_CONFIG), 0x0403_0209);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_CONFIG_GENERATION), 1);
    assert!(transport.line().read().is_err(), "nobody is there to be told");
    negotiate(&mut transport, 1);
    set_up_queues(&mut transport);
    write(&mut transport, VIRTIO_MMIO_STATUS, 15);
    config.set(1, &[8]);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_CONFIG_GENERATION), 2);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    assert_eq!(transport.line().read().unwrap(), 1);
    write(&mut transport, VIRTIO_MMIO_INTERRUPT_ACK, 2);
    assert_eq!(read(&mut transport, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn writes_to_the_configuration_are_the_devices_at_any_width() {
    let (mut transport, log) = transport();
    transport.write(0x102, &[7]);
    transport.write(0x104, &[1, 2, 3, 4]);
    assert_eq!(log.lock().unwrap().written, [(2, vec![7]), (4, vec![1, 2, 3, 4])]);
}

#[test]
fn queue_that_the_driver_leaves_out_is_none() {
    let (mut transport, log) = transport();
    negotiate(&mut transport, 1);
    set_up_queues(&mut transport);
    write(&mut transport, VIRTIO_MMIO_QUEUE_SEL, 1);
    write(&mut transport, VIRTIO_MMIO_QUEUE_READY, 0);
    write(&mut transport, VIRTIO_MMIO_STATUS, 15);
    assert_eq!(log.lock().unwrap().queues, [true, false]);
    assert_eq!(transport.counters().read(), [("kicks", 0), ("interrupts", 0)]);
}

#[test]
fn slot_is_a_placeholder_before_and_after_its_device() {
    let mut slot = Slot::new(page());
    let word = |slot: &mut Slot, register: u32| {
        let mut bytes = [0; 4];
        slot.read(register.into(), &mut bytes);
        u32::from_le_bytes(bytes)
    };
    assert_eq!(word(&mut slot, VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!((word(&mut slot, VIRTIO_MMIO_VERSION), word(&mut slot, VIRTIO_MMIO_DEVICE_ID)), (2, 0));
    slot.write(VIRTIO_MMIO_STATUS.into(), &1u32.to_le_bytes());
    assert_eq!(word(&mut slot, VIRTIO_MMIO_STATUS), 0);
    assert!(slot.take().is_none());

    let (transport, log, config) = transport_in(slot.page());
    slot.put(transport);
    assert_eq!(
        (word(&mut slot, VIRTIO_MMIO_DEVICE_ID), word(&mut slot, VIRTIO_MMIO_CONFIG)),
        (4, 0x0403_0201)
    );
    let mut taken = slot.take().unwrap();
    negotiate(&mut taken, 1);
    config.set(0, &[9]);
    assert_eq!((word(&mut slot, VIRTIO_MMIO_DEVICE_ID), word(&mut slot, VIRTIO_MMIO_CONFIG)), (0, 0));
    drop(taken);
    assert_eq!(log.lock().unwrap().resets, 0, "it was never active");
}

/// Runs a driver's `program` of accesses: what, where, and four bytes of a value.
pub(crate) fn run(program: &[u8]) {
    let (mut transport, log) = transport();
    for step in program.chunks_exact(6) {
        let [what, place, value @ ..] = step else { continue };
        // Registers lie at multiples of four; what is beside them is looked at, too.
        let register = u64::from(*place) * 4 + u64::from((what >> 4) & (u8::from(what & 8 != 0) * 3));
        match what % 8 {
            0 => transport.read(register, &mut [0; 8]),
            1 => transport.write(register, &value[..usize::from(what >> 4) % 5]),
            // The way to an active device, so that what lies behind it is found, too.
            2 => {
                negotiate(&mut transport, 1);
            }
            3 => set_up_queues(&mut transport),
            4 => write(&mut transport, VIRTIO_MMIO_STATUS, 15),
            _ => transport.write(register, value),
        }
        let status = read(&mut transport, VIRTIO_MMIO_STATUS);
        let log = log.lock().unwrap();
        let active = log.activations - log.resets;
        assert!(active <= 1, "active {active} times");
        assert!(active == 0 || status & 15 == 15, "active in status {status}");
        assert!(active == 0 || log.features & 1 << 32 != 0, "active without VERSION_1");
        assert!(log.features & !(1 << 32 | 1 << 5 | 3 << 28) == 0, "features {:#x}", log.features);
    }
}

proptest! {
    #[test]
    fn arbitrary_accesses_never_panic(
        accesses in prop::collection::vec((0u64..0x110, prop::collection::vec(any::<u8>(), 0..9), any::<bool>()), 0..200)
    ) {
        let (mut transport, _) = transport();
        for (offset, mut data, is_write) in accesses {
            if is_write { transport.write(offset, &data) } else { transport.read(offset, &mut data) }
        }
    }

    #[test]
    fn driver_in_any_order_has_an_active_device_in_the_right_states_only(program in prop::collection::vec(any::<u8>(), 0..240)) {
        run(&program);
    }

    #[test]
    fn arbitrary_status_writes_activate_only_in_order(writes in prop::collection::vec(0u32..16, 0..40)) {
        let (mut transport, log) = transport();
        for value in writes {
            write(&mut transport, VIRTIO_MMIO_STATUS, value);
        }
        // No features were taken, so FEATURES_OK and all behind it is out of reach.
        prop_assert_eq!(log.lock().unwrap().activations, 0);
    }
}

/// One whose driver has activated both queues.
fn active_transport() -> (MmioTransport, Arc<Mutex<Log>>) {
    let (mut transport, log) = transport();
    negotiate(&mut transport, 1);
    set_up_queues(&mut transport);
    write(&mut transport, VIRTIO_MMIO_STATUS, 15);
    (transport, log)
}

#[test]
fn saved_device_goes_on_and_another_becomes_it() {
    let (mut transport, log) = active_transport();
    let state = transport.suspend().unwrap();
    let seen = || {
        let log = log.lock().unwrap();
        (log.activations, log.resets)
    };
    assert_eq!(seen(), (1, 1));
    transport.resume().unwrap();
    transport.resume().unwrap();
    assert_eq!(seen(), (2, 1));
    assert_eq!(state.status, 15);
    let active = state.active.clone().unwrap();
    assert_eq!(active.queues.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((active.queues[1].1.size, active.queues[1].1.used_ring), (8, 0x6000));

    let (mut other, log) = self::transport();
    other.restore(&state).unwrap();
    assert_eq!(read(&mut other, VIRTIO_MMIO_STATUS), 15);
    assert_eq!(read(&mut other, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    assert_eq!(log.lock().unwrap().queues, [true, true]);
    assert_eq!(other.line().read().unwrap(), 1);
    assert!(other.kicks().iter().all(|kick| kick.read().is_ok()), "what came meanwhile is looked for");
    assert_eq!(other.suspend().unwrap(), state);
}

#[test]
fn device_that_nobody_drives_is_saved_as_that() {
    let (mut transport, log) = transport();
    negotiate(&mut transport, 1);
    let state = transport.suspend().unwrap();
    assert_eq!((state.status, &state.active), (11, &None));
    let (mut other, _) = self::transport();
    other.restore(&state).unwrap();
    set_up_queues(&mut other);
    write(&mut other, VIRTIO_MMIO_STATUS, 15);
    assert_eq!(read(&mut other, VIRTIO_MMIO_STATUS), 15);
    assert_eq!(log.lock().unwrap().activations, 0);
}

#[test]
fn state_that_cannot_be_is_refused() {
    let state = active_transport().0.suspend().unwrap();
    let refused = |change: &dyn Fn(&mut TransportState, &mut ActiveState)| {
        let mut changed = state.clone();
        let mut active = changed.active.take().unwrap();
        change(&mut changed, &mut active);
        changed.active = Some(active);
        let (mut other, log) = transport();
        let refused = other.restore(&changed).is_err();
        refused && log.lock().unwrap().activations == 0
    };
    assert!(refused(&|state, _| state.status = 0x40 | 15));
    assert!(refused(&|state, _| state.status = 11));
    assert!(refused(&|state, _| state.driver_features |= 1 << 40));
    assert!(refused(&|state, _| state.driver_features = 0));
    assert!(refused(&|_, active| active.queues[1].0 = 2));
    assert!(refused(&|_, active| active.queues[1].0 = 0));
    assert!(refused(&|_, active| active.queues[0].1.size = 3));
    assert!(refused(&|_, active| active.queues[0].1.size = 32));
    assert!(refused(&|_, active| active.queues[0].1.desc_table = 1 << 20));
    assert!(refused(&|_, active| active.queues[0].1.avail_ring = 1));
    assert!(refused(&|_, active| active.device.version = 9));
    assert!(!refused(&|_, _| {}));
}

proptest! {
    #[test]
    fn arbitrary_states_never_panic(
        status in 0u32..0x100,
        driver_features in any::<u64>(),
        queues in prop::collection::vec((0u16..4, (any::<u16>(), any::<u16>(), any::<u16>(), any::<u64>(), any::<u64>(), any::<u64>())), 0..4),
    ) {
        let queues = queues.into_iter().map(|(number, (size, next_avail, next_used, desc_table, avail_ring, used_ring))| {
            (number, SavedQueue { size, next_avail, next_used, desc_table, avail_ring, used_ring })
        });
        let active = ActiveState { queues: queues.collect(), device: DeviceState::nothing(4) };
        let state = TransportState {
            status,
            queue_select: 7,
            device_features_select: 7,
            driver_features_select: 7,
            driver_features,
            active: Some(active),
        };
        let _ = transport().0.restore(&state);
    }
}
