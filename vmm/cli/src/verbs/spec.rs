//! `vmrun spec`.

use std::path::PathBuf;

use clap::Args;
use vmrun_runtime::{Error, write_spec};

/// Write a config.json to begin with
///
/// It runs `sh` on a terminal, in the root file system `rootfs`.
#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// Directory to write it into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,

    /// For a user without root: the same, since the guest has a root of its own
    #[arg(long)]
    rootless: bool,
}

impl SpecArgs {
    #[allow(clippy::unused_self)] // The other verbs' acts name an object.
    pub(crate) fn act(&self) -> String {
        "cannot write config.json".to_owned()
    }
}

pub(crate) fn spec(args: &SpecArgs) -> Result<u8, Error> {
    write_spec(&args.bundle)?;
    Ok(0)
}
