//! What `vmrun run` and `vmrun create` have in common.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use clap::{ArgAction, Args};
use vmrun_runtime::{
    AssetOptions, Error, LaunchMode, LaunchOptions, NetworkChoice, PublishedPort, Store, published_port,
};

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

    /// Network of a sandbox that stands alone: none (loopback), user (the caller's, through passt), or
    /// user:host-loopback (with the host's loopback behind the gateway) [default: the bundle's]
    #[arg(long, value_name = "NETWORK", value_parser = NetworkChoice::from_str)]
    network: Option<NetworkChoice>,

    /// Port of the host that leads into the guest, as [ADDRESS:]HOST:GUEST[/udp]; may be repeated
    #[arg(short, long, value_name = "PORT", action = ArgAction::Append, value_parser = published_port)]
    publish: Vec<PublishedPort>,

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

/// What the two differ in.
#[derive(Debug)]
pub(crate) struct Stay {
    pub(crate) mode: LaunchMode,
    /// The container stays in the store.
    pub(crate) keep: bool,
    /// Where the start's timeline goes.
    pub(crate) timeline: Option<PathBuf>,
    /// When this process began.
    pub(crate) began: Instant,
}

impl LaunchArgs {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn launch(self, store: &Store, globals: &Globals, stay: Stay) -> Result<u8, Error> {
        refuse_what_has_no_meaning(&self)?;
        let options = LaunchOptions {
            mode: stay.mode,
            id: self.id,
            bundle: self.bundle,
            pid_file: self.pid_file,
            keep: stay.keep,
            console_socket: self.console_socket,
            pidfd_socket: self.pidfd_socket,
            log: globals.log(),
            systemd_cgroup: globals.systemd_cgroup,
            vcpus: self.vcpus,
            memory_mib: self.memory,
            assets: AssetOptions { kernel: self.kernel, initramfs: self.initramfs, directory: self.assets },
            kernel_params: self.kernel_param,
            policy: self.policy,
            templates: globals.templates(),
            timeline: stay.timeline,
            began: stay.began,
            network: self.network,
            ports: self.publish,
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
