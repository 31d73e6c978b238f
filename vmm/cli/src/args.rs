//! The command line as typed.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use vmrun_runtime::{Log, LogFormat};

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
#[command(name = "vmrun", version = VERSION, disable_version_flag = true, max_term_width = 100, args_override_self = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) globals: Globals,

    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options that stand before or behind any verb.
#[derive(Debug, clap::Args)]
pub(crate) struct Globals {
    /// Directory that remembers the containers
    /// [default: /run/vmrun, or $XDG_RUNTIME_DIR/vmrun without root]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    /// File for errors and, with --debug, for each step [default: standard error]
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Format of its lines
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormatName,

    /// Tell each step in the log, and the causes of an error one a line
    #[arg(long, global = true)]
    pub(crate) debug: bool,

    /// linux.cgroupsPath is SLICE:PREFIX:NAME, as engines with systemd write it
    #[arg(long, global = true)]
    pub(crate) systemd_cgroup: bool,

    /// Taken for runc's sake: there is no checkpointing that could need it
    #[arg(long, global = true, value_name = "PATH", hide = true)]
    criu: Option<PathBuf>,

    /// As with runc: `true`, `false` or `auto`. The same here: the cgroup is left out
    /// where the user may not make it.
    /// Only in front of the verb: `spec` has an option of this name
    #[arg(long, value_name = "BOOL", default_value = "auto")]
    rootless: Rootless,
}

impl Globals {
    /// Where errors and steps are written to.
    pub(crate) fn log(&self) -> Log {
        let format = match self.log_format {
            LogFormatName::Text => LogFormat::Text,
            LogFormatName::Json => LogFormat::Json,
        };
        // Empty is runc's default: standard error. The processes of a container work in other directories.
        let path = self.log.clone().filter(|path| !path.as_os_str().is_empty());
        let path = path.map(|path| std::path::absolute(&path).unwrap_or(path));
        Log { path, format, debug: self.debug }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormatName {
    Text,
    Json,
}

/// All of them mean the same: nothing but accounting depends on the host's cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rootless {
    True,
    False,
    Auto,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Create(verbs::create::CreateArgs),
    Start(verbs::start::StartArgs),
    Run(verbs::run::RunArgs),
    Exec(Box<verbs::exec::ExecArgs>),
    State(verbs::state::StateArgs),
    Kill(verbs::kill::KillArgs),
    Delete(verbs::delete::DeleteArgs),
    List(verbs::list::ListArgs),
    Ps(verbs::ps::PsArgs),
    Events(verbs::events::EventsArgs),
    Pause(verbs::pause::PauseArgs),
    Resume(verbs::resume::ResumeArgs),
    Update(Box<verbs::update::UpdateArgs>),
    Logs(verbs::logs::LogsArgs),
    Spec(verbs::spec::SpecArgs),
    Features(verbs::features::FeaturesArgs),
    Checkpoint(verbs::checkpoint::UnsupportedArgs),
    Restore(verbs::checkpoint::UnsupportedArgs),
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
            assert_eq!(args.globals.root, Some(PathBuf::from("/r")));
        }
    }

    #[test]
    fn rootless_is_a_choice_before_the_verb_and_a_flag_of_spec() {
        let args = Args::try_parse_from(["vmrun", "--rootless", "true", "spec", "--rootless"]).unwrap();
        assert!(matches!(args.verb, Verb::Spec(_)) && args.globals.rootless == Rootless::True);
    }

    #[test]
    fn option_that_is_given_twice_has_its_last_value() {
        let line = [
            "vmrun", "--root", "/a", "--root", "/b", "create", "-b", "x", "--bundle", "y", "--debug",
            "--debug", "id",
        ];
        let args = Args::try_parse_from(line).unwrap();
        assert_eq!(args.globals.root, Some(PathBuf::from("/b")));
    }

    #[test]
    fn what_follows_the_id_is_for_ps_or_the_process() {
        for line in [
            &["vmrun", "ps", "x", "-f"][..],
            &["vmrun", "ps", "x", "-e", "-x", "-o", "pid"],
            &["vmrun", "exec", "x", "ls", "-t"],
        ] {
            Args::try_parse_from(line).unwrap();
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
