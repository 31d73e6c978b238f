//! From a machine that boots to one that is saved.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vmrun_machine::{Built, MachineState, MappedPages};
use vmrun_proto::{CHECKPOINT_PORT, CHECKPOINT_VARIABLE};
use vmrun_spec::{Image, MachineSpec};

use super::{Draft, TemplateError};
use crate::assets::Embedded;
use crate::machine::{Machine, SaveError, Saved};

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

/// A file for the state of a machine that is to be saved to `draft`, and the files that its process gets.
pub(crate) fn files(draft: &Draft) -> Result<(File, Saved), TemplateError> {
    let failed = |source| TemplateError::Io { act: "save a machine's state to", path: draft.path(), source };
    let state = memfd_create(c"vmrun-state", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let state = File::from(state);
    let copies =
        draft.memory().try_clone().and_then(|memory| Ok(Saved { memory, state: state.try_clone()? }));
    Ok((state, copies.map_err(failed)?))
}

/// Waits until the guest is at its checkpoint, and saves it there; nothing where it does not come, since the time is
/// over or something is readable in `others`. It stands still until it is let pass.
pub(crate) fn save(
    machine: &Machine,
    draft: &Draft,
    state: &File,
    others: &[BorrowedFd<'_>],
) -> Result<Option<MachineState>, TemplateError> {
    match machine.save(state, others) {
        Ok(state) => Ok(Some(state)),
        Err(SaveError::NotThere) => Ok(None),
        Err(SaveError::Full) => Err(draft.no_room()),
        Err(SaveError::Failed(why)) => Err(TemplateError::Save { path: draft.path(), why }),
    }
}
