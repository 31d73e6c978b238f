//! `vmrun kill`.

use clap::Args;
use vmrun_runtime::{Error, KillTarget, Store, parse_signal};

/// Send a signal to a container's first process
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Name of the container
    id: String,

    /// Name or number of the signal
    #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
    signal: String,

    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
}

impl KillArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot signal {:?}", self.id)
    }
}

pub(crate) fn kill(store: &Store, args: &KillArgs) -> Result<u8, Error> {
    let target = if args.all { KillTarget::All } else { KillTarget::Init };
    vmrun_runtime::kill(store, &args.id, parse_signal(&args.signal)?, target)?;
    Ok(0)
}
