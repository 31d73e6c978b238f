//! From the plan to a machine whose guest boots.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmrun_plan::SHARE_DIR;
use vmrun_proto::{READY_PORT, SharedMount};
use vmrun_spec::HostPort;

use super::disks::{self, OpenDisk};
use super::failure::MonitorError;
use super::kernels::LaterMounts;
use super::tree::Built;
use super::warm::{self, Warm};
use super::{MonitorRequest, hook_mounts, tree};
use crate::agent_client::Watch;
use crate::assets::Embedded;
use crate::machine::{self, Begin, Machine, StartError};
use crate::step;
use crate::templates::{Template, WorkingSet};
use crate::timeline::{Point, mark};

/// A machine that runs, and the connection on which its agent will report.
#[derive(Debug)]
pub(crate) struct Booting {
    pub(crate) machine: Machine,
    pub(crate) ready: UnixStream,
    /// How long its boot has been waited for.
    pub(crate) waited: Duration,
    /// What the guest has to be told of the shared tree's mounts.
    pub(crate) mounts: Vec<SharedMount>,
    /// What is mounted there later.
    pub(crate) later: Option<LaterMounts>,
    /// Its disks, which are still to be plugged in.
    pub(crate) disks: Vec<OpenDisk>,
    /// Sockets of the host's that are mounted.
    pub(crate) sockets: Vec<OwnedFd>,
}

pub(crate) fn boot(
    request: &MonitorRequest,
    embedded: Embedded,
    watch: Watch<'_>,
) -> Result<(Booting, Warm), MonitorError> {
    let plan = &request.plan;
    // Before there is a guest that would have to wait for one that it cannot have.
    let disks = disks::open_all(&plan.host.disks)?;
    let Built { mounts, later, sockets } =
        tree::build(&request.directory.join(SHARE_DIR), &plan.host, &request.log)?;
    if plan.host.hooks.precede_creation() {
        hook_mounts::offer(&request.directory.join(SHARE_DIR), &plan.host)?;
    }
    mark(Point::TreeBuilt);
    step!("tree built: {} and {} volumes", plan.host.rootfs.display(), plan.host.volumes.len());
    let source = request.templates.as_ref();
    let source = source.and_then(|place| warm::Source::of(place, plan, embedded, &request.log));
    let begun = Instant::now();
    let found = source.map(|source| source.find().map(|template| (source, template)));
    let (source, template) = match found {
        Some(Ok((source, template))) => (Some(source), template),
        // There are none to be had, or none are wanted.
        Some(Err(warm::Told)) | None => (None, None),
    };
    let restored = match (&source, template) {
        (Some(source), Some(template)) => restore(request, source, template, embedded)?,
        _ => None,
    };
    let (machine, ready, warm) = restored.map_or_else(|| cold(request, source, embedded, watch), Ok)?;
    let waited = warm.waited(begun.elapsed());
    Ok((Booting { machine, ready, waited, mounts, later, disks, sockets }, warm))
}

/// A machine that goes on from a template, if it can.
fn restore(
    request: &MonitorRequest,
    source: &warm::Source<'_>,
    template: Template,
    embedded: Embedded,
) -> Result<Option<(Machine, UnixStream, Warm)>, MonitorError> {
    mark(Point::ImagesFound);
    let (ready, host_port) = agents_port()?;
    let working_set = WorkingSet { runs: Vec::new(), ..template.working_set };
    match start(request, embedded, Begin::Restore(Box::new(template)), host_port) {
        Ok(machine) => {
            step!("machine restored");
            Ok(Some((machine, ready, Warm::Restored(source.used(working_set)))))
        }
        Err(error @ (StartError::Process { .. } | StartError::Refused(_))) => Err(error.into()),
        // Somebody has done that, or there is no memory left.
        Err(error @ StartError::Killed(libc::SIGKILL)) => Err(error.into()),
        // A boot may do where the template does not.
        Err(error) => {
            source.refuse(&error.to_string());
            Ok(None)
        }
    }
}

/// A machine that boots, and is saved on its way where there is to be a template.
fn cold(
    request: &MonitorRequest,
    source: Option<warm::Source<'_>>,
    embedded: Embedded,
    watch: Watch<'_>,
) -> Result<(Machine, UnixStream, Warm), MonitorError> {
    mark(Point::ImagesFound);
    let (ready, host_port) = agents_port()?;
    let (beginning, saved) = source.and_then(warm::Source::begin).unzip();
    let machine = start(request, embedded, Begin::Boot(saved), host_port)?;
    let Some(beginning) = beginning else { return Ok((machine, ready, Warm::Not)) };
    // An agent that does not stop says that it is ready; a guest that has ended comes nowhere.
    let others: Vec<_> = watch.iter().copied().chain([ready.as_fd()]).collect();
    let written = warm::save(&machine, beginning, &others, &request.log);
    Ok((machine, ready, Warm::Published(written)))
}

/// Starts the machine's process, while this one has one thread, and with it the guest.
fn start(
    request: &MonitorRequest,
    embedded: Embedded,
    begin: Begin,
    host_port: HostPort,
) -> Result<Machine, StartError> {
    let spec = &request.plan.machine;
    let share = request.directory.join(SHARE_DIR);
    let machine = machine::start(spec, embedded, &share, begin, Some(host_port))?;
    mark(Point::MachineBuilt);
    step!("machine runs: {} vCPUs, {} MiB", spec.vcpus, spec.memory_mib);
    Ok(machine)
}

/// The connection that the agent will make: our end of it, and the guest's.
fn agents_port() -> Result<(UnixStream, HostPort), MonitorError> {
    let (ready, stream) = UnixStream::pair()
        .map_err(|source| MonitorError::Io { act: "make a connection for the agent", source })?;
    Ok((ready, HostPort { port: READY_PORT, stream }))
}
