//! `make bench-boot`: the whole process, from the first fork to the exit code.

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use crate::memory::private_besides_guest;
use crate::stats::Samples;

const GUEST_MIB: u32 = 256;

/// Where things are; all of it should lie on a tmpfs.
#[derive(Args, Debug)]
pub(crate) struct BootArgs {
    /// The `vmrun` binary.
    #[arg(long)]
    vmrun: PathBuf,
    /// A bundle whose program is /bin/true.
    #[arg(long)]
    bundle: PathBuf,
    /// A bundle whose program is `cat`, to look at a sandbox that runs.
    #[arg(long)]
    idle_bundle: PathBuf,
    /// The guest kernel, ELF.
    #[arg(long)]
    kernel: PathBuf,
    /// A boot image whose init ends the machine.
    #[arg(long)]
    initramfs: PathBuf,
    /// The kernel's parameters, one a line.
    #[arg(long)]
    cmdline: PathBuf,
    /// Rounds that count; one more comes first and does not, in which the template of the warm ones is made.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
}

type Side<'a> = (&'a str, Box<dyn Fn() -> Command + 'a>);

pub(crate) fn run(args: &BootArgs) -> Result<(), Box<dyn Error>> {
    let parameters = parameters(&args.cmdline)?;
    let memory = GUEST_MIB.to_string();
    let sides: [Side<'_>; 5] = [
        ("vmrun", Box::new(|| container(&args.vmrun, &args.bundle, &["--cold", "--memory", &memory]))),
        ("vmrun_warm", Box::new(|| container(&args.vmrun, &args.bundle, &["--memory", &memory]))),
        ("qemu_microvm", Box::new(|| qemu(args, &parameters))),
        ("crun", Box::new(|| container(Path::new("crun"), &args.bundle, &[]))),
        ("spawn", Box::new(|| Command::new("/bin/true"))),
    ];
    let mut samples: Vec<Samples> = sides.iter().map(|_| Samples::default()).collect();
    for round in 0..=args.rounds {
        for ((name, command), samples) in sides.iter().zip(&mut samples) {
            renew_free_memory();
            let time = time(name, command())?;
            if round > 0 {
                samples.add(time);
            }
        }
        eprintln!("round {round} of {}", args.rounds);
    }
    let medians: Vec<f64> = samples.iter().map(Samples::median).collect();
    let private = monitor_private(args)?;
    for ((name, _), samples) in sides.iter().zip(&samples) {
        println!("{name}_median: {:.3} s", samples.median());
        println!("{name}_min: {:.3} s", samples.min());
        println!("{name}_max: {:.3} s", samples.max());
    }
    println!("cold_vs_qemu_microvm: {:.2} ratio", medians[0] / medians[2]);
    println!("cold_vs_crun: {:.2} ratio", medians[0] / medians[3]);
    println!("warm_vs_cold: {:.2} ratio", medians[1] / medians[0]);
    println!("warm_vs_crun: {:.2} ratio", medians[1] / medians[3]);
    println!("monitor_private: {:.1} MiB", megabytes(private));
    println!("vmrun_file: {:.1} MiB", megabytes(fs::metadata(&args.vmrun)?.len()));
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a size for a human")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The kernel's parameters as one line.
pub(crate) fn parameters(file: &Path) -> Result<String, Box<dyn Error>> {
    let text = fs::read_to_string(file)?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "))
}

fn container(runtime: &Path, bundle: &Path, extra: &[&str]) -> Command {
    let mut command = Command::new(runtime);
    command.arg("run").args(extra).arg("--bundle").arg(bundle).arg("bench-boot");
    command
}

/// QEMU with the least that boots this kernel.
fn qemu(args: &BootArgs, parameters: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=off"])
        .args(["-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", &GUEST_MIB.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&args.kernel)
        .arg("-initrd")
        .arg(&args.initramfs)
        .args(["-append", parameters]);
    command
}

/// Writes over memory that is free. Where the CPU is emulated, the first write to a
/// page that has ever held instructions costs a thousand times a write, so that
/// each command would pay for what the ones before it have run; on a real CPU this
/// changes nothing.
pub(crate) fn renew_free_memory() {
    const BYTES: usize = 256 << 20;
    drop(std::hint::black_box(vec![1_u8; BYTES]));
}

fn time(name: &str, mut command: Command) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let elapsed = start.elapsed();
    let status: ExitStatus = status.map_err(|error| format!("cannot start {name}: {error}"))?;
    if status.success() { Ok(elapsed) } else { Err(format!("{name} failed: {status}").into()) }
}

/// Private memory of a monitor whose container has answered once and is idle.
fn monitor_private(args: &BootArgs) -> Result<u64, Box<dyn Error>> {
    let pid_file = args.bundle.join("monitor.pid");
    let pid_option = pid_file.to_str().ok_or("the bundle's path is not UTF-8")?;
    let options = ["--cold", "--memory", &GUEST_MIB.to_string(), "--pid-file", pid_option];
    let mut command = container(&args.vmrun, &args.idle_bundle, &options);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let echoed = (|| {
        child.stdin.as_mut().ok_or("no stdin")?.write_all(b"x")?;
        let mut byte = [0];
        child.stdout.as_mut().ok_or("no stdout")?.read_exact(&mut byte)?;
        let pid = fs::read_to_string(&pid_file)?.trim().parse()?;
        private_besides_guest(pid, u64::from(GUEST_MIB) << 20)
    })();
    drop(child.stdin.take());
    let status = child.wait()?;
    if status.success() { echoed } else { Err(format!("the idle sandbox failed: {status}").into()) }
}
