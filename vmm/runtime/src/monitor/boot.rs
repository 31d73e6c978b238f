//! From the plan to a machine whose guest boots.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use vmrun_machine::{BootError, BootImages, Built, MachineError, Running};
use vmrun_plan::{SHARE_DIR, VSOCK_SOCKET};
use vmrun_proto::{READY_PORT, SharedMount};
use vmrun_spec::{Image, MachineSpec};

use super::failure::MonitorError;
use super::kernels::LaterMounts;
use super::{MonitorRequest, hook_mounts, tree};
use crate::assets::{self, Embedded};
use crate::pages;
use crate::step;
use crate::store::StoreError;
use crate::timeline::{Point, mark};

/// A machine that runs, and the socket on which its agent will report.
#[derive(Debug)]
pub(crate) struct Booting {
    pub(crate) machine: Running,
    pub(crate) ready: ReadySocket,
    /// What the guest has to be told of the shared tree's mounts.
    pub(crate) mounts: Vec<SharedMount>,
    /// What is mounted there later.
    pub(crate) later: Option<LaterMounts>,
}

/// Where the agent reports. It is gone with this value: any process of the guest may connect
/// to it, and after the agent nobody has business there.
#[derive(Debug)]
pub(crate) struct ReadySocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
}

impl ReadySocket {
    fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self { listener: UnixListener::bind(path)?, path: path.to_owned() })
    }
}

impl Drop for ReadySocket {
    fn drop(&mut self) {
        // Without its listener it leads nowhere either.
        let _ = fs::remove_file(&self.path);
    }
}

pub(crate) fn boot(request: &MonitorRequest, embedded: Embedded) -> Result<Booting, MonitorError> {
    let plan = &request.plan;
    let (mounts, later) = tree::build(&request.directory.join(SHARE_DIR), &plan.host, &request.log)?;
    if plan.host.hooks.precede_creation() {
        hook_mounts::offer(&request.directory.join(SHARE_DIR), &plan.host)?;
    }
    mark(Point::TreeBuilt);
    step!("tree built: {} and {} volumes", plan.host.rootfs.display(), plan.host.volumes.len());
    let kernel = assets::load(assets::KERNEL, &plan.machine.kernel, embedded.kernel)?;
    let initramfs = assets::load(assets::INITRAMFS, &plan.machine.initramfs, embedded.initramfs)?;
    // Before the guest can connect to it.
    let socket = format!("{VSOCK_SOCKET}_{READY_PORT}");
    let ready = ReadySocket::bind(Path::new(&socket))
        .map_err(StoreError::io("listen on", &request.directory.join(&socket)))?;
    let kernel_pages = if plan.machine.kernel == Image::Embedded { embedded.kernel_pages } else { &[] };
    let images = BootImages { kernel: &kernel, kernel_pages, initramfs: &initramfs };
    mark(Point::ImagesFound);
    step!("kernel of {} bytes, boot image of {} bytes", kernel.len(), initramfs.len());
    let machine = Built::new(&plan.machine, images).map_err(|error| about_kernel(&plan.machine, error))?;
    mark(Point::MachineBuilt);
    step!("machine built: {} vCPUs, {} MiB", plan.machine.vcpus, plan.machine.memory_mib);
    let machine = machine.start()?;
    step!("vCPUs run");
    // While the guest boots.
    pages::release(embedded.kernel);
    pages::release(embedded.initramfs);
    Ok(Booting { machine, ready, mounts, later })
}

/// Says which file it is that is no kernel.
fn about_kernel(machine: &MachineSpec, error: MachineError) -> MonitorError {
    use BootError::{Kernel, No64BitEntry, NotAKernel};
    match (&machine.kernel, error) {
        (Image::File(path), source @ MachineError::Boot(NotAKernel | Kernel(_) | No64BitEntry)) => {
            MonitorError::Kernel { path: path.clone(), source }
        }
        (_, error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn nobody_connects_after_the_agent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let ready = ReadySocket::bind(&path).unwrap();
        let mut waiting = UnixStream::connect(&path).unwrap();
        drop(ready);
        assert!(!path.exists());
        assert!(UnixStream::connect(&path).is_err());
        // Nor does one that was not accepted.
        let ended = io::Read::read(&mut waiting, &mut [0]);
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}
