//! `vmrun pause` and `vmrun resume`.

use crate::control::{self, ControlRequest};
use crate::error::Error;
use crate::store::Store;

/// Freezes a container's processes and holds its machine's CPUs.
///
/// # Errors
/// It does not run, or its monitor or agent does not answer.
pub fn pause(store: &Store, id: &str) -> Result<(), Error> {
    order(store, id, &ControlRequest::Pause)
}

/// Lets a paused container go on.
///
/// # Errors
/// It is not paused, or its monitor or agent does not answer.
pub fn resume(store: &Store, id: &str) -> Result<(), Error> {
    order(store, id, &ControlRequest::Resume)
}

fn order(store: &Store, id: &str, request: &ControlRequest) -> Result<(), Error> {
    let (entry, state) = super::find_for(store, id, request.act())?;
    control::ask(&entry, &state, request).map(drop)
}
