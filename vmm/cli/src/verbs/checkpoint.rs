//! `vmrun checkpoint` and `vmrun restore`, which there are not yet.

use clap::Args;
use vmrun_runtime::Error;

/// Not supported yet
#[derive(Debug, Args)]
pub(crate) struct UnsupportedArgs {
    /// runc's options are taken, so that the answer is about the verb.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _words: Vec<String>,
}

/// The answer to `verb`.
pub(crate) fn unsupported(verb: &'static str) -> Result<u8, Error> {
    Err(Error::Verb { verb, why: "the state of a virtual machine cannot be saved yet" })
}
