//! `vmrun`: OCI containers, each in its own microVM.
//!
//! argv becomes [`args::Args`], its verb becomes one call into `vmrun-runtime`,
//! and the answer becomes output and an exit code. Standard output carries
//! data, standard error carries talk.

mod args;
mod embedded;
mod report;
mod verbs;

use std::process::ExitCode;

use clap::Parser;
use vmrun_runtime::{MonitorFds, monitor_main};

use args::{Args, Verb};
use embedded::embedded;
use report::Report;
use verbs::checkpoint::unsupported;

fn main() -> ExitCode {
    // The monitor's start is on the way of every container's: no parser for it.
    if let Some(fds) = monitor_fds() {
        return ExitCode::from(monitor_main(fds, embedded()));
    }
    let args = Args::parse();
    let report = Report::new(&args);
    let store = vmrun_runtime::Store::new(args.globals.root.as_deref());
    let (act, result) = match args.verb {
        Verb::Create(create) => (create.act(), verbs::create::create(&store, create, &args.globals)),
        Verb::Start(start) => (start.act(), verbs::start::start(&store, &start)),
        Verb::Run(run) => (run.act(), verbs::run::run(&store, run, &args.globals)),
        Verb::State(state) => (state.act(), verbs::state::state(&store, &state)),
        Verb::Kill(kill) => (kill.act(), verbs::kill::kill(&store, &kill)),
        Verb::Delete(delete) => (delete.act(), verbs::delete::delete(&store, &delete)),
        Verb::List(list) => (list.act(), verbs::list::list(&store, &list)),
        Verb::Checkpoint(_) => ("cannot checkpoint".to_owned(), unsupported("checkpoint")),
        Verb::Restore(_) => ("cannot restore".to_owned(), unsupported("restore")),
        Verb::Check(check) => return verbs::check::check(&check),
        Verb::Version(version) => return verbs::version::version(&version),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => report.fail(&act, &error),
    }
}

/// `__monitor REQUEST-FD LAUNCHER-FD ID`; the id is there for whoever looks at the process list.
fn monitor_fds() -> Option<MonitorFds> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != "__monitor" {
        return None;
    }
    let mut number = || args.next().as_deref().and_then(|text: &std::ffi::OsStr| text.to_str()?.parse().ok());
    Some(MonitorFds { request: number()?, launcher: number()? })
}
