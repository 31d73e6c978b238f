//! The command line as typed.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::verbs;

/// What `--version` prints behind the name, in runc's lines.
const VERSION: &str = concat!(
    "version ",
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("VMRUN_COMMIT"),
    "\nspec: 1.2.1\nkernel: ",
    env!("VMRUN_KERNEL_RELEASE"),
);

/// Runs OCI containers, each in its own microVM.
#[derive(Debug, Parser)]
#[command(name = "vmrun", version = VERSION, disable_version_flag = true, max_term_width = 100)]
pub(crate) struct Args {
    /// Directory that remembers the containers
    /// [default: /run/vmrun, or $XDG_RUNTIME_DIR/vmrun without root]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    /// File that errors are written to as well
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,

    /// Format of that file
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// Show the causes of an error one a line
    #[arg(long, global = true)]
    pub(crate) debug: bool,

    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Run(verbs::run::RunArgs),
    State(verbs::state::StateArgs),
    Kill(verbs::kill::KillArgs),
    Delete(verbs::delete::DeleteArgs),
    List(verbs::list::ListArgs),
    Check(verbs::check::CheckArgs),
    Version(verbs::version::VersionArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn global_options_stand_on_either_side_of_the_verb() {
        for line in [["vmrun", "--root", "/r", "state", "x"], ["vmrun", "state", "--root", "/r", "x"]] {
            let args = Args::try_parse_from(line).unwrap();
            assert_eq!(args.root, Some(PathBuf::from("/r")));
        }
    }

    #[test]
    fn version_has_runcs_lines() {
        let error = Args::try_parse_from(["vmrun", "-v"]).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("vmrun version "), "{text}");
        assert!(text.contains("\nspec: "), "{text}");
    }
}
