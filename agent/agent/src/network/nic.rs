//! Network cards that the host plugs into slots of the machine. The guest's kernel is told of a slot
//! when something is in it for the first time, and looks into it again when its driver is bound anew.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::wait::Listener;

const DEVICES: &str = "/sys/bus/platform/devices";
const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";
const ANNOUNCEMENTS: &str = "/sys/module/virtio_mmio/parameters/device";

/// Has the kernel look into a slot; the answer is the number of the interface that it makes of the
/// card there, in the agent's own namespace.
pub(super) fn bind(device: &str, announcement: &str, listener: &mut Listener) -> Result<u32, String> {
    let directory = Path::new(DEVICES).join(device);
    let looked = if directory.exists() {
        put(&Path::new(DRIVER).join("bind"), device)
    } else {
        put(Path::new(ANNOUNCEMENTS), announcement)
    };
    looked.map_err(|error| format!("cannot bind the network card at {device}: {error}"))?;
    let what = || format!("the network card at {device} to appear");
    let found = listener.until(&what, || interface_of(&directory).map_err(|error| error.to_string()))?;
    let index = fs::read_to_string(found.join("ifindex")).ok();
    index
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| format!("cannot read the number of {}", found.display()))
}

/// Takes the driver off a slot: the card's interface is gone, wherever it is.
pub(super) fn unbind(device: &str) -> io::Result<()> {
    put(&Path::new(DRIVER).join("unbind"), device)
}

fn put(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
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
