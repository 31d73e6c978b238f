//! Where the guest's accesses to ports and memory-mapped registers go.

use std::sync::{Arc, Mutex, PoisonError};

use vmrun_devices::{ConsoleLog, MmioBus, Uart};

use crate::end::MachineEnd;
use crate::io_apic::{self, IoApic, IoApicState};
use crate::layout;
use crate::snapshot::Checkpoint;
use crate::stamps::Stamps;

/// What a vCPU does after an exit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Continue,
    /// The guest has come to the checkpoint.
    Stop,
    End(MachineEnd),
}

/// All devices that answer to vCPU exits.
#[derive(Clone, Debug)]
pub(crate) struct IoBus {
    mmio: Arc<MmioBus>,
    io_apic: Arc<Mutex<IoApic>>,
    uart: Arc<Mutex<Uart>>,
    console: ConsoleLog,
    /// Where somebody asks how far the guest has come.
    stamps: Option<Stamps>,
    /// Where the machine is to be saved.
    checkpoint: Option<Checkpoint>,
}

impl IoBus {
    pub(crate) fn new(mmio: MmioBus, io_apic: IoApic, console: ConsoleLog, stamps: Option<Stamps>) -> Self {
        let io_apic = Arc::new(Mutex::new(io_apic));
        Self {
            mmio: Arc::new(mmio),
            io_apic,
            uart: Arc::new(Mutex::new(Uart::new(console.clone()))),
            console,
            stamps,
            checkpoint: None,
        }
    }

    pub(crate) fn stop_at(&mut self, checkpoint: Checkpoint) {
        self.checkpoint = Some(checkpoint);
    }

    pub(crate) fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    pub(crate) fn io_apic_state(&self) -> IoApicState {
        self.io_apic().save()
    }

    pub(crate) fn stamps(&self) -> Option<&Stamps> {
        self.stamps.as_ref()
    }

    pub(crate) fn mmio_read(&self, address: u64, data: &mut [u8]) -> Outcome {
        match io_apic_offset(address) {
            Some(offset) => self.io_apic().read(offset, data),
            None => self.mmio.read(address, data),
        }
        Outcome::Continue
    }

    pub(crate) fn mmio_write(&self, address: u64, data: &[u8]) -> Outcome {
        match io_apic_offset(address) {
            Some(offset) => {
                if let Err(error) = self.io_apic().write(offset, data) {
                    return Outcome::End(MachineEnd::Failed(error.to_string()));
                }
            }
            None => self.mmio.write(address, data),
        }
        Outcome::Continue
    }

    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) -> Outcome {
        match (uart_offset(port), &mut *data) {
            (Some(offset), [byte]) => *byte = self.uart().read(offset),
            // The keyboard controller is idle: the kernel may write its reset command.
            _ if port == layout::KEYBOARD_PORT => data.fill(0),
            // Nothing there: the bus floats.
            _ => data.fill(0xff),
        }
        Outcome::Continue
    }

    pub(crate) fn port_write(&self, port: u16, data: &[u8]) -> Outcome {
        #[cfg(feature = "planted-holes")]
        vmrun_devices::planted::take_port(port, data);
        if let Some(offset) = uart_offset(port) {
            let mut uart = self.uart();
            // A repeated `out` (`rep outsb`) comes as one exit.
            for &byte in data {
                uart.write(offset, byte);
            }
        } else if port == layout::KEYBOARD_PORT && data == [layout::KEYBOARD_RESET] {
            return Outcome::End(MachineEnd::Reset);
        } else if self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.is_at(port)) {
            return Outcome::Stop;
        } else if let Some(stamps) = &self.stamps {
            stamps.port_write(port, data);
        }
        Outcome::Continue
    }

    /// A reset that follows a panic message is the panic's.
    pub(crate) fn explain(&self, end: MachineEnd) -> MachineEnd {
        if end == MachineEnd::Reset && self.console.panicked() { MachineEnd::Panicked } else { end }
    }

    fn io_apic(&self) -> std::sync::MutexGuard<'_, IoApic> {
        self.io_apic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uart(&self) -> std::sync::MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn io_apic_offset(address: u64) -> Option<u64> {
    address.checked_sub(layout::IO_APIC.into()).filter(|&offset| offset < io_apic::WINDOW_BYTES)
}

fn uart_offset(port: u16) -> Option<u8> {
    let offset = port.checked_sub(layout::UART_PORT).filter(|&offset| offset < Uart::PORTS)?;
    u8::try_from(offset).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus(directory: &std::path::Path) -> IoBus {
        let console = ConsoleLog::create(&directory.join("console.log")).unwrap();
        IoBus::new(
            MmioBus::new(layout::MMIO, 0x1000),
            IoApic::new(1, |_| Err(std::io::Error::other("no room"))),
            console,
            Some(Stamps::new(0xe8)),
        )
    }

    #[test]
    fn interrupt_that_cannot_be_routed_ends_the_machine() {
        let directory = tempfile::tempdir().unwrap();
        let bus = bus(directory.path());
        let write = |at, value: u32| bus.mmio_write(u64::from(layout::IO_APIC) + at, &value.to_le_bytes());
        assert_eq!(write(0, 0x10), Outcome::Continue);
        let Outcome::End(MachineEnd::Failed(why)) = write(0x10, 0x30) else { panic!("it goes on") };
        assert!(why.ends_with("cannot route: no room"), "{why}");
    }

    #[test]
    fn keyboard_reset_ends_the_machine() {
        let directory = tempfile::tempdir().unwrap();
        let bus = bus(directory.path());
        assert_eq!(bus.port_write(0x64, &[0xfe]), Outcome::End(MachineEnd::Reset));
        assert_eq!(bus.port_write(0x64, &[0xd1]), Outcome::Continue);
        let mut status = [9];
        bus.port_read(0x64, &mut status);
        assert_eq!(status, [0]);
    }

    #[test]
    fn marks_are_stamped_and_other_bytes_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let bus = bus(directory.path());
        assert_eq!(bus.port_write(0xe8, &[1]), Outcome::Continue);
        assert_eq!(bus.port_write(0x3f8, b"x"), Outcome::Continue);
        let stamps = bus.stamps().unwrap().read();
        assert_eq!(stamps.iter().map(|stamp| stamp.code).collect::<Vec<_>>(), [Some(1)]);
    }

    #[test]
    fn reset_after_a_panic_is_a_panic() {
        let directory = tempfile::tempdir().unwrap();
        let bus = bus(directory.path());
        assert_eq!(bus.explain(MachineEnd::Reset), MachineEnd::Reset);
        bus.port_write(0x3f8, b"Kernel panic - not syncing: no working init\n");
        assert_eq!(bus.explain(MachineEnd::Reset), MachineEnd::Panicked);
    }

    #[test]
    fn unknown_ports_float_and_swallow() {
        let directory = tempfile::tempdir().unwrap();
        let bus = bus(directory.path());
        let mut data = [0; 4];
        bus.port_read(0xcf8, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(bus.port_write(0xffff, &[1, 2, 3, 4]), Outcome::Continue);
        // Wide access to the byte-wide UART.
        bus.port_read(0x3f8, &mut data);
        bus.port_read(0x3ff, &mut data[..2]);
    }
}
