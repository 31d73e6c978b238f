//! `vmrun bench`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use vmrun_measure::{
    CommandLine, DensityRequest, MeasureError, Minimal, OfVmrun, Program, Progress, Report, Request, Side,
    against, density, density_text, html, measure, text,
};
use vmrun_runtime::chain;

use crate::globals::Globals;

/// Measure start-up, and compare it with other commands
///
/// Commands take turns, run by run. The report has the time of each phase, the median ratio of adjacent runs
/// with its 95 % confidence interval, and counts that do not depend on the machine's speed: system calls,
/// page faults and VM exits, where the kernel lets this user count them.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Cold starts: `vmrun run --cold`, from its first instruction to its exit code
    Boot(BootArgs),
    /// Warm starts: likewise, from a template
    Warm(BootArgs),
    /// `vmrun exec` in a sandbox that runs
    Exec(ExecArgs),
    /// How many sandboxes fit side by side, and what memory each takes
    Density(DensityArgs),
}

#[derive(Debug, Args)]
struct BootArgs {
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    rounds: RoundsArgs,
}

#[derive(Debug, Args)]
struct ExecArgs {
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    rounds: RoundsArgs,
    /// Command to run in the sandbox, beside the bundle's own program
    #[arg(long, value_name = "COMMAND", default_value = "/exit", value_parser = CommandLine::parse)]
    command: CommandLine,
}

#[derive(Debug, Args)]
struct DensityArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// How many sandboxes
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    sandboxes: u32,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The longest that a start may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    limit: u64,
}

/// The sandbox.
#[derive(Debug, Args)]
struct MachineArgs {
    /// Its bundle [default: one with a program of 130 bytes]
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Its kernel, ELF vmlinux or bzImage [default: the one inside vmrun]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its boot image [default: the one inside vmrun]
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,
    /// Its vCPUs
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    /// Its memory
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// One more kernel parameter; may be repeated
    #[arg(long, value_name = "PARAM", action = ArgAction::Append)]
    kernel_param: Vec<String>,
}

/// How often, against what, and where it is said.
#[derive(Debug, Args)]
struct RoundsArgs {
    /// Timed runs of each command
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Runs of each before those
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmups: u32,
    /// Another command to take turns with, its words quoted as in a shell; may be repeated
    #[arg(long, value_name = "COMMAND", action = ArgAction::Append, value_parser = CommandLine::parse)]
    vs: Vec<CommandLine>,
    /// The longest that a run may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    limit: u64,
    /// Further runs of each, counted and not timed; 0 turns counting off
    #[arg(long, value_name = "N", default_value_t = 3)]
    counted: u32,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as a self-contained HTML page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Compare with an earlier report that --json has written
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Exit with code 1 if a median exceeds the baseline's by more than this
    #[arg(long, value_name = "PERCENT", requires = "baseline")]
    fail_if_slower: Option<f64>,
}

/// A failure is told here: it is none of a container's.
pub(crate) fn bench(args: &BenchArgs, globals: &Globals) -> ExitCode {
    let result = match &args.what {
        What::Boot(args) => starts("boot", args, globals, &["--cold"]),
        What::Warm(args) => starts("warm", args, globals, &[]),
        What::Exec(args) => exec(args, globals),
        What::Density(args) => fill(args, globals),
    };
    result.unwrap_or_else(|error| {
        eprintln!("vmrun: error: cannot measure: {}{}", chain(&error), next_step(&error));
        ExitCode::FAILURE
    })
}

fn next_step(error: &MeasureError) -> &'static str {
    match error {
        MeasureError::Failed { .. } | MeasureError::Start { .. } => "; run it by hand",
        MeasureError::Late { .. } => "; run it by hand, or give it more time with --limit",
        MeasureError::Baseline { .. } => "; name a file that --json has written",
        MeasureError::File { .. } | MeasureError::Command { .. } => "; correct it",
        MeasureError::Count(_) => "; count nothing, with --counted 0",
        MeasureError::Number(_) => "",
    }
}

/// What a start needs that is not there is made in a run before those that count.
fn starts(
    kind: &'static str,
    args: &BootArgs,
    globals: &Globals,
    flags: &[&str],
) -> Result<ExitCode, MeasureError> {
    let bundle = Bundle::of(&args.machine, Program::Exit)?;
    let mut vmrun = args.machine.vmrun(globals, &bundle)?;
    vmrun.globals.extend(flags.iter().map(|&flag| flag.to_owned()));
    args.rounds.run(kind, Side::starts("vmrun", vmrun))
}

fn exec(args: &ExecArgs, globals: &Globals) -> Result<ExitCode, MeasureError> {
    let bundle = Bundle::of(&args.machine, Program::Wait)?;
    let limit = Duration::from_secs(args.rounds.limit);
    let sandbox = vmrun_measure::Sandbox::start(args.machine.vmrun(globals, &bundle)?, limit)?;
    let result = args.rounds.run("exec", Side::command("vmrun exec", sandbox.exec(&args.command)));
    result.and_then(|code| sandbox.end().map(|()| code))
}

