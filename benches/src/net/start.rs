//! How much later the program of a sandbox runs with interfaces than without: the time from the command to the
//! program's first byte of output.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::NetArgs;
use super::counts::{Counts, Tracer};
use super::lab::Lab;
use super::process::call;
use super::report::Report;
use super::side;
use crate::boot::renew_free_memory;
use crate::stats;

/// A network, the container's number in it, its interfaces, and its routes besides those of addresses.
const CASES: [(&str, u8, u8, u8); 3] = [("loopback", 101, 0, 0), ("one", 102, 1, 1), ("three", 103, 3, 100)];

pub(super) fn run(args: &NetArgs, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let lab = Lab::new()?;
    let runtimes = [("vmrun", args.vmrun.as_path()), ("crun", Path::new("crun"))];
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
    let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); CASES.len() * runtimes.len()];
    for round in 0..=args.starts {
        let mut seconds = seconds.iter_mut();
        for (_, runtime) in runtimes {
            for (name, ..) in CASES {
                renew_free_memory();
                let elapsed = until_output(command(runtime, name))?;
                if let (Some(seconds), 1..) = (seconds.next(), round) {
                    seconds.push(elapsed.as_secs_f64());
                }
            }
        }
        eprintln!("start {round} of {}", args.starts);
    }
    for ((runtime, _), seconds) in runtimes.iter().zip(seconds.chunks(CASES.len())) {
        for ((name, ..), seconds) in CASES.iter().zip(seconds) {
            report.figure(&format!("start_{runtime}_{name}"), stats::median(seconds), "s");
        }
    }
    // Of each round by itself: its starts had the same neighbours on the machine.
    let later = |case: usize, later: fn(f64, f64) -> f64| {
        let rounds: Vec<f64> =
            seconds[case].iter().zip(&seconds[0]).map(|(with, without)| later(*with, *without)).collect();
        stats::median(&rounds)
    };
    for (name, ..) in CASES {
        let Counts { exits, interrupts, calls } = counts(|| succeed(command(&args.vmrun, name)))?;
        for (what, count) in [("exits", exits), ("interrupts", interrupts), ("calls", calls)] {
            report.figure(&format!("start_vmrun_{name}_{what}"), f64::from(u32::try_from(count)?), "times");
        }
    }
    report.figure("start_one_interface_later", later(1, |with, without| 100.0 * (with / without - 1.0)), "%");
    report.figure(
        "mirror_three_interfaces_100_routes",
        later(2, |with, without| 1e3 * (with - without)),
        "ms",
    );
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
