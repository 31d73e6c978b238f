//! `vmrun ps` and `vmrun events`: what goes on in a container.

use vmrun_proto::{ContainerFigures, ProcessInfo};

use crate::control::{self, ControlReply, ControlRequest};
use crate::error::Error;
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
pub fn figures(store: &Store, id: &str) -> Result<ContainerFigures, Error> {
    match ask(store, id, &ControlRequest::Figures)? {
        ControlReply::Figures(figures) => Ok(*figures),
        _ => Ok(ContainerFigures::default()),
    }
}

fn ask(store: &Store, id: &str, request: &ControlRequest) -> Result<ControlReply, Error> {
    let (entry, state) = super::find_for(store, id, request.act())?;
    control::ask(&entry, &state, request)
}