fn fill(args: &DensityArgs, globals: &Globals) -> Result<ExitCode, MeasureError> {
    let json = args.json.as_deref().map(Output::make).transpose()?;
    let bundle = Bundle::of(&args.machine, Program::Wait)?;
    let request = DensityRequest {
        vmrun: args.machine.vmrun(globals, &bundle)?,
        sandboxes: usize::try_from(args.sandboxes).unwrap_or(usize::MAX),
        limit: Duration::from_secs(args.limit),
    };
    let bar = bar();
    let found = density(&request, |at| show(&bar, at));
    bar.finish_and_clear();
    let found = found?;
    super::print(&density_text(&found));
    json.map_or(Ok(()), |json| json.write(&super::json(&found)))?;
    Ok(ExitCode::SUCCESS)
}

impl RoundsArgs {
    fn run(&self, kind: &'static str, ours: Side) -> Result<ExitCode, MeasureError> {
        // What cannot be written is known before an hour of runs.
        let json = self.json.as_deref().map(Output::make).transpose()?;
        let page = self.html.as_deref().map(Output::make).transpose()?;
        let request = Request {
            kind,
            sides: std::iter::once(ours).chain(named(&self.vs)).collect(),
            runs: usize::try_from(self.runs).unwrap_or(usize::MAX),
            warmups: usize::try_from(self.warmups).unwrap_or(usize::MAX),
            limit: Duration::from_secs(self.limit),
            counted: usize::try_from(self.counted).unwrap_or(usize::MAX),
        };
        let bar = bar();
        let report = measure(&request, |at| show(&bar, at));
        bar.finish_and_clear();
        let report = report?;
        super::print(&text(&report));
        json.map_or(Ok(()), |json| json.write(&super::json(&report)))?;
        page.map_or(Ok(()), |page| page.write(&html(&report)))?;
        self.judge(&report)
    }

    fn judge(&self, report: &Report) -> Result<ExitCode, MeasureError> {
        let Some(path) = &self.baseline else { return Ok(ExitCode::SUCCESS) };
        let verdict = against(report, path, self.fail_if_slower)?;
        super::print(&format!("\n{}\n", verdict.lines.join("\n")));
        for line in &verdict.worse {
            eprintln!("vmrun: error: slower than the baseline: {line}");
        }
        Ok(ExitCode::from(u8::from(!verdict.worse.is_empty())))
    }
}

/// The others by their programs' names, with a number where one comes again.
fn named(lines: &[CommandLine]) -> Vec<Side> {
    let name = |(at, line): (usize, &CommandLine)| {
        let before = lines.iter().take(at).filter(|other| other.program() == line.program()).count();
        let name = line.program().to_owned();
        Side::command(if before == 0 { name } else { format!("{name} {}", before + 1) }, line.clone())
    };
    lines.iter().enumerate().map(name).collect()
}

/// The bundle that was named, or one that goes with this value.
enum Bundle {
    Named(PathBuf),
    Made(Minimal),
}

impl Bundle {
    fn of(args: &MachineArgs, program: Program) -> Result<Self, MeasureError> {
        args.bundle
            .as_ref()
            .map_or_else(|| Minimal::make(program).map(Self::Made), |named| Ok(Self::Named(named.clone())))
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Named(path) => path.clone(),
            Self::Made(made) => made.path(),
        }
    }
}

impl MachineArgs {
    fn vmrun(&self, globals: &Globals, bundle: &Bundle) -> Result<OfVmrun, MeasureError> {
        let program = std::env::current_exe().map_err(MeasureError::Count)?;
        let mut options = vec!["--bundle".to_owned(), bundle.path().to_string_lossy().into_owned()];
        let mut add = |option: &str, value: Option<String>| {
            options.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        add("--kernel", path(&self.kernel));
        add("--initramfs", path(&self.initramfs));
        add("--vcpus", self.vcpus.map(|number| number.to_string()));
        add("--memory", self.memory.map(|number| number.to_string()));
        self.kernel_param.iter().for_each(|parameter| add("--kernel-param", Some(parameter.clone())));
        Ok(OfVmrun { program, globals: globals.for_another(), options })
    }
}

/// A file for what is found.
struct Output {
    path: PathBuf,
    file: File,
}

impl Output {
    fn make(path: &Path) -> Result<Self, MeasureError> {
        let made = File::create(path);
        let failed = |source| MeasureError::File { act: "make", path: path.to_owned(), source };
        Ok(Self { path: path.to_owned(), file: made.map_err(failed)? })
    }

    fn write(mut self, text: &str) -> Result<(), MeasureError> {
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|source| MeasureError::File { act: "write", path: self.path, source })
    }
}

/// Shown on a terminal alone.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} runs, {eta} left") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, at: Progress) {
    bar.set_length(at.all.try_into().unwrap_or(u64::MAX));
    bar.set_position(at.done.try_into().unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Args;

    #[test]
    fn other_commands_are_parsed_where_they_are_typed() {
        let line = ["vmrun", "bench", "boot", "-n", "3", "--vs", "crun run -b /b x", "--vs", "'b c' d"];
        Args::try_parse_from(line).unwrap();
        for wrong in [
            &["vmrun", "bench", "boot", "--vs", "'x"][..],
            &["vmrun", "bench", "boot", "--runs", "0"],
            &["vmrun", "bench", "boot", "--fail-if-slower", "3"],
            &["vmrun", "bench"],
        ] {
            assert!(Args::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
