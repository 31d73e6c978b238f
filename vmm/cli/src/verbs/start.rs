//! `vmrun start`.

use clap::Args;
use vmrun_runtime::{Error, Store};

/// Start the program of a created container
///
/// One that is still being created is waited for.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Name of the container
    id: String,
}

impl StartArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot start {:?}", self.id)
    }
}

pub(crate) fn start(store: &Store, args: &StartArgs) -> Result<u8, Error> {
    vmrun_runtime::start(store, &args.id)?;
    Ok(0)
}
