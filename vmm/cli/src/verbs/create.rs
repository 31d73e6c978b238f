//! `vmrun create`.

use std::time::Instant;

use clap::Args;
use vmrun_runtime::{Error, LaunchMode, Store};

use super::launch::{LaunchArgs, Stay};
use crate::globals::Globals;

/// Make a container whose program waits for `vmrun start`
///
/// The process in --pid-file stands for the container: it is left to the nearest
/// reaper, passes signals on to the program and ends with the program's exit code
/// (128 + n when signal n ended it).
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    launch: LaunchArgs,
}

impl CreateArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot create {:?}", self.launch.id())
    }
}

pub(crate) fn create(
    store: &Store,
    args: CreateArgs,
    globals: &Globals,
    began: Instant,
) -> Result<u8, Error> {
    args.launch.launch(store, globals, Stay { mode: LaunchMode::Create, keep: true, timeline: None, began })
}
