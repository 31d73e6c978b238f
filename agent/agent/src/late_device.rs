//! Devices that the host plugs into slots of the machine: network cards, the balloon, disks. The guest's kernel is told of a slot
//! when something is in it for the first time, and looks into it again when its driver is bound anew.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

const DEVICES: &str = "/sys/bus/platform/devices";
const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";
const ANNOUNCEMENTS: &str = "/sys/module/virtio_mmio/parameters/device";

/// Has the kernel look into a slot; a network card there becomes an interface in the namespace of this
/// thread. The answer is its virtio device.
pub(crate) fn bind(device: &str, announcement: &str) -> io::Result<String> {
    let directory = Path::new(DEVICES).join(device);
    let looked = if directory.exists() {
        put(&Path::new(DRIVER).join("bind"), device)
    } else {
        put(Path::new(ANNOUNCEMENTS), announcement)
    };
    looked.and_then(|()| virtio_of(&directory))
}

/// Takes the driver off a slot: a network card's interface is gone, wherever it is.
pub(crate) fn unbind(device: &str) -> io::Result<()> {
    put(&Path::new(DRIVER).join("unbind"), device)
}

fn put(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

/// The virtio device on a platform device.
fn virtio_of(device: &Path) -> io::Result<String> {
    for entry in fs::read_dir(device)? {
        if let Ok(name) = entry?.file_name().into_string()
            && name.starts_with("virtio")
        {
            return Ok(name);
        }
    }
    Err(io::Error::other("there is no virtio device on it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtio_device_is_found_on_the_platform_device() {
        let device = tempfile::tempdir().unwrap();
        assert!(virtio_of(device.path()).is_err());
        fs::create_dir_all(device.path().join("power")).unwrap();
        fs::create_dir_all(device.path().join("virtio7")).unwrap();
        assert_eq!(virtio_of(device.path()).unwrap(), "virtio7");
    }
}
