//! `make bench-verbs`: what a verb costs on a sandbox that runs, against crun.

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use crate::stats::Samples;

/// Until the idle container of either side must run.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Where things are; all of it should lie on a tmpfs.
#[derive(Args, Debug)]
pub(crate) struct VerbsArgs {
    /// The `vmrun` binary, or another runtime's in its place.
    #[arg(long)]
    vmrun: PathBuf,
    /// A bundle whose program does not end by itself.
    #[arg(long)]
    bundle: PathBuf,
    /// A folder for the runtimes' stores.
    #[arg(long)]
    stores: PathBuf,
    /// Rounds that count; one more comes first and does not.
    #[arg(long, default_value_t = 15)]
    rounds: u32,
}

/// What is timed, behind the options for the store.
const VERBS: [(&str, &[&str]); 2] =
    [("exec", &["exec", Container::ID, "/bin/true"]), ("state", &["state", Container::ID])];

pub(crate) fn run(args: &VerbsArgs) -> Result<(), Box<dyn Error>> {
    let sides = [
        Container::start("vmrun", args.vmrun.clone(), args)?,
        Container::start("crun", PathBuf::from("crun"), args)?,
    ];
    let mut samples: Vec<[Samples; 2]> = VERBS.iter().map(|_| Default::default()).collect();
    for round in 0..=args.rounds {
        for ((_, words), samples) in VERBS.iter().zip(&mut samples) {
            for (side, samples) in sides.iter().zip(samples) {
                let time = side.time(words)?;
                if round > 0 {
                    samples.add(time);
                }
            }
        }
        eprintln!("round {round} of {}", args.rounds);
    }
    for ((verb, _), samples) in VERBS.iter().zip(&samples) {
        for (side, samples) in sides.iter().zip(samples) {
            println!("{}_{verb}_median: {:.4} s", side.name, samples.median());
            println!("{}_{verb}_min: {:.4} s", side.name, samples.min());
            println!("{}_{verb}_max: {:.4} s", side.name, samples.max());
        }
    }
    for ((verb, _), [ours, theirs]) in VERBS.iter().zip(&samples) {
        println!("{verb}_vs_crun: {:.2} ratio", ours.median() / theirs.median());
    }
    Ok(())
}

/// A container that runs until this is dropped.
struct Container {
    name: &'static str,
    runtime: PathBuf,
    store: PathBuf,
}

impl Container {
    const ID: &'static str = "bench-verbs";

    fn start(name: &'static str, runtime: PathBuf, args: &VerbsArgs) -> Result<Self, Box<dyn Error>> {
        let container = Self { name, runtime, store: args.stores.join(name) };
        let mut run = container.command(&["run", "--detach", "--bundle"]);
        let status = run.arg(&args.bundle).arg(Self::ID).status()?;
        if !status.success() {
            return Err(format!("cannot start the container of {name}: {status}").into());
        }
        let begun = Instant::now();
        while container.time(&["exec", Self::ID, "/bin/true"]).is_err() {
            if begun.elapsed() > START_LIMIT {
                return Err(format!("{name} still cannot exec in its container").into());
            }
        }
        Ok(container)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(&self.store).args(words);
        // Nothing of ours may be held open by what lives on.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn time(&self, words: &[&str]) -> Result<Duration, Box<dyn Error>> {
        let start = Instant::now();
        let status = self.command(words).status()?;
        let elapsed = start.elapsed();
        if status.success() { Ok(elapsed) } else { Err(format!("{} {words:?}: {status}", self.name).into()) }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = self.command(&["delete", "--force", Self::ID]).status() {
            eprintln!("vmrun-bench: cannot delete the container of {}: {error}", self.name);
        }
    }
}
