//! Network cards that the host plugs into slots. The guest's kernel knows each slot from its boot
//! (`virtio_mmio.device=`), and looks into one again when the driver is bound to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::wait::Listener;

const DEVICES: &str = "/sys/bus/platform/devices";
const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";

/// Interface of a card, in the agent's own namespace.
#[derive(Debug)]
pub(super) struct Nic {
    pub(super) index: u32,
}

/// Has the kernel look into a slot, and finds the interface that it makes of the card there.
pub(super) fn bind(slot: u8, listener: &mut Listener) -> Result<Nic, String> {
    let device = vmrun_proto::slot_device(slot);
    let directory = Path::new(DEVICES).join(&device);
    if !directory.join("driver").exists() {
        fs::write(Path::new(DRIVER).join("bind"), &device)
            .map_err(|error| format!("cannot bind the network card in slot {slot} ({device}): {error}"))?;
    }
    let what = || format!("the network card in slot {slot} ({device}) to appear");
    let found = listener.until(&what, || interface_of(&directory).map_err(|error| error.to_string()))?;
    let index = fs::read_to_string(found.join("ifindex"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| format!("cannot read the number of {}", found.display()))?;
    Ok(Nic { index })
}

/// Takes the driver off a slot: the card's interface is gone, wherever it is.
pub(super) fn unbind(slot: u8) -> io::Result<()> {
    fs::write(Path::new(DRIVER).join("unbind"), vmrun_proto::slot_device(slot))
}

/// The directory of the interface, once it is there: `virtioN/net/NAME`.
fn interface_of(device: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(device)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("virtio") {
            continue;
        }
        match fs::read_dir(entry.path().join("net")) {
            Ok(mut interfaces) => {
                if let Some(interface) = interfaces.next() {
                    return Ok(Some(interface?.path()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_is_found_below_the_virtio_device() {
        let device = tempfile::tempdir().unwrap();
        assert_eq!(interface_of(device.path()).unwrap(), None);
        fs::create_dir_all(device.path().join("power")).unwrap();
        fs::create_dir_all(device.path().join("virtio7")).unwrap();
        assert_eq!(interface_of(device.path()).unwrap(), None);
        let interface = device.path().join("virtio7/net/eth3");
        fs::create_dir_all(&interface).unwrap();
        assert_eq!(interface_of(device.path()).unwrap(), Some(interface));
    }
}
