//! `vmrun ps` and `vmrun events`: what goes on in a container.

use vmrun_proto::{ContainerFigures, ProcessInfo};

use crate::control::{self, ControlReply, ControlRequest};
use crate::error::Error;
use crate::store::Store;

/// The container's processes, by pid in the guest.
///
/// # Errors
/// It has ended, or its monitor or agent does not answer.
pub fn processes(store: &Store, id: &str) -> Result<Vec<ProcessInfo>, Error> {
    match ask(store, id, &ControlRequest::Processes)? {
        ControlReply::Processes(processes) => Ok(processes),
        _ => Ok(Vec::new()),
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
