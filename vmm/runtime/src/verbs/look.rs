//! `vmrun ps` and `vmrun events`: what goes on in a container.

use std::time::Duration;

use vmrun_proto::ProcessInfo;

use crate::control::{self, ControlReply, ControlRequest, Telling, Told};
use crate::error::Error;
use crate::figures::Figures;
use crate::status::Status;
use crate::store::Store;

/// The container's processes, by pid in the guest. One that has stopped has none.
///
/// # Errors
/// Its monitor or agent does not answer.
pub fn processes(store: &Store, id: &str) -> Result<Vec<ProcessInfo>, Error> {
    match ask(store, id, &ControlRequest::Processes) {
        Ok(ControlReply::Processes(processes)) => Ok(processes),
        Ok(_) | Err(Error::WrongState { status: Status::Stopped, .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The container's figures.
///
/// # Errors
/// It has ended, or its monitor or agent does not answer.
pub fn figures(store: &Store, id: &str) -> Result<Figures, Error> {
    match ask(store, id, &ControlRequest::Figures)? {
        ControlReply::Figures(figures) => Ok(*figures),
        _ => Ok(Figures::default()),
    }
}

/// What happens to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The kernel has killed a process of it for want of memory.
    OutOfMemory,
    /// Nothing, in the time that was waited.
    Nothing,
    /// It has ended.
    End,
}

/// Whoever tells what happens to a container.
#[derive(Debug)]
pub struct Happenings(Telling);

/// Has a container's monitor tell what happens from now on.
///
/// # Errors
/// It has ended, or its monitor does not answer.
pub fn happenings(store: &Store, id: &str) -> Result<Happenings, Error> {
    let (entry, state) = super::find_for(store, id, ControlRequest::Watch.act())?;
    control::watch(&entry, &state).map(Happenings)
}

impl Happenings {
    /// Waits for the next thing, not longer than that.
    ///
    /// # Errors
    /// The monitor speaks nonsense.
    pub fn next(&self, limit: Duration) -> Result<Happening, Error> {
        Ok(match self.0.next(limit)? {
            Told::OutOfMemory => Happening::OutOfMemory,
            Told::Nothing => Happening::Nothing,
            Told::End => Happening::End,
        })
    }
}

fn ask(store: &Store, id: &str, request: &ControlRequest) -> Result<ControlReply, Error> {
    let (entry, state) = super::find_for(store, id, request.act())?;
    control::ask(&entry, &state, request)
}
