//! A queue of a device's (virtio 1.2, §2.7), whose driver has scruples only where it wants to.

use crate::machine;
use crate::virtio::{Device, NOWHERE, register};

/// Where rings lie, by their queues, and how much room each has.
const RINGS: u64 = 0x40_0000;
const RING_BYTES: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x8000;
const USED: u64 = 0xa000;

/// Buffers of attacks.
pub(crate) const BUFFERS: u64 = 0x80_0000;

/// Flags of descriptors.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// How often the used ring is looked at before a device is held to say nothing.
const LOOKS: u32 = 3000;

/// A buffer that the device reads, or writes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Part {
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    pub(crate) written: bool,
}

pub(crate) struct Ring {
    device: Device,
    queue: u64,
    size: u16,
    base: u64,
    next: u16,
    available: u16,
    seen: u16,
}

impl Ring {
    /// An empty ring, of which the device need not know.
    pub(crate) fn new(device: Device, queue: u64, size: u64) -> Self {
        Self::at(queue, device, queue, size)
    }

    /// The same, at one of the places for rings.
    pub(crate) fn at(place: u64, device: Device, queue: u64, size: u64) -> Self {
        let base = RINGS + place * RING_BYTES;
        let size = size.clamp(1, 1024) as u16;
        for at in (AVAILABLE..USED + 0x3000).step_by(8) {
            machine::write(base + at, 3, 0);
        }
        Self { device, queue, size, base, next: 0, available: 0, seen: 0 }
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Descriptors, available ring, used ring.
    pub(crate) fn places(&self) -> [u64; 3] {
        [self.base, self.base + AVAILABLE, self.base + USED]
    }

    /// Writes descriptor `index`.
    pub(crate) fn describe(&self, index: u16, part: Part, flags: u16, next: u16) {
        let at = self.base + u64::from(index) * 16;
        machine::write(at, 3, part.address);
        machine::write(at + 8, 2, part.bytes.into());
        let written = if part.written { WRITE } else { 0 };
        machine::write(at + 12, 1, (flags | written).into());
        machine::write(at + 14, 1, next.into());
    }

    /// Says that a chain begins at descriptor `head`.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        machine::write(self.base + AVAILABLE + 4 + slot * 2, 1, head.into());
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Says how many chains there have been, true or not.
    pub(crate) fn set_available(&self, count: u16) {
        machine::write(self.base + AVAILABLE + 2, 1, count.into());
    }

    pub(crate) fn kick(&self) {
        self.device.write(register::QUEUE_NOTIFY, self.queue);
    }

    /// Puts a chain of these parts there, as it should be.
    pub(crate) fn put(&mut self, parts: &[Part]) {
        let head = self.next;
        for (at, part) in parts.iter().enumerate() {
            let index = self.next;
            self.next = (self.next + 1) % self.size;
            let flags = if at + 1 < parts.len() { NEXT } else { 0 };
            self.describe(index, *part, flags, self.next);
        }
        self.offer(head);
    }

    /// Waits until the device has used another chain: its head, and how many bytes have been written there. Nothing where that takes
    /// too long.
    pub(crate) fn wait(&mut self) -> Option<(u16, u32)> {
        for _ in 0..LOOKS {
            let used = machine::read(self.base + USED + 2, 1) as u16;
            if used != self.seen {
                let slot = u64::from(self.seen % self.size);
                self.seen = self.seen.wrapping_add(1);
                let entry = self.base + USED + 4 + slot * 8;
                return Some((machine::read(entry, 2) as u16, machine::read(entry + 4, 2) as u32));
            }
            machine::port_read(NOWHERE, 0);
        }
        None
    }

    /// One chain, there and back; others that come back meanwhile are taken, too.
    pub(crate) fn call(&mut self, parts: &[Part]) -> Option<u32> {
        let head = self.next;
        self.put(parts);
        self.kick();
        loop {
            let (used, written) = self.wait()?;
            if used == head {
                return Some(written);
            }
        }
    }

    /// Chains that the device has not used.
    pub(crate) fn under_way(&self) -> u16 {
        self.available.wrapping_sub(self.seen)
    }
}
