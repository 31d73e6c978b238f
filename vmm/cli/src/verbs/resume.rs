//! `vmrun resume`.

use clap::Args;
use vmrun_runtime::{Error, Store};

/// Let a paused container go on
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// Name of the container
    id: String,
}

impl ResumeArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot resume {:?}", self.id)
    }
}

pub(crate) fn resume(store: &Store, args: &ResumeArgs) -> Result<u8, Error> {
    vmrun_runtime::resume(store, &args.id)?;
    Ok(0)
}
