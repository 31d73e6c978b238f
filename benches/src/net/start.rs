//! How much later the program of a sandbox runs with interfaces than without: the time from the command to the
//! program's first byte of output, in pairs of starts that take turns.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::NetArgs;
use super::lab::Lab;
use super::report::Report;
use super::side;
use crate::boot::renew_free_memory;
use crate::counts::{Counts, Tracer};
use crate::process::call;
use crate::stats;

/// A network, the container's number in it, its interfaces, and its routes besides those of addresses.
const CASES: [(&str, u8, u8, u8); 3] = [("loopback", 101, 0, 0), ("one", 102, 1, 1), ("three", 103, 3, 100)];

/// The kernel ends what the start before had, like its virtual machine, when nobody waits for it any more.
const BETWEEN: Duration = Duration::from_millis(300);

/// Two starts, one right after the other: they had the same neighbours on the machine.
#[derive(Clone, Copy, Debug)]
struct Pair {
    /// With loopback alone.
    without: Duration,
    with: Duration,
}

impl Pair {
    /// How much later the second is.
    fn milliseconds(&self) -> f64 {
        1e3 * (self.with.as_secs_f64() - self.without.as_secs_f64())
    }

    fn percent(&self) -> f64 {
        100.0 * (self.with.as_secs_f64() / self.without.as_secs_f64() - 1.0)
    }
}

/// A runtime's starts, with each of the cases that have interfaces.
struct Side<'a> {
    name: &'static str,
    runtime: &'a Path,
    pairs: [Vec<Pair>; 2],
}

impl Side<'_> {
    fn report(&self, report: &mut Report) {
        let name = self.name;
        let mut figure = |case: &str, starts: &mut dyn Iterator<Item = Duration>| {
            let seconds: Vec<f64> = starts.map(|start| start.as_secs_f64()).collect();
            report.figure(&format!("start_{name}_{case}"), stats::median(&seconds), "s");
        };
        figure(CASES[0].0, &mut self.pairs.iter().flatten().map(|pair| pair.without));
        for ((case, ..), pairs) in CASES[1..].iter().zip(&self.pairs) {
            figure(case, &mut pairs.iter().map(|pair| pair.with));
        }
    }
}

pub(super) fn run(args: &NetArgs, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let lab = Lab::new()?;
    let runtimes: [(&'static str, &Path); 2] = [("vmrun", &args.vmrun), ("crun", Path::new("crun"))];
    let folder = |name: &str| args.scratch.join(format!("start-{name}"));
    for (name, number, interfaces, routes) in CASES {
        let namespace = format!("vmrun-bench-{name}");
        lab.linked(&namespace, number, interfaces)?;
        for interface in 0..interfaces {
            Lab::address(&namespace, number, interface)?;
        }
        for route in 0..routes {
            let interface = route % interfaces;
            let gateway = format!("10.77.{number}.{}", 8 * interface + 1);
            call(&format!(
                "ip -n {namespace} route add 10.78.{route}.0/24 via {gateway} dev eth{interface}"
            ))?;
        }
        side::bundle(&folder(name), &args.rootfs, &["/bin/echo", "up"], &namespace)?;
    }
    let command = |runtime: &Path, name: &str| {
        let mut command = side::runtime(runtime, &args.scratch.join("start-store"), &["run", "--bundle"]);
        command.arg(folder(name)).arg("bench-start").stdin(Stdio::null());
        command
    };
    let timed = |runtime: &Path, name: &str| {
        renew_free_memory();
        thread::sleep(BETWEEN);
        until_output(command(runtime, name))
    };
    let runtimes = &runtimes[..if args.counted { 1 } else { runtimes.len() }];
    let side = |(name, runtime)| Side { name, runtime, pairs: [const { Vec::new() }; 2] };
    let mut sides: Vec<_> = runtimes.iter().copied().map(side).collect();
    for round in 0..=args.starts {
        for side in &mut sides {
            for ((name, ..), pairs) in CASES[1..].iter().zip(&mut side.pairs) {
                // Who is first in a pair takes turns, too.
                let pair = if round % 2 == 0 {
                    let without = timed(side.runtime, CASES[0].0)?;
                    Pair { without, with: timed(side.runtime, name)? }
                } else {
                    let with = timed(side.runtime, name)?;
                    Pair { without: timed(side.runtime, CASES[0].0)?, with }
                };
                // The first round is for what is read for the first time.
                if round > 0 {
                    pairs.push(pair);
                }
            }
        }
        eprintln!("start {round} of {}", args.starts);
    }
    for side in &sides {
        side.report(report);
    }
    for (name, ..) in CASES {
        let Counts { exits, interrupts, calls } = counts(|| succeed(command(&args.vmrun, name)))?;
        for (what, count) in [("exits", exits), ("interrupts", interrupts), ("calls", calls)] {
            report.figure(&format!("start_vmrun_{name}_{what}"), f64::from(u32::try_from(count)?), "times");
        }
    }
    let [one, three] = &sides[0].pairs;
    report.quartiles("start_one_interface_later", one.iter().map(Pair::percent).collect(), "%");
    let later = three.iter().map(Pair::milliseconds).collect();
    report.quartiles("mirror_three_interfaces_100_routes", later, "ms");
    Ok(())
}

/// From the command to the program's first byte.
fn until_output(mut command: Command) -> Result<Duration, Box<dyn Error>> {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut output = child.stdout.take().ok_or("there is no pipe")?;
    let first = output.read_exact(&mut [0]);
    let elapsed = begun.elapsed();
    let status = child.wait()?;
    first.map_err(|error| format!("{command:?}: {status}, without output: {error}"))?;
    if status.success() { Ok(elapsed) } else { Err(format!("{command:?}: {status}").into()) }
}

fn succeed(mut command: Command) -> Result<(), Box<dyn Error>> {
    let status = command.stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

/// What all processes have done in the meantime.
fn counts(act: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Counts, Box<dyn Error>> {
    let tracer = Tracer::new()?;
    let before = tracer.counts_of_others()?;
    act()?;
    Ok(tracer.counts_of_others()? - before)
}
