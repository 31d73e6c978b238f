//! From the plan to a machine whose guest boots.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use vmrun_machine::{BootError, BootImages, Built, MachineError, Running};
use vmrun_plan::SHARE_DIR;
use vmrun_proto::{READY_PORT, SharedMount};
use vmrun_spec::{HostPort, Image, MachineSpec};

use super::failure::MonitorError;
use super::kernels::LaterMounts;
use super::warm::{self, Warm};
use super::{MonitorRequest, hook_mounts, tree};
use crate::agent_client::Watch;
use crate::assets::{self, Embedded};
use crate::error::chain;
use crate::pages;
use crate::step;
use crate::templates::{Template, checkpoint};
use crate::timeline::{Point, mark};

/// A machine that runs, and the connection on which its agent will report.
#[derive(Debug)]
pub(crate) struct Booting {
    pub(crate) machine: Running,
    pub(crate) ready: UnixStream,
    /// How long its boot has been waited for.
    pub(crate) waited: Duration,
    /// What the guest has to be told of the shared tree's mounts.
    pub(crate) mounts: Vec<SharedMount>,
    /// What is mounted there later.
    pub(crate) later: Option<LaterMounts>,
}

pub(crate) fn boot(
    request: &MonitorRequest,
    embedded: Embedded,
    watch: Watch<'_>,
) -> Result<(Booting, Warm), MonitorError> {
    let plan = &request.plan;
    let (mounts, later) = tree::build(&request.directory.join(SHARE_DIR), &plan.host, &request.log)?;
    if plan.host.hooks.precede_creation() {
        hook_mounts::offer(&request.directory.join(SHARE_DIR), &plan.host)?;
    }
    mark(Point::TreeBuilt);
    step!("tree built: {} and {} volumes", plan.host.rootfs.display(), plan.host.volumes.len());
    let source = request.templates.as_ref();
    let source = source.and_then(|place| warm::Source::of(place, &plan.machine, embedded, &request.log));
    let begun = Instant::now();
    let found = source.map(|source| source.find().map(|template| (source, template)));
    let (source, template) = match found {
        Some(Ok((source, template))) => (Some(source), template),
        // There are none to be had, or none are wanted.
        Some(Err(warm::Told)) | None => (None, None),
    };
    let restored = match (&source, template) {
        (Some(source), Some(template)) => restore(&plan.machine, source, &template, embedded)?,
        _ => None,
    };
    let (machine, ready, warm) = restored.map_or_else(|| cold(request, source, embedded, watch), Ok)?;
    // While the guest goes its way.
    pages::release(embedded.kernel);
    pages::release(embedded.initramfs);
    let waited = warm.waited(begun.elapsed());
    Ok((Booting { machine, ready, waited, mounts, later }, warm))
}

/// A machine that goes on from a template, if it can.
fn restore(
    machine: &MachineSpec,
    source: &warm::Source<'_>,
    template: &Template,
    embedded: Embedded,
) -> Result<Option<(Running, UnixStream, Warm)>, MonitorError> {
    mark(Point::ImagesFound);
    keep_out()?;
    let (ready, host_port) = agents_port()?;
    let pages = checkpoint::kernel_pages(machine, embedded);
    match warm::restored(machine, template, pages, host_port) {
        Ok(built) => {
            mark(Point::MachineBuilt);
            step!("machine restored: {} vCPUs, {} MiB", machine.vcpus, machine.memory_mib);
            Ok(Some((built.start()?, ready, Warm::Restored(source.used()))))
        }
        // A boot may do where the template does not.
        Err(MachineError::Snapshot(error)) => {
            source.refuse(&chain(&error));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// A machine that boots, and is saved on its way where there is to be a template.
fn cold(
    request: &MonitorRequest,
    source: Option<warm::Source<'_>>,
    embedded: Embedded,
    watch: Watch<'_>,
) -> Result<(Running, UnixStream, Warm), MonitorError> {
    let machine = &request.plan.machine;
    let kernel = assets::load(assets::KERNEL, &machine.kernel, embedded.kernel)?;
    let initramfs = assets::load(assets::INITRAMFS, &machine.initramfs, embedded.initramfs)?;
    let kernel_pages = checkpoint::kernel_pages(machine, embedded);
    let images = BootImages { kernel: &kernel, kernel_pages, initramfs: &initramfs };
    mark(Point::ImagesFound);
    step!("kernel of {} bytes, boot image of {} bytes", kernel.len(), initramfs.len());
    let (ready, host_port) = agents_port()?;
    let beginning = source.and_then(warm::Source::begin);
    keep_out()?;
    let about = |error| about_kernel(machine, error);
    let stopping = beginning.as_ref().map(|_| checkpoint::stopping(machine));
    let mut built =
        Built::new(stopping.as_ref().unwrap_or(machine), images, Some(host_port)).map_err(about)?;
    mark(Point::MachineBuilt);
    step!("machine built: {} vCPUs, {} MiB", machine.vcpus, machine.memory_mib);
    let beginning = beginning.and_then(|beginning| warm::stop(&mut built, beginning, &request.log));
    let mut running = built.start()?;
    step!("vCPUs run");
    let Some(beginning) = beginning else { return Ok((running, ready, Warm::Not)) };
    let failed = |source| MonitorError::Io { act: "wait for the guest", source };
    // An agent that does not stop says that it is ready, and a guest that has ended comes nowhere.
    let ended = running.ended_fd().try_clone_to_owned().map_err(failed)?;
    let others: Vec<_> = watch.iter().copied().chain([ready.as_fd(), ended.as_fd()]).collect();
    let written = warm::save(&mut running, beginning, kernel_pages, &others, &request.log);
    Ok((running, ready, Warm::Published(written)))
}

/// Keeps other processes of this user out: after what is opened below `/proc/self`, which is root's from here on.
fn keep_out() -> Result<(), MonitorError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| MonitorError::Io { act: "keep other processes out", source: errno.into() })
}

/// The connection that the agent will make: our end of it, and the guest's.
fn agents_port() -> Result<(UnixStream, HostPort), MonitorError> {
    let (ready, stream) = UnixStream::pair()
        .map_err(|source| MonitorError::Io { act: "make a connection for the agent", source })?;
    Ok((ready, HostPort { port: READY_PORT, stream }))
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
