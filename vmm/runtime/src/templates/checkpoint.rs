//! From a machine that boots to one that is saved.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use vmrun_machine::{Built, MachineState, MappedPages, Running, SavedPages};
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

/// Which of this process's pages there are: opened before other processes are kept out, and so a user who is not root.
pub(crate) fn open_pagemap() -> Result<File, TemplateError> {
    let path = Path::new("/proc/self/pagemap");
    File::open(path).map_err(|source| TemplateError::Io { act: "open", path: path.to_owned(), source })
}

/// Has the guest of a machine of such a specification stop.
pub(crate) fn stop(built: &mut Built) -> Result<(), TemplateError> {
    Ok(built.stop_at(CHECKPOINT_PORT)?)
}

/// Waits until the guest is at its checkpoint, and saves it there; nothing where it does not come, since the time is
/// over or something is readable in `others`. It stands still until it is let pass.
pub(crate) fn save(
    machine: &mut Running,
    draft: &Draft,
    (kernel, pagemap): (&[MappedPages], &File),
    others: &[BorrowedFd<'_>],
) -> Result<Option<MachineState>, TemplateError> {
    let reached = machine.checkpoint_fd();
    let reached = reached.map(|reached| CHECKPOINT.readable(reached, CHECKPOINT.deadline(), others));
    match reached {
        Some(Ok(())) => {}
        _ => return Ok(None),
    }
    let pages = SavedPages { file: draft.memory(), kernel, pagemap };
    machine.save(&pages, HOLD_LIMIT).map(Some).map_err(|error| draft.failed(error))
}
