//! `vmrun`: OCI containers, each in its own microVM.
//!
//! argv becomes [`args::Args`], its verb becomes one call into `vmrun-runtime`,
//! and the answer becomes output and an exit code. Standard output carries
//! data, standard error carries talk.

mod args;
mod embedded;
mod globals;
mod ps;
mod report;
mod verbs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use vmrun_runtime::{Error, MonitorFds, exec_main, monitor_main, oom_main, refuse_sockets, step};

use args::{Args, Verb};
use embedded::embedded;
use report::Report;
use verbs::checkpoint::unsupported;

fn main() -> ExitCode {
    // Their start is on the way of every container's and process's: no parser for them.
    if let Some(fds) = monitor_fds() {
        return ExitCode::from(monitor_main(fds, embedded()));
    }
    if let Some(channel) = relay_fd() {
        return ExitCode::from(exec_main(channel));
    }
    if let Some(cgroup) = oom_cgroup() {
        return ExitCode::from(oom_main(&cgroup));
    }
    let began = Instant::now();
    let args = Args::parse();
    let report = Report::new(&args);
    // Before the log is opened, which would be taken for one of them.
    let sockets = if args.verb.starts_a_program() { refuse_sockets() } else { Ok(()) };
    if let Err(code) = report.open() {
        return code;
    }
    step!("command line: {}", report::command_line());
    if let Err(error) = vmrun_runtime::keep_from_children() {
        return report.fail("cannot begin", &error, error.exit_code());
    }
    let store = vmrun_runtime::Store::new(args.globals.root.as_deref());
    let failure_code =
        if matches!(args.verb, Verb::Exec(_)) { Error::exec_exit_code } else { Error::exit_code };
    let (act, result) = match args.verb {
        Verb::Create(create) => {
            (create.act(), sockets.and_then(|()| verbs::create::create(&store, create, &args.globals, began)))
        }
        Verb::Start(start) => (start.act(), verbs::start::start(&store, &start)),
        Verb::Exec(exec) => (exec.act(), sockets.and_then(|()| verbs::exec::exec(&store, exec))),
        Verb::Run(run) => {
            (run.act(), sockets.and_then(|()| verbs::run::run(&store, run, &args.globals, began)))
        }
        Verb::State(state) => (state.act(), verbs::state::state(&store, &state)),
        Verb::Kill(kill) => (kill.act(), verbs::kill::kill(&store, &kill)),
        Verb::Delete(delete) => (delete.act(), verbs::delete::delete(&store, &delete)),
        Verb::List(list) => (list.act(), verbs::list::list(&store, &list)),
        Verb::Ps(ps) => (ps.act(), verbs::ps::ps(&store, &ps)),
        Verb::Events(events) => (events.act(), verbs::events::events(&store, &events)),
        Verb::Stats(stats) => (stats.act(), verbs::stats::stats(&store, &stats)),
        Verb::Pause(pause) => (pause.act(), verbs::pause::pause(&store, &pause)),
        Verb::Resume(resume) => (resume.act(), verbs::resume::resume(&store, &resume)),
        Verb::Update(update) => (update.act(), verbs::update::update(&store, &update)),
        Verb::Logs(logs) => (logs.act(), verbs::logs::logs(&store, &logs)),
        Verb::Spec(spec) => (spec.act(), verbs::spec::spec(&spec)),
        Verb::Features(features) => (features.act(), verbs::features::features(&features)),
        Verb::Checkpoint(_) => ("cannot checkpoint".to_owned(), unsupported("checkpoint")),
        Verb::Restore(_) => ("cannot restore".to_owned(), unsupported("restore")),
        Verb::Template(template) => (template.act(), verbs::template::template(&template, &args.globals)),
        Verb::Bench(bench) => return verbs::bench::bench(&bench, &args.globals),
        Verb::Check(check) => return verbs::check::check(&check),
        Verb::Version(version) => return verbs::version::version(&version),
    };
    match result {
        Ok(code) => {
            step!("done: exit code {code}");
            ExitCode::from(code)
        }
        Err(error) => report.fail(&act, &error, failure_code(&error)),
    }
}

/// `__monitor REQUEST-FD LAUNCHER-FD ID`; the id is there for whoever looks at the process list.
fn monitor_fds() -> Option<MonitorFds> {
    let mut fds = fds_behind("__monitor")?;
    Some(MonitorFds { request: fds.next()?, launcher: fds.next()? })
}

/// `__exec CHANNEL-FD ID`, likewise.
fn relay_fd() -> Option<i32> {
    fds_behind("__exec")?.next()
}

/// `__oom CGROUP`.
fn oom_cgroup() -> Option<PathBuf> {
    let mut args = std::env::args_os().skip(1);
    (args.next()? == "__oom").then(|| args.next().map(PathBuf::from)).flatten()
}

fn fds_behind(verb: &str) -> Option<impl Iterator<Item = i32>> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != verb {
        return None;
    }
    Some(args.map_while(|text| text.to_str()?.parse().ok()))
}
