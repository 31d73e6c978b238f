//! The command line as typed.

use clap::{ArgAction, Parser, Subcommand};

use crate::globals::Globals;
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
    Stats(verbs::stats::StatsArgs),
    Pause(verbs::pause::PauseArgs),
    Resume(verbs::resume::ResumeArgs),
    Update(Box<verbs::update::UpdateArgs>),
    Logs(verbs::logs::LogsArgs),
    Spec(verbs::spec::SpecArgs),
    Features(verbs::features::FeaturesArgs),
    Checkpoint(verbs::checkpoint::UnsupportedArgs),
    Restore(verbs::checkpoint::UnsupportedArgs),
    Bench(verbs::bench::BenchArgs),
    Template(verbs::template::TemplateArgs),
    Check(verbs::check::CheckArgs),
    Version(verbs::version::VersionArgs),
}

impl Verb {
    /// Whether a service manager could want something of the program that it starts.
    pub(crate) fn starts_a_program(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Run(_) | Self::Exec(_))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::CommandFactory;

    use super::*;
    use crate::globals::Rootless;

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
