//! `vmrun logs`.

use clap::Args;
use vmrun_runtime::{Error, Store};

/// Print what the guest's kernel and the agent said
///
/// What the program writes goes where its standard streams go; this is the console of its machine.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Name of the container
    id: String,

    /// Go on until the container has ended
    #[arg(short, long)]
    follow: bool,
}

impl LogsArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot show the console of {:?}", self.id)
    }
}

pub(crate) fn logs(store: &Store, args: &LogsArgs) -> Result<u8, Error> {
    vmrun_runtime::logs(store, &args.id, args.follow, &mut std::io::stdout().lock())?;
    Ok(0)
}
