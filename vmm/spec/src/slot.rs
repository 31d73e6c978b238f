//! The slots into which devices are plugged while the machine runs: network interfaces, the balloon, disks.
//!
//! ```text
//!   window  0 … 15  devices that the guest boots with
//!          16 … 23  network interfaces   24  the balloon   25 … 40  disks
//! ```

use serde::{Deserialize, Serialize};

/// One of `COUNT` register windows, the first of them number `FIRST`, that are empty when the guest boots.
///
/// The guest learns of a window when it is told: by a write of the [announcement](Self::announcement) to
/// `/sys/module/virtio_mmio/parameters/device`, which makes it a [platform device](Self::device) and
/// probes what is in it. That device stays when the window is emptied; what comes into it later is
/// bound by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Window<const FIRST: u8, const COUNT: u8>(u8);

/// One for a network interface.
pub type NicSlot = Window<16, 8>;

/// One for a disk, which comes when the guest has booted.
pub type DiskSlot = Window<{ BalloonSlot::WINDOW + 1 }, 16>;

/// There is no such slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchSlot(pub u8);

impl NicSlot {
    /// Guest physical address of the machine's first window; each is a page.
    pub const WINDOWS: u64 = 0xd000_0000;

    /// The interrupt of all slots. Each further one would cost every boot what a device's files below
    /// `/sys/kernel/irq` and `/proc/irq` cost; to share it costs a load per device and interrupt. It is
    /// the first one, so that the interrupt controller has no inputs that nobody uses: the guest's
    /// kernel makes ten exits for each.
    pub const IRQ: u8 = 1;
}

impl<const FIRST: u8, const COUNT: u8> Window<FIRST, COUNT> {
    /// How many there are.
    pub const COUNT: u8 = COUNT;

    /// Number of the window that is slot 0. Those below the first of all slots are of the devices that the guest boots with.
    pub const FIRST_WINDOW: u8 = FIRST;

    /// Slot number `number`, counted from 0.
    pub const fn new(number: u8) -> Option<Self> {
        if number < COUNT { Some(Self(number)) } else { None }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..COUNT).map(Self)
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The number of its window, and of its platform device.
    pub const fn window(self) -> u8 {
        FIRST + self.0
    }

    /// Its platform device's name in the guest, under `/sys/bus/platform/devices`.
    pub fn device(self) -> String {
        device(self.window())
    }

    /// What the guest's driver has to be told of it, once: size, address, interrupt, number.
    pub fn announcement(self) -> String {
        announcement(self.window())
    }
}

/// The window behind those of the network interfaces: for the balloon, which comes when the program has run for a while.
#[derive(Clone, Copy, Debug)]
pub struct BalloonSlot;

impl BalloonSlot {
    /// The number of the window. Its interrupt is [`NicSlot::IRQ`], too.
    pub const WINDOW: u8 = NicSlot::FIRST_WINDOW + NicSlot::COUNT;

    /// As [`NicSlot::device`].
    pub fn device() -> String {
        device(Self::WINDOW)
    }

    /// As [`NicSlot::announcement`].
    pub fn announcement() -> String {
        announcement(Self::WINDOW)
    }
}

/// A slot, whatever it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// For a network interface.
    Interface(NicSlot),
    /// For the balloon.
    Balloon,
    /// For a disk.
    Disk(DiskSlot),
}

impl Slot {
    /// All of them, in the order of their windows.
    pub fn all() -> impl Iterator<Item = Self> {
        let interfaces = NicSlot::all().map(Self::Interface);
        interfaces.chain([Self::Balloon]).chain(DiskSlot::all().map(Self::Disk))
    }

    /// The number of its window.
    pub const fn window(self) -> u8 {
        match self {
            Self::Interface(slot) => slot.window(),
            Self::Balloon => BalloonSlot::WINDOW,
            Self::Disk(slot) => slot.window(),
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interface(slot) => write!(f, "slot {}", slot.number()),
            Self::Balloon => f.write_str("the balloon's slot"),
            Self::Disk(slot) => write!(f, "the slot of disk {}", slot.number()),
        }
    }
}

fn device(window: u8) -> String {
    format!("virtio-mmio.{window}")
}

fn announcement(window: u8) -> String {
    let address = NicSlot::WINDOWS + (u64::from(window) << 12);
    format!("4K@{address:#x}:{}:{window}", NicSlot::IRQ)
}

impl<const FIRST: u8, const COUNT: u8> TryFrom<u8> for Window<FIRST, COUNT> {
    type Error = NoSuchSlot;

    fn try_from(number: u8) -> Result<Self, NoSuchSlot> {
        Self::new(number).ok_or(NoSuchSlot(number))
    }
}

impl<const FIRST: u8, const COUNT: u8> From<Window<FIRST, COUNT>> for u8 {
    fn from(slot: Window<FIRST, COUNT>) -> Self {
        slot.0
    }
}

impl std::fmt::Display for NoSuchSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (interfaces, disks) = (NicSlot::COUNT, DiskSlot::COUNT);
        write!(
            f,
            "there is no slot {}; the machine has {interfaces} for network interfaces and {disks} for disks",
            self.0
        )
    }
}

impl std::error::Error for NoSuchSlot {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_is_told_where_a_slot_lies() {
        let slot = NicSlot::new(7).unwrap();
        assert_eq!(slot.device(), "virtio-mmio.23");
        assert_eq!(slot.announcement(), "4K@0xd0017000:1:23");
        assert_eq!(BalloonSlot::device(), "virtio-mmio.24");
        assert_eq!(BalloonSlot::announcement(), "4K@0xd0018000:1:24");
        let windows: Vec<_> = Slot::all().map(Slot::window).collect();
        assert_eq!(windows, (NicSlot::FIRST_WINDOW..41).collect::<Vec<_>>());
        let last = DiskSlot::all().last().unwrap();
        assert_eq!(last.device(), "virtio-mmio.40");
        assert_eq!(last.announcement(), "4K@0xd0028000:1:40");
        assert_eq!(DiskSlot::try_from(16), Err(NoSuchSlot(16)));
        assert_eq!(NicSlot::all().count(), 8);
        assert_eq!(NicSlot::try_from(8), Err(NoSuchSlot(8)));
    }
}
