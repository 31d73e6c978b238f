//! Devices behind virtio-mmio registers (virtio 1.2, §4.2.2).

use crate::machine;
use crate::random::Random;
use crate::ring::Ring;

/// The windows: so many, a page each.
pub(crate) const WINDOWS: u64 = 0xd000_0000;
pub(crate) const WINDOW_BYTES: u64 = 0x1000;
pub(crate) const COUNT: u64 = 48;

/// A port without a device: to read from it lets the host's threads have their turn.
pub(crate) const NOWHERE: u16 = 0x80;
/// How often it is read from until a device is held to be missing.
const PATIENCE: u32 = 1_000_000;

const MAGIC: u64 = 0x7472_6976;

/// Offsets of registers.
pub(crate) mod register {
    pub(crate) const DEVICE_ID: u64 = 0x08;
    pub(crate) const DEVICE_FEATURES: u64 = 0x10;
    pub(crate) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(crate) const DRIVER_FEATURES: u64 = 0x20;
    pub(crate) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(crate) const QUEUE_SEL: u64 = 0x30;
    pub(crate) const QUEUE_NUM_MAX: u64 = 0x34;
    pub(crate) const QUEUE_NUM: u64 = 0x38;
    pub(crate) const QUEUE_READY: u64 = 0x44;
    pub(crate) const QUEUE_NOTIFY: u64 = 0x50;
    pub(crate) const STATUS: u64 = 0x70;
    pub(crate) const QUEUE_DESC: u64 = 0x80;
    pub(crate) const QUEUE_AVAIL: u64 = 0x90;
    pub(crate) const QUEUE_USED: u64 = 0xa0;
}

/// Ids of devices.
pub(crate) mod id {
    pub(crate) const NET: u64 = 1;
    pub(crate) const BLOCK: u64 = 2;
    pub(crate) const RNG: u64 = 4;
    pub(crate) const BALLOON: u64 = 5;
    pub(crate) const VSOCK: u64 = 19;
    pub(crate) const FS: u64 = 26;
}

/// Feature bits of rings: indirect descriptors, event indexes, and the version, which none goes without.
const INDIRECT: u64 = 1 << 28;
const EVENT_INDEX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// One device.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    base: u64,
}

impl Device {
    /// All that are there now, by their windows.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let windows = (0..COUNT).map(|window| Self { base: WINDOWS + window * WINDOW_BYTES });
        windows.filter(|device| device.read(0) == MAGIC && device.id() != 0)
    }

    /// One of them; there is always one.
    pub(crate) fn any(random: &mut Random) -> Option<Self> {
        let count = Self::all().count() as u64;
        Self::all().nth(random.below(count.max(1)) as usize)
    }

    /// Waits until the last of those has come that come while a guest boots. Without it there is none to attack.
    pub(crate) fn await_last() -> bool {
        (0..PATIENCE).any(|_| {
            machine::port_read(NOWHERE, 0);
            Self::find(id::NET).is_some_and(Self::listens)
        })
    }

    /// A window shows its device a moment before it takes writes.
    pub(crate) fn listens(self) -> bool {
        self.write(register::STATUS, 1);
        self.read(register::STATUS) == 1
    }

    /// The first of its kind.
    pub(crate) fn find(id: u64) -> Option<Self> {
        Self::all().find(|device| device.id() == id)
    }

    pub(crate) fn id(self) -> u64 {
        self.read(register::DEVICE_ID)
    }

    pub(crate) fn base(self) -> u64 {
        self.base
    }

    pub(crate) fn read(self, register: u64) -> u64 {
        machine::read(self.base + register, 2)
    }

    pub(crate) fn write(self, register: u64, value: u64) {
        machine::write(self.base + register, 2, value);
    }

    /// How many queues it has.
    pub(crate) fn queues(self) -> u64 {
        let exists = |queue: &u64| {
            self.write(register::QUEUE_SEL, *queue);
            self.read(register::QUEUE_NUM_MAX) != 0
        };
        (0..16).take_while(exists).count() as u64
    }

    /// Starts the handshake anew, and agrees on features.
    pub(crate) fn negotiate(self, event_index: bool) {
        for status in [0, 1, 3] {
            self.write(register::STATUS, status);
        }
        let offered = [0, 1].map(|half| {
            self.write(register::DEVICE_FEATURES_SEL, half);
            self.read(register::DEVICE_FEATURES)
        });
        let mut features = (offered[0] | offered[1] << 32 | VERSION_1 | INDIRECT) & !EVENT_INDEX;
        if event_index {
            features |= EVENT_INDEX;
        }
        for half in [0, 1] {
            self.write(register::DRIVER_FEATURES_SEL, half);
            self.write(register::DRIVER_FEATURES, features >> (32 * half) & 0xffff_ffff);
        }
        self.write(register::STATUS, 11);
    }

    /// Tells where a queue lies.
    pub(crate) fn set_queue(self, queue: u64, size: u64, places: [u64; 3]) {
        self.write(register::QUEUE_SEL, queue);
        self.write(register::QUEUE_NUM, size);
        for (register, place) in
            [register::QUEUE_DESC, register::QUEUE_AVAIL, register::QUEUE_USED].into_iter().zip(places)
        {
            self.write(register, place & 0xffff_ffff);
            self.write(register + 4, place >> 32);
        }
        self.write(register::QUEUE_READY, 1);
    }

    /// Starts it as a good driver does, with rings for its first `N` queues.
    pub(crate) fn start<const N: usize>(self, event_index: bool) -> [Ring; N] {
        self.negotiate(event_index);
        self.start_negotiated(0)
    }

    /// The same, with rings behind those of others.
    pub(crate) fn start_from<const N: usize>(self, place: u64) -> [Ring; N] {
        self.negotiate(false);
        self.start_negotiated(place)
    }

    fn start_negotiated<const N: usize>(self, place: u64) -> [Ring; N] {
        let count = self.queues();
        let mut all = (0..count.max(N as u64)).map(|queue| {
            self.write(register::QUEUE_SEL, queue);
            let ring = Ring::at(place + queue, self, queue, self.read(register::QUEUE_NUM_MAX));
            if queue < count {
                self.set_queue(queue, ring.size().into(), ring.places());
            }
            ring
        });
        let rings = core::array::from_fn(|_| all.next().unwrap_or_else(|| Ring::new(self, 0, 1)));
        all.for_each(drop);
        self.write(register::STATUS, 15);
        rings
    }
}
