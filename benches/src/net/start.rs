//! How much later a sandbox starts with interfaces than without.

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::NetArgs;
use super::counts::{Counts, Tracer};
use super::lab::Lab;
use super::process::call;
use super::report::Report;
use super::side;
use crate::boot::renew_free_memory;
use crate::stats::Samples;

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
        side::bundle(&folder(name), &args.rootfs, &["/bin/true"], &namespace)?;
    }
    let command = |runtime: &Path, name: &str| {
        let mut command = side::runtime(runtime, &args.scratch.join("start-store"), &["run", "--bundle"]);
        command.arg(folder(name)).arg("bench-start").stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let mut samples: Vec<Samples> = Vec::new();
    samples.resize_with(CASES.len() * runtimes.len(), Samples::default);
    for round in 0..=args.starts {
        let mut samples = samples.iter_mut();
        for (_, runtime) in runtimes {
            for (name, ..) in CASES {
                renew_free_memory();
                let begun = Instant::now();
                succeed(command(runtime, name))?;
                let elapsed = begun.elapsed();
                if let (Some(samples), 1..) = (samples.next(), round) {
                    samples.add(elapsed);
                }
            }
        }
        eprintln!("start {round} of {}", args.starts);
    }
    let medians: Vec<f64> = samples.iter().map(Samples::median).collect();
    for ((runtime, _), medians) in runtimes.iter().zip(medians.chunks(CASES.len())) {
        for ((name, ..), median) in CASES.iter().zip(medians) {
            report.figure(&format!("start_{runtime}_{name}"), *median, "s");
        }
    }
    for (name, ..) in CASES {
        let Counts { exits, interrupts, calls } = counts(|| succeed(command(&args.vmrun, name)))?;
        for (what, count) in [("exits", exits), ("interrupts", interrupts), ("calls", calls)] {
            report.figure(&format!("start_vmrun_{name}_{what}"), f64::from(u32::try_from(count)?), "times");
        }
    }
    report.figure("start_one_interface_later", 100.0 * (medians[1] / medians[0] - 1.0), "%");
    report.figure("mirror_three_interfaces_100_routes", 1e3 * (medians[2] - medians[0]), "ms");
    Ok(())
}

fn succeed(mut command: Command) -> Result<(), Box<dyn Error>> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

/// What all processes have done in the meantime.
fn counts(act: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Counts, Box<dyn Error>> {
    let tracer = Tracer::new()?;
    let before = tracer.counts_of_others()?;
    act()?;
    Ok(tracer.counts_of_others()? - before)
}
