//! `vmrun run`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use vmrun_runtime::{Error, LaunchMode, Store};

use super::launch::{LaunchArgs, Stay};
use crate::globals::Globals;

/// Run a container and wait for its end
///
/// The exit code is the program's (128 + n when signal n ended it), 127 when the
/// program does not exist, 126 when it cannot be executed, and 1 when the
/// container could not be made.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    launch: LaunchArgs,

    /// Return when the program has started
    #[arg(short, long)]
    detach: bool,

    /// Keep the container in the store when it has ended
    #[arg(long)]
    keep: bool,

    /// Write a timeline of the run, phase by phase, on the host and in the guest: JSON that viewers of Chrome's
    /// trace format open
    #[arg(long, value_name = "FILE", conflicts_with = "detach")]
    timeline: Option<PathBuf>,

    /// Taken for runc's sake: no process of the container is ever left to this one
    #[arg(long, hide = true)]
    no_subreaper: bool,
}

impl RunArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot run {:?}", self.launch.id())
    }
}

pub(crate) fn run(store: &Store, args: RunArgs, globals: &Globals, began: Instant) -> Result<u8, Error> {
    let mode = if args.detach { LaunchMode::RunDetached } else { LaunchMode::Run };
    args.launch.launch(store, globals, Stay { mode, keep: args.keep, timeline: args.timeline, began })
}
