//! `vmrun state`.

use clap::Args;
use vmrun_runtime::{Error, Store};

/// Print the state of a container as JSON
#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// Name of the container
    id: String,
}

impl StateArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot show the state of {:?}", self.id)
    }
}

pub(crate) fn state(store: &Store, args: &StateArgs) -> Result<u8, Error> {
    let state = vmrun_runtime::state(store, &args.id)?;
    super::print(&super::json(&state));
    Ok(0)
}
