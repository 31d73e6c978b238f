//! What `vmrun run` and `vmrun create` have in common.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use vmrun_runtime::{AssetOptions, Error, LaunchMode, LaunchOptions, Store};

use crate::embedded::embedded;
use crate::globals::Globals;

/// Options of both verbs.
#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    /// Name of the container
    id: String,

    /// Directory with config.json and the root file system
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,

    /// File for the pid of the process that stands for the container
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

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

    /// What bundles may boot on this host [default: /etc/vmrun/policy.json]
    #[arg(long, value_name = "FILE", env = "VMRUN_POLICY", hide_env_values = true)]
    policy: Option<PathBuf>,

    /// Unix socket that gets a descriptor of the process that stands for the container
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,

    /// Taken for runc's sake: whatever the host's root file system is on, the guest's can be changed
    #[arg(long, hide = true)]
    no_pivot: bool,

    /// Not supported: the guest always makes a new session keyring
    #[arg(long, hide = true)]
    no_new_keyring: bool,

    /// Not supported but for 0: descriptors cannot enter a virtual machine
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    preserve_fds: u32,
}

impl LaunchArgs {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn launch(
        self,
        store: &Store,
        globals: &Globals,
        mode: LaunchMode,
        keep: bool,
    ) -> Result<u8, Error> {
        refuse_what_has_no_meaning(&self)?;
        let options = LaunchOptions {
            mode,
            id: self.id,
            bundle: self.bundle,
            pid_file: self.pid_file,
            keep,
            console_socket: self.console_socket,
            pidfd_socket: self.pidfd_socket,
            log: globals.log(),
            systemd_cgroup: globals.systemd_cgroup,
            vcpus: self.vcpus,
            memory_mib: self.memory,
            assets: AssetOptions { kernel: self.kernel, initramfs: self.initramfs, directory: self.assets },
            kernel_params: self.kernel_param,
            policy: self.policy,
        };
        vmrun_runtime::launch(store, &options, embedded())
    }
}

fn refuse_what_has_no_meaning(args: &LaunchArgs) -> Result<(), Error> {
    let table = [
        (args.no_new_keyring, "--no-new-keyring", "the guest always makes a new session keyring"),
        (
            args.preserve_fds > 0,
            "--preserve-fds",
            "file descriptors cannot enter a virtual machine; give the program files in a volume instead",
        ),
    ];
    match table.into_iter().find(|(given, ..)| *given) {
        Some((_, option, why)) => Err(Error::Option { option, why }),
        None => Ok(()),
    }
}
