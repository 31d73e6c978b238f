//! `vmrun pause`.

use clap::Args;
use vmrun_runtime::{Error, Store};

/// Freeze a container and hold the CPUs of its machine
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Name of the container
    id: String,
}

impl PauseArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot pause {:?}", self.id)
    }
}

pub(crate) fn pause(store: &Store, args: &PauseArgs) -> Result<u8, Error> {
    vmrun_runtime::pause(store, &args.id)?;
    Ok(0)
}
