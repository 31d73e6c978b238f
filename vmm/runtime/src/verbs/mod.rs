//! The verbs that act on an existing container.

mod delete;
mod kill;
mod list;
mod logs;
mod look;
mod pause;
mod sandbox;
mod spec;
mod start;
mod state;
mod update;

pub use delete::{DeleteOptions, delete};
pub(crate) use delete::{await_machine, end_container, sweep_network};
pub use kill::{KillTarget, SignalError, kill, parse_signal};
pub use list::list;
pub use logs::logs;
pub use look::{Happening, Happenings, figures, happenings, processes};
pub use pause::{pause, resume};
pub use sandbox::{SandboxFigures, sandbox_figures};
pub use spec::{SpecError, write_spec};
pub use start::start;
pub use state::{OciState, state};
pub use update::{Limits, LimitsError, update};

use crate::error::Error;
use crate::id::ContainerId;
use crate::status::Act;
use crate::store::{Entry, State, Store, StoreError};

/// A container's directory and state.
fn find(store: &Store, id: &str) -> Result<(ContainerId, Entry, Option<State>), Error> {
    let id: ContainerId = id.parse()?;
    let entry = store.open(&id)?;
    let state = entry.read()?;
    Ok((id, entry, state))
}

/// One that must be in a state which allows `act`.
fn find_for(store: &Store, id: &str, act: Act) -> Result<(Entry, State), Error> {
    let (_, entry, state) = find_with_state(store, id)?;
    let status = state.status_now();
    if status.allows(act) { Ok((entry, state)) } else { Err(Error::WrongState { act, status }) }
}

/// One whose state is needed.
pub(crate) fn find_with_state(store: &Store, id: &str) -> Result<(ContainerId, Entry, State), Error> {
    let (id, entry, state) = find(store, id)?;
    match state {
        Some(state) => Ok((id, entry, state)),
        // It is being made this instant, or its maker died: nothing to show.
        None => Err(StoreError::NotFound { root: store.root().to_owned() }.into()),
    }
}
