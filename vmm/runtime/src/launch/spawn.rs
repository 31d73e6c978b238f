//! Starting the monitor: this binary again, with the request in a memory file.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::channel::Channel;
use super::child::ChildProcess;
use super::service::Manager;
use super::{LaunchError, network};
use crate::monitor::{HIDDEN_VERB, MonitorRequest};
use crate::{fds, timeline};

/// A monitor that was just started.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) child: ChildProcess,
    pub(crate) channel: Channel,
}

/// In `cgroup`, if it may be started there; else the monitor enters it.
pub(crate) fn spawn(
    request: &MonitorRequest,
    cgroup: Option<&Path>,
    manager: Option<&Manager>,
) -> Result<Monitor, LaunchError> {
    // A copy, which other programs do not get.
    let manager = manager.map(Manager::copy).transpose().map_err(LaunchError::io("copy a socket"))?;
    let notify =
        manager.as_ref().map(fds::pass_on).transpose().map_err(LaunchError::io("pass a socket on"))?;
    let shared = timeline::for_the_monitor().map_err(LaunchError::io("pass the timeline on"))?;
    let timeline = shared.as_ref().map(|(_, number)| *number);
    let plan = match (notify, timeline) {
        (None, None) => request_file(request)?,
        _ => request_file(&MonitorRequest { notify, timeline, ..request.clone() })?,
    };
    let (ours, theirs) = UnixStream::pair().map_err(LaunchError::io("make a socket pair"))?;
    let plan_fd = fds::pass_on(&plan).map_err(LaunchError::io("pass the plan on"))?;
    let channel_fd = fds::pass_on(&theirs).map_err(LaunchError::io("pass the channel on"))?;
    let (plan_fd, channel_fd) = (plan_fd.to_string(), channel_fd.to_string());
    let arguments = [HIDDEN_VERB, &plan_fd, &channel_fd, &request.state.id];
    let child = network::within(&request.plan.host.network, || {
        ChildProcess::start(&arguments, cgroup).map_err(LaunchError::io("start the monitor"))
    })?;
    Ok(Monitor { child, channel: Channel::new(ours) })
}

fn request_file(request: &MonitorRequest) -> Result<File, LaunchError> {
    let bytes = vmrun_proto::encode(request).map_err(LaunchError::Encode)?;
    let fd = memfd_create(c"vmrun-plan", MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| LaunchError::io("make a memory file")(errno.into()))?;
    let mut file = File::from(fd);
    file.write_all(&bytes).and_then(|()| file.rewind()).map_err(LaunchError::io("write the plan"))?;
    Ok(file)
}
