//! `vmrun-initramfs AGENT OUT`: writes the guest boot image.

use std::env;
use std::error::Error;
use std::fs;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().skip(1).collect();
    let [agent, out] = args.as_slice() else {
        eprintln!("usage: vmrun-initramfs AGENT OUT");
        return ExitCode::from(2);
    };
    let (agent, out) = (agent.as_ref(), out.as_ref());
    match write(agent, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmrun-initramfs: cannot write {} from {}: {error}", out.display(), agent.display());
            ExitCode::FAILURE
        }
    }
}

fn write(agent: &std::path::Path, out: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let agent = fs::read(agent).map_err(|error| format!("reading the agent: {error}"))?;
    Ok(fs::write(out, vmrun_initramfs::image(&agent)?)?)
}
