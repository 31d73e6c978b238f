//! `vmrun start`.

use crate::control::{self, ControlRequest};
use crate::error::Error;
use crate::hooks::{self, HookError};
use crate::launch::network;
use crate::status::Act;
use crate::store::Store;
use crate::verbs::OciState;

/// Lets a created container's program run. What its hooks complain of is in the answer.
///
/// # Errors
/// It is not created, or its program cannot be started.
pub fn start(store: &Store, id: &str) -> Result<Vec<HookError>, Error> {
    let (entry, state) = super::find_for(store, id, Act::Start)?;
    // Engines may set up the network between the creation and the start.
    network::still_empty(state.monitor.pid)?;
    control::ask(&entry, &state, &ControlRequest::Start)?;
    if state.poststart.is_empty() {
        return Ok(Vec::new());
    }
    // It may have ended and been deleted meanwhile; the hooks are owed all the same.
    let now = entry.read().ok().flatten().unwrap_or_else(|| state.clone());
    Ok(hooks::run_each(&state.poststart, &OciState::of(&now), &state.bundle))
}
