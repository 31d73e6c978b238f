//! What the cases are written with.

mod bundle;
mod files;
mod leftovers;
mod output;
mod place;
mod rogue;
mod run;
mod terminal;
pub(crate) mod wait;

pub(crate) use bundle::Bundle;
pub(crate) use files::{Mounted, Scratch};
pub(crate) use output::Output;
pub(crate) use place::place;
pub(crate) use rogue::{Crime, rogue_kernel, silent_kernel};
pub(crate) use run::{BOTH, Detached, Outcome, Run, Runtime, STORE, Started, end_of, new_id, vmrun};
pub(crate) use terminal::Terminal;
