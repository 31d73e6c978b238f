//! `make bench-net`: what a sandbox's network carries, against QEMU microvm and crun.
//!
//! ```text
//!   far namespace: iperf3, ping, wrk ── veth ── near namespace: crun's container
//!                                    ── veth ═ tc ═ tap ── vmrun's guest, QEMU's guest
//!                                    ── tap ── QEMU's guest
//! ```
//!
//! The sides have the same programs, kernel, memory and processor, and take their turns in each round.

mod lab;
mod load;
mod report;
mod side;
mod start;

use std::error::Error;
use std::path::PathBuf;

use clap::Args;

use crate::counts::Tracer;
use lab::Lab;
use load::LOADS;
use report::Report;
use side::Side;

/// Where things are; all of it should lie on a tmpfs.
#[derive(Args, Debug)]
pub(crate) struct NetArgs {
    /// The `vmrun` binary.
    #[arg(long)]
    vmrun: PathBuf,
    /// A root file system with iperf3, nginx and /srv/serve, which starts them.
    #[arg(long)]
    rootfs: PathBuf,
    /// The guest kernel, ELF.
    #[arg(long)]
    kernel: PathBuf,
    /// The same root file system as a boot image for QEMU.
    #[arg(long)]
    initramfs: PathBuf,
    /// The kernel's parameters, one a line.
    #[arg(long)]
    cmdline: PathBuf,
    /// A folder for bundles, stores and logs.
    #[arg(long)]
    scratch: PathBuf,
    /// Where to write everything as JSON.
    #[arg(long)]
    json: PathBuf,
    /// Rounds that are timed; one more counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each load.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Loads whose names have this in them; `start` for the starts alone.
    #[arg(long, default_value = "")]
    only: String,
    /// Sides, by their names.
    #[arg(long, value_delimiter = ',', default_value = "vmrun,qemu,qemu_tap,qemu_vhost,crun")]
    sides: Vec<String>,
    /// Pairs of starts, with interfaces and without, of each kind.
    #[arg(long, default_value_t = 21)]
    starts: u32,
    /// The clock counts instructions (the testbed's `--counted`): the names of figures say so. Of starts, those of vmrun alone:
    /// what another one reads of its files would be waited for.
    #[arg(long)]
    counted: bool,
}

pub(crate) fn run(args: &NetArgs) -> Result<(), Box<dyn Error>> {
    let mut report = Report::new(if args.counted { "counted_" } else { "" });
    if args.only != "start" {
        carry(args, &mut report)?;
    }
    if args.starts > 0 {
        start::run(args, &mut report)?;
    }
    report.print();
    report.save(&args.json)
}

fn carry(args: &NetArgs, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let lab = Lab::new()?;
    let kinds = side::kinds(&args.sides)?;
    let sides = (1..).zip(kinds).map(|(number, kind)| Side::start(kind, number, &lab, args));
    let sides = sides.collect::<Result<Vec<_>, _>>()?;
    for side in &sides {
        side.await_ready(&lab)?;
    }
    let loads: Vec<_> = LOADS.iter().filter(|load| load.name.contains(&args.only)).collect();
    for round in 0..args.rounds {
        for load in &loads {
            for side in &sides {
                let figure = load.run(&lab, &side.address(), args.seconds)?;
                report.add(load, side.name(), figure.rate);
            }
        }
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    let tracer = Tracer::new()?;
    for load in &loads {
        for side in &sides {
            let Some(pid) = side.machine_pid() else { continue };
            let (card, before) = (side.card()?, tracer.counts(pid)?);
            let figure = load.run(&lab, &side.address(), args.seconds)?;
            let counts = tracer.counts(pid)? - before;
            report.count(load, side.name(), &counts, figure.work);
            if let (Some(card), Some(after)) = (card, side.card()?) {
                report.count_card(load, card, after, figure.work);
            }
        }
    }
    Ok(())
}
