//! `vmrun run`.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use vmrun_runtime::{AssetOptions, Error, RunOptions, Store};

use crate::embedded::embedded;

/// Run a container and wait for its end
///
/// The exit code is the program's (128 + n when signal n ended it), 127 when the
/// program does not exist, 126 when it cannot be executed, and 1 when the
/// container could not be made.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Name of the container
    id: String,

    /// Directory with config.json and the root file system
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,

    /// File for the pid of the process that stands for the container
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Return when the program has started
    #[arg(short, long)]
    detach: bool,

    /// Keep the container in the store when it has ended
    #[arg(long)]
    keep: bool,

    /// Unix socket that gets the master end of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,

    /// vCPUs of the machine [default: the CPU quota rounded up, else 1]
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,

    /// Memory of the machine [default: the memory limit and what the guest needs, else 256]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,

    /// Guest kernel: ELF vmlinux or bzImage [default: the one inside vmrun]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Boot image with the agent [default: the one inside vmrun]
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,

    /// Directory with vmlinux and initramfs.cpio, for development
    #[arg(long, value_name = "DIR", env = "VMRUN_ASSETS", hide_env_values = true)]
    assets: Option<PathBuf>,

    /// One more kernel parameter; may be repeated
    #[arg(long, value_name = "PARAM", action = ArgAction::Append)]
    kernel_param: Vec<String>,

    /// Not supported: the container always gets a root of its own in the guest
    #[arg(long, hide = true)]
    no_pivot: bool,

    /// Not supported: the guest always makes a new session keyring
    #[arg(long, hide = true)]
    no_new_keyring: bool,

    /// Not supported but for 0: descriptors cannot enter a virtual machine
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    preserve_fds: u32,
}

impl RunArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot run {:?}", self.id)
    }
}

pub(crate) fn run(store: &Store, args: RunArgs, log: Option<PathBuf>) -> Result<u8, Error> {
    refuse_what_has_no_meaning(&args)?;
    let options = RunOptions {
        id: args.id,
        bundle: args.bundle,
        pid_file: args.pid_file,
        detach: args.detach,
        keep: args.keep,
        console_socket: args.console_socket,
        log: log.map(|path| std::path::absolute(&path).unwrap_or(path)),
        vcpus: args.vcpus,
        memory_mib: args.memory,
        assets: AssetOptions { kernel: args.kernel, initramfs: args.initramfs, directory: args.assets },
        kernel_params: args.kernel_param,
    };
    vmrun_runtime::run(store, &options, embedded())
}

fn refuse_what_has_no_meaning(args: &RunArgs) -> Result<(), Error> {
    let table = [
        (args.no_pivot, "--no-pivot", "the container always gets a root of its own in the guest"),
        (args.no_new_keyring, "--no-new-keyring", "the guest always makes a new session keyring"),
        (args.preserve_fds > 0, "--preserve-fds", "file descriptors cannot enter a virtual machine"),
    ];
    match table.into_iter().find(|(given, ..)| *given) {
        Some((_, option, why)) => Err(Error::Option { option, why }),
        None => Ok(()),
    }
}
