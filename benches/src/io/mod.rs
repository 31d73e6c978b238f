//! `make bench-io`: what a program's files cost. Requests, exits and system calls are counted, which do not
//! depend on the machine; a storm of small files is timed against crun, alternately.
//!
//! ```text
//!   this program ── lines ──▶ io-program in a container, on /data: a directory of the host
//!        └ before and after each operation: requests (events --stats), exits and calls (tracefs)
//! ```

mod container;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::counts::{Counts, Tracer};
use crate::stats::median;
use container::Container;

/// Where things are; all of it should lie on a tmpfs.
#[derive(Args, Debug)]
pub(crate) struct IoArgs {
    /// The `vmrun` binary.
    #[arg(long)]
    vmrun: PathBuf,
    /// The program that the containers run.
    #[arg(long)]
    program: PathBuf,
    /// A folder for bundles, stores and files.
    #[arg(long)]
    scratch: PathBuf,
    /// Times that each operation is done while it is counted.
    #[arg(long, default_value_t = 100)]
    count: u32,
    /// Rounds of the storm.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Files of the storm.
    #[arg(long, default_value_t = 2000)]
    files: u32,
    /// Another kernel for the sandbox.
    #[arg(long)]
    kernel: Option<PathBuf>,
}

/// What is counted; `stat_birth` asks for the time of birth as well (`statx`).
const OPERATIONS: [&str; 19] = [
    "nothing",
    "create",
    "create_exclusive",
    "create_write",
    "stat_known",
    "stat_cold",
    "stat_birth_cold",
    "open_cold",
    "open",
    "close",
    "open_read_close",
    "read_cold",
    "write",
    "append",
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
    "readdir",
];

pub(crate) fn run(args: &IoArgs) -> Result<(), Box<dyn Error>> {
    let options: Vec<&str> = match &args.kernel {
        Some(kernel) => vec!["--kernel", kernel.to_str().ok_or("the kernel's path is no text")?],
        None => Vec::new(),
    };
    let mut ours = Container::start("vmrun", &args.vmrun, &options, args)?;
    count(&mut ours, args)?;
    if args.rounds > 0 {
        let mut theirs = Container::start("crun", Path::new("crun"), &[], args)?;
        storm(&mut [&mut ours, &mut theirs], args)?;
    }
    Ok(())
}

fn count(container: &mut Container, args: &IoArgs) -> Result<(), Box<dyn Error>> {
    let tracer = Tracer::new()?;
    let pid = container.machine_pid()?;
    println!(
        "per operation: requests by kind; VM exits, interrupts of the guest, system calls of the monitor"
    );
    for operation in OPERATIONS {
        container.tell(&format!("prepare {operation} {}", args.count))?;
        let requests = container.requests()?;
        let before = tracer.counts(pid)?;
        container.tell(&format!("{operation} {}", args.count))?;
        let counts = tracer.counts(pid)? - before;
        let requests = difference(&requests, &container.requests()?);
        println!("{}", row(operation, &requests, &counts, args.count));
    }
    Ok(())
}

fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = |name: &String, count: &u64| count.saturating_sub(before.get(name).copied().unwrap_or(0));
    let grown = after.iter().map(|(name, count)| (name.clone(), more(name, count)));
    grown.filter(|(_, more)| *more > 0).collect()
}

#[allow(clippy::cast_precision_loss, reason = "a figure for a human")]
fn row(operation: &str, requests: &BTreeMap<String, u64>, counts: &Counts, times: u32) -> String {
    let each = |count: u64| count as f64 / f64::from(times);
    let is_kind = |name: &str| !matches!(name, "kicks" | "interrupts");
    let other = |name: &str| each(requests.get(name).copied().unwrap_or(0));
    let kinds: Vec<_> = requests.iter().filter(|(name, _)| is_kind(name)).collect();
    let total = each(kinds.iter().map(|(_, count)| **count).sum());
    let kinds: Vec<String> =
        kinds.iter().map(|(name, count)| format!("{name} {:.2}", each(**count))).collect();
    let Counts { exits, interrupts, calls } = *counts;
    let [exits, interrupts, calls] = [exits, interrupts, calls].map(each);
    let kinds = kinds.join(", ");
    format!(
        "io_{operation}: {total:.2} requests ({kinds}), {:.2} kicks, {:.2} interrupts; {exits:.1} exits, {interrupts:.1} guest interrupts, {calls:.1} calls",
        other("kicks"),
        other("interrupts"),
    )
}

/// Both sides in turns, first one, then the other.
fn storm(sides: &mut [&mut Container; 2], args: &IoArgs) -> Result<(), Box<dyn Error>> {
    const PHASES: [&str; 3] = ["create", "stat", "unlink"];
    let mut seconds: [[Vec<f64>; 3]; 2] = Default::default();
    for round in 0..=args.rounds {
        for (side, seconds) in sides.iter_mut().zip(&mut seconds) {
            let said = side.tell(&format!("storm files {}", args.files))?;
            let figures = said.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
            for (figure, seconds) in figures.into_iter().zip(seconds) {
                if round > 0 {
                    seconds.push(figure);
                }
            }
        }
        eprintln!("storm {round} of {}", args.rounds);
    }
    for (index, phase) in PHASES.iter().enumerate() {
        let [ours, theirs] = [median(&seconds[0][index]), median(&seconds[1][index])];
        println!("storm_{phase}_vmrun: {ours:.4} s");
        println!("storm_{phase}_crun: {theirs:.4} s");
        println!("storm_{phase}_vs_crun: {:.1} ratio", ours / theirs);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_tells_requests_of_one_operation() {
        let figures =
            |create, open| BTreeMap::from([("create".to_owned(), create), ("open".to_owned(), open)]);
        let requests = difference(&figures(5, 3), &figures(25, 3));
        let counts = Counts { exits: 40, interrupts: 20, calls: 10 };
        assert_eq!(
            row("create", &requests, &counts, 10),
            "io_create: 2.00 requests (create 2.00), 0.00 kicks, 0.00 interrupts; 4.0 exits, 2.0 guest interrupts, 1.0 calls"
        );
    }
}
