//! Times whole processes against each other, alternately in one run, so that
//! whatever else the machine does hits both sides alike.

mod boot;
mod counts;
mod io;
mod memory;
mod net;
mod process;
mod stats;
mod verbs;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Times vmrun against its peers, alternately in one run")]
struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Cold `vmrun run` of /bin/true against QEMU microvm and crun.
    Boot(boot::BootArgs),
    /// What a program's files cost, counted, and the time of many small ones against crun.
    Io(io::IoArgs),
    /// What a sandbox's network carries, against QEMU microvm and crun.
    Net(net::NetArgs),
    /// `exec` and `state` of a container that runs, against crun.
    Verbs(verbs::VerbsArgs),
    /// Write a boot image of the agent's size whose init ends the machine at once.
    PoweroffImage {
        /// The init program.
        init: PathBuf,
        /// The boot image whose size to match.
        like: PathBuf,
        /// Where to write.
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().bench {
        Bench::Boot(args) => boot::run(&args),
        Bench::Io(args) => io::run(&args),
        Bench::Net(args) => net::run(&args),
        Bench::Verbs(args) => verbs::run(&args),
        Bench::PoweroffImage { init, like, out } => poweroff_image(&init, &like, &out),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmrun-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn poweroff_image(init: &PathBuf, like: &PathBuf, out: &PathBuf) -> Result<(), Box<dyn Error>> {
    let mut init = std::fs::read(init)?;
    let size = usize::try_from(std::fs::metadata(like)?.len())?;
    let own = vmrun_initramfs::image(&init)?.len();
    init.resize(init.len() + size.saturating_sub(own), 0);
    Ok(std::fs::write(out, vmrun_initramfs::image(&init)?)?)
}
