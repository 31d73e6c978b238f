//! `vmrun check`.

use std::process::ExitCode;

use clap::Args;

/// Tell whether this host can run a sandbox
///
/// The exit code is 0 when it can and 1 when it cannot.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn check(args: &CheckArgs) -> ExitCode {
    let report = vmrun_machine::check();
    if args.json {
        super::print(&super::json(&report));
    } else {
        let next_step = report.next_step.as_ref().map(|step| format!("; {step}")).unwrap_or_default();
        super::print(&format!("{}{next_step}\n", report.reason));
    }
    ExitCode::from(u8::from(!report.usable))
}
