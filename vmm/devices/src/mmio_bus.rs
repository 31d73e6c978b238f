//! Which device answers at which guest physical address.

use std::sync::{Arc, Mutex, PoisonError};

/// A device behind memory-mapped registers.
pub trait MmioDevice: Send {
    /// The guest reads `data.len()` bytes at `offset` from the device's base.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset` from the device's base.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Equal slots from a base address on, one device each. Addresses without a
/// device read as zero and swallow writes, as an absent card does.
pub struct MmioBus {
    base: u64,
    slot_bytes: u64,
    slots: Vec<Option<Arc<Mutex<dyn MmioDevice>>>>,
}

impl std::fmt::Debug for MmioBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioBus")
            .field("base", &self.base)
            .field("slots", &self.slots.len())
            .finish_non_exhaustive()
    }
}

impl MmioBus {
    /// A bus whose slot N lies at `base + N * slot_bytes`.
    pub fn new(base: u64, slot_bytes: u64) -> Self {
        Self { base, slot_bytes, slots: Vec::new() }
    }

    /// Puts a device into slot `slot` and returns the slot's address.
    pub fn put(&mut self, slot: u8, device: Arc<Mutex<dyn MmioDevice>>) -> u64 {
        let index = usize::from(slot);
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        self.slots[index] = Some(device);
        self.base.saturating_add(u64::from(slot).saturating_mul(self.slot_bytes))
    }

    /// The guest reads from `address`.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some((device, offset)) = self.find(address) {
            device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
        }
    }

    /// The guest writes to `address`.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&Mutex<dyn MmioDevice>, u64)> {
        let distance = address.checked_sub(self.base)?;
        let slot = usize::try_from(distance / self.slot_bytes).ok()?;
        Some((self.slots.get(slot)?.as_deref()?, distance % self.slot_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(Vec<(u64, Vec<u8>)>);

    impl MmioDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset & 0xff).unwrap());
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    #[test]
    fn access_reaches_the_slot_with_its_offset() {
        let mut bus = MmioBus::new(0x1000, 0x100);
        let echo = Arc::new(Mutex::new(Echo(Vec::new())));
        assert_eq!(bus.put(3, Arc::new(Mutex::new(Echo(Vec::new())))), 0x1300);
        assert_eq!(bus.put(1, Arc::<Mutex<Echo>>::clone(&echo)), 0x1100);
        bus.write(0x1104, &[7]);
        assert_eq!(echo.lock().unwrap().0, [(4, vec![7])]);
        let mut data = [0; 2];
        bus.read(0x1108, &mut data);
        assert_eq!(data, [8, 8]);
    }

    #[test]
    fn access_outside_reads_zero_and_is_swallowed() {
        let bus = MmioBus::new(0x1000, 0x100);
        let mut data = [9; 4];
        bus.read(0, &mut data);
        assert_eq!(data, [0; 4]);
        bus.write(u64::MAX, &[1]);
        let mut bus = bus;
        bus.put(1, Arc::new(Mutex::new(Echo(Vec::new()))));
        data = [9; 4];
        bus.read(0x1000, &mut data);
        assert_eq!(data, [0; 4], "a slot without a device");
    }
}
