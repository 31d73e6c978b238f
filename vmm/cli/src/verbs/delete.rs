//! `vmrun delete`.

use clap::Args;
use vmrun_runtime::{DeleteOptions, Error, Store};

/// Remove a stopped container
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Name of the container
    id: String,

    /// Kill it first if it runs; do not mind if it does not exist
    #[arg(short, long)]
    force: bool,
}

impl DeleteArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot delete {:?}", self.id)
    }
}

pub(crate) fn delete(store: &Store, args: &DeleteArgs) -> Result<u8, Error> {
    super::warn_of(&vmrun_runtime::delete(store, &args.id, DeleteOptions { force: args.force })?);
    Ok(0)
}
