//! The kernel command line. It only boots: nothing about the container is on it.

use linux_loader::cmdline::Cmdline;
use vm_memory::GuestAddress;

use crate::error::BootError;
use crate::layout;

/// Parameters of every boot, each with its reason.
const BASE: &str = include_str!("../../../../guest-kernel/cmdline");

/// The register window of one virtio-mmio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    pub(crate) irq: u8,
}

/// Built-in parameters, then the devices, then the user's: a later one wins.
pub(crate) fn cmdline(windows: &[Window], user: &[String]) -> Result<Cmdline, BootError> {
    let mut line = Cmdline::new(layout::CMDLINE_BYTES).map_err(BootError::Cmdline)?;
    let base = BASE.lines().map(|line| line.split_once('#').map_or(line, |(parameter, _)| parameter).trim());
    for parameter in base.filter(|parameter| !parameter.is_empty()) {
        line.insert_str(parameter).map_err(BootError::Cmdline)?;
    }
    for window in windows {
        line.add_virtio_mmio_device(window.bytes, GuestAddress(window.address), window.irq.into(), None)
            .map_err(BootError::Cmdline)?;
    }
    for parameter in user {
        line.insert_str(parameter).map_err(BootError::Cmdline)?;
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(windows: &[Window], user: &[String]) -> String {
        cmdline(windows, user).unwrap().as_cstring().unwrap().into_string().unwrap()
    }

    #[test]
    fn devices_and_user_come_behind_the_base() {
        let window = Window { address: 0xd000_0000, bytes: 4096, irq: 5 };
        let line = text(&[window], &["loglevel=7".to_owned()]);
        assert!(line.ends_with(" virtio_mmio.device=4K@0xd0000000:5 loglevel=7"), "{line}");
        assert!(line.contains("earlyprintk="), "{line}");
        assert!(!line.contains('#') && !line.contains('\n'), "{line}");
    }

    #[test]
    fn line_over_the_limit_is_refused() {
        let user = vec!["x".repeat(layout::CMDLINE_BYTES)];
        assert!(matches!(cmdline(&[], &user), Err(BootError::Cmdline(_))));
    }
}
