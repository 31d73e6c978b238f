//! From the plan to a machine whose guest boots.

use std::os::unix::net::UnixStream;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use vmrun_machine::{BootError, BootImages, Built, MachineError, Running};
use vmrun_plan::SHARE_DIR;
use vmrun_proto::{READY_PORT, SharedMount};
use vmrun_spec::{HostPort, Image, MachineSpec};

use super::failure::MonitorError;
use super::kernels::LaterMounts;
use super::{MonitorRequest, hook_mounts, tree};
use crate::assets::{self, Embedded};
use crate::pages;
use crate::step;
use crate::timeline::{Point, mark};

/// A machine that runs, and the connection on which its agent will report.
#[derive(Debug)]
pub(crate) struct Booting {
    pub(crate) machine: Running,
    pub(crate) ready: UnixStream,
    /// What the guest has to be told of the shared tree's mounts.
    pub(crate) mounts: Vec<SharedMount>,
    /// What is mounted there later.
    pub(crate) later: Option<LaterMounts>,
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
    let (ready, stream) = UnixStream::pair()
        .map_err(|source| MonitorError::Io { act: "make a connection for the agent", source })?;
    let host_port = HostPort { port: READY_PORT, stream };
    let kernel_pages = if plan.machine.kernel == Image::Embedded { embedded.kernel_pages } else { &[] };
    let images = BootImages { kernel: &kernel, kernel_pages, initramfs: &initramfs };
    mark(Point::ImagesFound);
    step!("kernel of {} bytes, boot image of {} bytes", kernel.len(), initramfs.len());
    // After what is written below `/proc/self`, which is root's from here on.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| MonitorError::Io { act: "keep other processes out", source: errno.into() })?;
    let machine = Built::new(&plan.machine, images, Some(host_port))
        .map_err(|error| about_kernel(&plan.machine, error))?;
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
