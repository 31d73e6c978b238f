//! From a machine that boots to one that is saved.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use vmrun_machine::{Built, MachineError, MachineState, MappedPages, Running};
use vmrun_proto::{CHECKPOINT_PORT, CHECKPOINT_VARIABLE};
use vmrun_spec::{Image, MachineSpec};

use super::{Draft, TemplateError};
use crate::agent_client::Wait;
use crate::assets::Embedded;

/// How long the guest may take to its checkpoint.
const CHECKPOINT: Wait = Wait { what: "the guest to come to its checkpoint", limit: Duration::from_secs(60) };

/// How long vCPUs may take to leave the guest.
const HOLD_LIMIT: Duration = Duration::from_secs(5);

/// The kernel's pages that a machine of `spec` has from this program.
pub(crate) fn kernel_pages(spec: &MachineSpec, embedded: Embedded) -> &'static [MappedPages] {
    if spec.kernel == Image::Embedded { embedded.kernel_pages } else { &[] }
}

/// A specification of the same machine, whose guest stops at the checkpoint.
pub(crate) fn stopping(spec: &MachineSpec) -> MachineSpec {
    let mut spec = spec.clone();
    spec.cmdline.push(format!("{CHECKPOINT_VARIABLE}=1"));
    spec
}

/// Starts a machine of such a specification.
pub(crate) fn start(built: Built) -> Result<Running, MachineError> {
    built.stopping_at(CHECKPOINT_PORT)?.start()
}

/// Waits until the guest is at its checkpoint, and saves it there; nothing where it does not come, since the time is
/// over or something is readable in `others`. It stands still until it is let pass.
pub(crate) fn save(
    machine: &mut Running,
    draft: &Draft,
    kernel: &[MappedPages],
    others: &[BorrowedFd<'_>],
) -> Result<Option<MachineState>, TemplateError> {
    let reached = machine.checkpoint_fd();
    let reached = reached.map(|reached| CHECKPOINT.readable(reached, CHECKPOINT.deadline(), others));
    match reached {
        Some(Ok(())) => {}
        _ => return Ok(None),
    }
    machine.save(kernel, draft.memory(), HOLD_LIMIT).map(Some).map_err(|error| draft.failed(error))
}
