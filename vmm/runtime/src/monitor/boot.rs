//! From the plan to a machine whose guest boots.

use std::os::unix::net::UnixListener;

use vmrun_machine::{BootError, BootImages, Built, MachineError, Running};
use vmrun_plan::{SHARE_DIR, VSOCK_SOCKET};
use vmrun_proto::READY_PORT;
use vmrun_spec::{Image, MachineSpec};

use super::failure::MonitorError;
use super::{MonitorRequest, tree};
use crate::assets::{self, Embedded};
use crate::pages;
use crate::store::StoreError;
use crate::timeline::mark;

/// A machine that runs, and the socket on which its agent will report.
#[derive(Debug)]
pub(crate) struct Booting {
    pub(crate) machine: Running,
    pub(crate) ready: UnixListener,
}

pub(crate) fn boot(request: &MonitorRequest, embedded: Embedded) -> Result<Booting, MonitorError> {
    let plan = &request.plan;
    tree::build(&request.directory.join(SHARE_DIR), &plan.host)?;
    mark("tree");
    let kernel = assets::load(assets::KERNEL, &plan.machine.kernel, embedded.kernel)?;
    let initramfs = assets::load(assets::INITRAMFS, &plan.machine.initramfs, embedded.initramfs)?;
    // Before the guest can connect to it.
    let socket = format!("{VSOCK_SOCKET}_{READY_PORT}");
    let ready =
        UnixListener::bind(&socket).map_err(StoreError::io("listen on", &request.directory.join(&socket)))?;
    let kernel_pages = if plan.machine.kernel == Image::Embedded { embedded.kernel_pages } else { &[] };
    let images = BootImages { kernel: &kernel, kernel_pages, initramfs: &initramfs };
    mark("images");
    let machine = Built::new(&plan.machine, images).map_err(|error| about_kernel(&plan.machine, error))?;
    mark("built");
    let machine = machine.start()?;
    mark("vcpus-run");
    // While the guest boots.
    pages::release(embedded.kernel);
    pages::release(embedded.initramfs);
    Ok(Booting { machine, ready })
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
